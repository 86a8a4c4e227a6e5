"""Logits to h_res: the residual mapping of every dialect.

Sinkhorn runs in the log domain. Row and column sums of exp(Z) underflow long before their logarithms do, so this
is the form in which every finite logit is handled as exact arithmetic would; the price is a relative error of
order u * |log M| instead of u, which the bounds admit.
"""

from __future__ import annotations

import itertools
import math

import torch
from jaxtyping import Float
from torch import Tensor

from mhc_ref.dialect import MAX_PERMUTATION_STREAMS, Axis, Denominator, Dialect

_DIM: dict[Axis, int] = {"row": -1, "column": -2}


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision of every stage for a state of `dtype`: float64 for float64, otherwise float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def project(logits: Tensor, dialect: Dialect) -> Float[Tensor, "*tokens n n"]:
    """h_res as emitted, before `transposed`: [..., n, n] -> [..., n, n], or [..., n!] for the permutation mixture.

    Raises:
        ValueError: the logits are not floating point or not of the shape that the dialect needs.
    """
    if not logits.is_floating_point():
        raise ValueError(f"logits are {logits.dtype}; expected a floating-point dtype")
    logits = logits.to(compute_dtype(logits.dtype))
    if dialect.residual == "permutations":
        return permutation_mixture(logits)
    if logits.ndim < 2 or logits.shape[-1] != logits.shape[-2]:
        raise ValueError(f"logits have shape {tuple(logits.shape)}; expected [..., n, n] for {dialect.residual!r}")
    if dialect.residual == "identity":
        return torch.eye(logits.shape[-1], dtype=logits.dtype, device=logits.device).expand(logits.shape)
    if dialect.residual == "unconstrained":
        return logits
    return sinkhorn(logits, dialect)


def sinkhorn(logits: Float[Tensor, "*tokens n n"], dialect: Dialect) -> Float[Tensor, "*tokens n n"]:
    """M = (T_last T_first)^iterations start(Z), mHC eq. (9) with every eps of the dialect."""
    quarter = _started(logits, dialect)
    half_steps: list[Axis] = [dialect.first_axis, dialect.last_axis] * dialect.iterations
    for axis in half_steps[1:] if dialect.softmax_is_first_half_step else half_steps:
        quarter = _normalised(quarter, _DIM[axis], dialect.denominator_eps, dialect.denominator)
    return (4 * quarter).exp()


def _started(logits: Tensor, dialect: Dialect) -> Tensor:
    """log(M) / 4 before the first half-step: a difference of finite logits is at most twice the largest number, which
    divided by 4 is a number still, and a power of two rounds nothing."""
    quarter = logits / 4
    if dialect.start == "softmax":
        quarter = _normalised(quarter, _DIM[dialect.start_axis])
    elif dialect.iterations > 0:
        quarter = quarter - quarter.amax(_DIM[dialect.first_axis], keepdim=True)
    if dialect.entry_eps:
        return torch.logaddexp(4 * quarter, quarter.new_full((), math.log(dialect.entry_eps))) / 4
    return quarter


def _normalised(quarter: Tensor, dim: int, eps: float = 0.0, denominator: Denominator = "add") -> Tensor:
    """M / (s + eps), or M / max(s, eps), s the sums of its lines; log(.) / 4 before and after.

    The maximum of a line goes first, without a derivative: beside a huge one the logarithm of the sum would be lost.
    """
    top = quarter.detach().amax(dim, keepdim=True)
    below = quarter - top
    rest = (4 * below).logsumexp(dim, keepdim=True)
    if not eps:
        return below - rest / 4
    log_sum, log_eps = 4 * top + rest, rest.new_full((), math.log(eps))
    return quarter - (torch.logaddexp(log_sum, log_eps) if denominator == "add" else log_sum.maximum(log_eps)) / 4


def permutation_matrices(n: int) -> Float[Tensor, "n_factorial n n"]:
    """All n! permutation matrices in `itertools.permutations` order, P_k[i, p_k(i)] = 1, float64.

    Raises:
        ValueError: n above 5, where n! coefficients a token are no longer a sensible parametrisation.
    """
    if not 1 <= n <= MAX_PERMUTATION_STREAMS:
        raise ValueError(
            f"n is {n}; the permutation mixture has n! terms and takes n from 1 to {MAX_PERMUTATION_STREAMS}"
        )
    return torch.eye(n, dtype=torch.float64)[torch.tensor(list(itertools.permutations(range(n))))]


def streams_of_permutations(count: int) -> int:
    """The n with n! = count; ValueError where there is none up to 5."""
    for n in range(1, MAX_PERMUTATION_STREAMS + 1):
        if math.factorial(n) == count:
            return n
    raise ValueError(f"the permutation mixture takes n! logits (1, 2, 6, 24, 120) on the last axis, not {count}")


def permutation_mixture(logits: Float[Tensor, "*tokens n_factorial"]) -> Float[Tensor, "*tokens n n"]:
    """M = sum_k softmax(logits)_k P_k (mHC-lite, arXiv 2601.05732)."""
    n = streams_of_permutations(logits.shape[-1])
    matrices = permutation_matrices(n).to(logits)
    return torch.einsum("...k,kij->...ij", logits.softmax(-1), matrices)
