"""Sinkhorn: rows and columns divided by their sums in turn (mHC, arXiv 2512.24880 eq. 8-9).

It runs in the log domain. Row and column sums of exp(Z) underflow long before their logarithms do, so this is the form
in which every finite logit is handled as exact arithmetic would; the price is a relative error of order u * |log M|
instead of u, which the bounds admit.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from mhc_ref.dialect import Axis, Denominator, Dialect
from mhc_ref.registry import TEMPERATURE

BY_STREAM = True
MOST_STREAMS = None
FIELDS = {"temperature": TEMPERATURE}

_DIM: dict[Axis, int] = {"row": -1, "column": -2}


def shape(n: int, dialect: Dialect) -> tuple[int, ...]:
    """One logit an entry of M."""
    return (n, n)


def project(logits: Float[Tensor, "*tokens n n"], dialect: Dialect) -> Float[Tensor, "*tokens n n"]:
    """M = (T_last T_first)^iterations start(Z / temperature), mHC eq. (9) with every eps of the dialect."""
    quarter = _started(logits, dialect)
    log_eps = quarter.new_full((), math.log(dialect.denominator_eps)) if dialect.denominator_eps else None
    half_steps: list[Axis] = [dialect.first_axis, dialect.last_axis] * dialect.iterations
    for axis in half_steps[1:] if dialect.softmax_is_first_half_step else half_steps:
        quarter = _normalised(quarter, _DIM[axis], log_eps, dialect.denominator)
    return (4 * quarter).exp()


def _started(logits: Tensor, dialect: Dialect) -> Tensor:
    """log(M) / 4 before the first half-step: a difference of finite logits is at most twice the largest number, which
    divided by 4 is a number still, and a power of two rounds nothing."""
    quarter = logits / (4 * dialect.temperature)
    if dialect.start == "softmax":
        quarter = _normalised(quarter, _DIM[dialect.start_axis])
    elif dialect.iterations > 0:
        quarter = quarter - quarter.amax(_DIM[dialect.first_axis], keepdim=True)
    if dialect.entry_eps:
        return torch.logaddexp(4 * quarter, quarter.new_full((), math.log(dialect.entry_eps))) / 4
    return quarter


def _normalised(quarter: Tensor, dim: int, log_eps: Tensor | None = None, denominator: Denominator = "add") -> Tensor:
    """M / (s + eps), or M / max(s, eps), s the sums of its lines; log(.) / 4 before and after.

    The maximum of a line goes first, without a derivative: beside a huge one the logarithm of the sum would be lost.
    """
    top = quarter.detach().amax(dim, keepdim=True)
    below = quarter - top
    rest = (4 * below).exp().sum(dim, keepdim=True).log()
    if log_eps is None:
        return below.sub(rest, alpha=1 / 4)
    log_sum = rest.add(top, alpha=4)
    log_divisor = torch.logaddexp(log_sum, log_eps) if denominator == "add" else log_sum.maximum(log_eps)
    return quarter.sub(log_divisor, alpha=1 / 4)
