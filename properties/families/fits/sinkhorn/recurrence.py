"""The iteration after every count, and the zeros of what it does to a sum."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import mhc_ref
from mhc_ref import Dialect
from properties.core.deviant import DIM


def trajectory(logits: Tensor, dialect: Dialect, most: int) -> Iterator[Tensor]:
    """M after 0, 1, 2, ... iterations, in the log domain; the same recurrence as `mhc_ref.project`."""
    yield mhc_ref.project(logits, dialect.with_(iterations=0))
    if dialect.start == "softmax":
        log_m = logits.log_softmax(DIM[dialect.start_axis])
    else:
        log_m = logits - logits.amax(DIM[dialect.first_axis], keepdim=True)
    if dialect.entry_eps:
        log_m = torch.logaddexp(log_m, log_m.new_tensor(math.log(dialect.entry_eps)))
    log_eps = log_m.new_tensor(math.log(dialect.denominator_eps) if dialect.denominator_eps else -math.inf)
    skip = dialect.softmax_is_first_half_step
    for count in range(most):
        for axis in (dialect.first_axis, dialect.last_axis):
            if skip and count == 0 and axis == dialect.first_axis:
                continue
            log_sum = log_m.logsumexp(DIM[axis], keepdim=True)
            add = dialect.denominator == "add"
            log_m = log_m - (torch.logaddexp(log_sum, log_eps) if add else log_sum.maximum(log_eps))
        yield log_m.exp()


def zero_of(function: Callable[[float], float], low: float, high: float, steps: int = 48) -> float:
    """The zero of a decreasing function, by bisection, then by secants that stay inside; an end if there is none."""
    at_low, at_high = function(low), function(high)
    if at_low <= 0:
        return low
    if at_high >= 0:
        return high
    side = 0
    for step in range(steps):
        guess = (low + high) / 2
        if step > 6 and steps > 24 and math.isfinite(at_low - at_high):
            guess = min(max((low * at_high - high * at_low) / (at_high - at_low), low), high)
        value = function(guess)
        if value == 0 or high - low <= 4e-16 * abs(low + high):
            return guess
        if value > 0:
            low, at_low = guess, value
            at_high = at_high / 2 if side == 1 else at_high  # Illinois: or one end would never move
            side = 1
        else:
            high, at_high = guess, value
            at_low = at_low / 2 if side == -1 else at_low
            side = -1
    return (low + high) / 2
