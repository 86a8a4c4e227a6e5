"""Permutations: a mixture of all n! permutation matrices, weighted by a softmax (mHC-lite, arXiv 2601.05732)."""

from __future__ import annotations

import itertools
import math

import torch
from jaxtyping import Float
from torch import Tensor

from mhc_ref.dialect import Dialect

BY_STREAM = False
MOST_STREAMS = 5
"""Largest n: there are n! coefficients a token."""


def shape(n: int, dialect: Dialect) -> tuple[int, ...]:
    """One coefficient a permutation, in the order of `itertools.permutations`.

    Raises:
        ValueError: n above 5, where n! coefficients a token are no longer a sensible parametrisation.
    """
    if not 1 <= n <= MOST_STREAMS:
        raise ValueError(f"n is {n}; the permutation mixture has n! terms and takes n from 1 to {MOST_STREAMS}")
    return (math.factorial(n),)


def permutation_matrices(n: int) -> Float[Tensor, "n_factorial n n"]:
    """All n! permutation matrices in `itertools.permutations` order, P_k[i, p_k(i)] = 1, float64."""
    return torch.eye(n, dtype=torch.float64)[torch.tensor(list(itertools.permutations(range(n))))]


def project(logits: Float[Tensor, "*tokens n_factorial"], dialect: Dialect) -> Float[Tensor, "*tokens n n"]:
    """M = sum_k softmax(logits)_k P_k."""
    n = next(n for n in range(1, MOST_STREAMS + 1) if math.factorial(n) == logits.shape[-1])
    return torch.einsum("...k,kij->...ij", logits.softmax(-1), permutation_matrices(n).to(logits))
