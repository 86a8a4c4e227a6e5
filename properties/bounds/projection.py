"""h_res of every dialect, with what rounding can do to its entries, its odds ratios and its sums."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mhc_ref import Dialect
from mhc_ref.families.permutations import permutation_matrices
from properties.bounds.scaling import sinkhorn, sinkhorn_gradient
from properties.bounds.stages import contracted, squash_gradient, squashed
from properties.core.rounding import INF, Approx, Rounding


class Projection(NamedTuple):
    """What rounding can do to h_res, [tokens, n, n] unless said.

    Attributes:
        value: h_res in float64.
        error: absolute, entry by entry; inf where the example leaves the domain (a line lost to underflow).
        entry: relative error of an entry that its line's scalings do *not* share: all that odds ratios can see.
        line: absolute error of the sums along the last-normalised axis, [tokens, n].
    """

    value: Tensor
    error: Tensor
    entry: Tensor
    line: Tensor


def projection(logits: Approx, dialect: Dialect, r: Rounding) -> Projection:
    """h_res of every dialect; `logits` [tokens, n, n] ([tokens, n!] for the permutation mixture)."""
    if dialect.residual == "sinkhorn":
        return Projection(*sinkhorn(logits, dialect, r))
    if dialect.residual == "permutations":
        # (n-1)! coefficients make an entry; the others contribute exact zeros.
        coefficients = squashed(logits, "softmax", r)
        count = coefficients.value.shape[-1]
        n = next(k for k in range(1, 6) if math.factorial(k) == count)
        matrices = permutation_matrices(n)
        value = torch.einsum("...k,kij->...ij", coefficients.value, matrices)
        error = torch.einsum("...k,kij->...ij", coefficients.error, matrices) + r.dot(count) * value
        error = error.nan_to_num(nan=INF, posinf=INF)
    elif dialect.residual == "unconstrained":
        value, error = logits.value, logits.error
    else:
        value = torch.eye(logits.value.shape[-1], dtype=torch.float64).expand_as(logits.value)
        error = torch.zeros_like(value)
    return Projection(value, error, torch.zeros_like(value), error.sum(-1))


def projection_gradient(logits: Approx, cotangent: Approx, dialect: Dialect, r: Rounding) -> Approx:
    """The pullback of `projection`: d <cotangent, h_res> / d logits, shaped like the logits."""
    if dialect.residual == "sinkhorn":
        return sinkhorn_gradient(logits, cotangent, dialect, r)
    if dialect.residual == "unconstrained":
        return cotangent
    if dialect.residual == "identity":
        return Approx.exact(torch.zeros_like(logits.value))
    n = cotangent.value.shape[-1]
    chosen = contracted("...ij,kij->...k", cotangent, Approx.exact(permutation_matrices(n)), n * n, r)
    return squash_gradient(logits, chosen, "softmax", r)
