"""A number that was measured: a value with an error bar, written with as many digits as the bar leaves."""

from __future__ import annotations

import math
from dataclasses import dataclass


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

    def admits(self, value: float) -> bool:
        """Whether `value` would have looked the same."""
        return self.low <= value <= self.high

    def shortest(self) -> float:
        """The decimal number with the fewest digits within the bar, 0 if the bar reaches it."""
        if self.low <= 0:
            return 0.0
        for digits in range(17):
            candidate = float(f"{self.value:.{digits}e}")
            if self.admits(candidate):
                return candidate
        return self.value

    def __str__(self) -> str:
        if self.low <= 0:
            return f"0 (at most {self.high:.1e})"
        error = max(self.high - self.value, self.value - self.low)
        return f"{self.shortest():.12g} +- {error:.1e}"


def logit(share: float) -> float:
    """log(s / (1 - s))."""
    return math.log(share) - math.log1p(-share)
