"""What was found out: a number with an error bar, values of fields, and how far values are from what they should be."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mhc_ref import Dialect
from properties.core.rounding import Rounding
from properties.core.truth import wide


@dataclass(frozen=True)
class Estimate:
    """Everything between `low` and `high` reproduces what was observed; `value` is the point in the middle of it."""

    value: float
    low: float
    high: float

    @classmethod
    def around(cls, value: float, error: float) -> Estimate:
        """value +- error; an eps is never negative, so the bar ends at 0."""
        error = abs(error)
        return cls(value, max(0.0, value - error), value + error)

    @classmethod
    def below(cls, limit: float) -> Estimate:
        """0, or anything too small to be seen."""
        return cls(0.0, 0.0, limit)

    def admits(self, value: float | None) -> bool:
        """Whether `value` would have looked the same; where there is none, it would not."""
        return value is not None and self.low <= value <= self.high

    def shortest(self) -> float:
        """The decimal number with the fewest digits within the bar, 0 if the bar reaches it."""
        if self.low <= 0 <= self.high:
            return 0.0
        for digits in range(17):
            candidate = float(f"{self.value:.{digits}e}")
            if self.admits(candidate):
                return candidate
        return self.value

    def __str__(self) -> str:
        if self.low <= 0 <= self.high:
            return f"0 (at most {self.high:.1e})"
        error = max(self.high - self.value, self.value - self.low)
        return f"{self.shortest():.12g} +- {error:.1e}"


def logit(share: float) -> float:
    """log(s / (1 - s))."""
    return math.log(share) - math.log1p(-share)


@dataclass(frozen=True)
class Candidate:
    """Values of some fields that reproduce what was observed; measured fields have an estimate beside the value."""

    fields: dict[str, Any]
    estimates: dict[str, Estimate] = field(default_factory=lambda: {})
    ratio: float = 0.0


Matrices = Callable[[Tensor], tuple[Tensor, Tensor]]
"""logits [k, ...] -> the matrices in float64, and the error that reading them off added to the target's own."""

Fit = Callable[[Matrices, int, Rounding, float, torch.dtype, int, Dialect], list[Candidate]]
"""(read, n, rounding, depth, dtype, most, declared) -> the values of fields that reproduce the matrices of a target.

For n streams, logits down to -depth in dtype, at most so many of them at once; `declared` is worth trying first.
"""


def ratio(got: Tensor, value: Tensor, error: Tensor) -> float:
    """The largest error / bound; inf for another shape, and where only one of the two is finite."""
    if got.shape != value.shape:
        return math.inf
    if not got.numel():
        return 0.0
    got, value, error = wide(got), wide(value), wide(error)
    claimed = torch.isfinite(error)
    agree = torch.isfinite(got) & torch.isfinite(value)
    same = (got == value) | (torch.isnan(got) & torch.isnan(value))
    difference = (torch.where(agree, got, 0.0) - torch.where(agree, value, 0.0)).abs()
    each = torch.where(difference == 0, 0.0, difference / torch.where(claimed, error, 1.0))
    each = torch.where(agree, each, torch.where(same, 0.0, math.inf))
    return float(torch.where(claimed, each, 0.0).nan_to_num(nan=math.inf, posinf=math.inf).max())
