"""Kronecker: the Kronecker product of small mixtures of permutations (KromHC, arXiv 2601.21579)."""

from __future__ import annotations

import itertools
import math

import torch
from jaxtyping import Float
from torch import Tensor

from mhc_ref.dialect import Dialect
from mhc_ref.packing import streams_of_logits
from mhc_ref.registry import Field

BY_STREAM = False
MOST_STREAMS = None
LARGEST = 5
"""The largest factor: it has as many coefficients as there are permutations of it."""

FIELDS = {
    "factors": Field(
        (),
        # what is in a tuple that anybody gave is unknown until it is looked at
        lambda given: isinstance(given, tuple) and all(type(k) is int and 2 <= k <= LARGEST for k in given),  # pyright: ignore[reportUnknownVariableType]
        f"a tuple of whole numbers from 2 to {LARGEST}, or () for factors of 2 and what is left",
        "the sizes of the factors from left to right, whose product is n",
    )
}


def factors(n: int, dialect: Dialect) -> tuple[int, ...]:
    """The sizes of the factors, the slowest index first: those of the dialect, or 2s and then what is left.

    For n = 1 there is one factor, of size 1.

    Raises:
        ValueError: the factors of the dialect make another n, or what is left is above 5.
    """
    if dialect.factors:
        if math.prod(dialect.factors) != n:
            raise ValueError(f"n is {n}; the factors {dialect.factors} make {math.prod(dialect.factors)} streams")
        return dialect.factors
    twos, left = 0, n
    while left > 1 and left % 2 == 0:
        twos, left = twos + 1, left // 2
    if not 1 <= left <= LARGEST:
        raise ValueError(
            f"n is {n}; its factors are 2s and {left}, and one of size k has k! terms and k up to {LARGEST}"
        )
    return (2,) * twos + ((left,) if left > 1 or not twos else ())


def shape(n: int, dialect: Dialect) -> tuple[int, ...]:
    """One line of k! coefficients a factor of size k; all in one line where the sizes differ."""
    counts = [math.factorial(k) for k in factors(n, dialect)]
    return (len(counts), counts[0]) if len(set(counts)) == 1 else (sum(counts),)


def permutation_matrices(k: int) -> Float[Tensor, "k_factorial k k"]:
    """All k! permutation matrices in `itertools.permutations` order, P[i, p(i)] = 1, float64."""
    return torch.eye(k, dtype=torch.float64)[torch.tensor(list(itertools.permutations(range(k))))]


def by_factor(logits: Float[Tensor, "*tokens size"], sizes: tuple[int, ...]) -> list[Tensor]:
    """The coefficients of each factor [..., k!], of logits in one line."""
    return list(logits.split([math.factorial(k) for k in sizes], -1))


def product(left: Float[Tensor, "*tokens a a"], right: Float[Tensor, "*tokens b b"]) -> Float[Tensor, "*tokens ab ab"]:
    """The Kronecker product, entry [i b + k, j b + l] = left[i, j] right[k, l]."""
    return torch.einsum("...ij,...kl->...ikjl", left, right).flatten(-4, -3).flatten(-2)


def project(logits: Float[Tensor, "*tokens lines"], dialect: Dialect) -> Float[Tensor, "*tokens n n"]:
    """M = U_1 x ... x U_K, U_k = sum_p softmax(its logits)_p P_p; of size 2 that is [[p, 1 - p], [1 - p, p]]."""
    n = streams_of_logits(logits.shape, dialect)
    m = logits.new_ones(*logits.shape[: -len(shape(n, dialect))], 1, 1)
    flat = logits.flatten(-len(shape(n, dialect)))
    for k, one in zip(factors(n, dialect), by_factor(flat, factors(n, dialect)), strict=True):
        m = product(m, torch.einsum("...p,pij->...ij", one.softmax(-1), permutation_matrices(k).to(one)))
    return m
