"""Softmax: the gates of a token share 1 among the streams."""

from __future__ import annotations

from mhc_ref import Dialect
from properties import bounds
from properties.core.family import Gate
from properties.core.rounding import Approx, Rounding


class Softmax(Gate):
    """exp(z_i) / sum_j exp(z_j)."""

    name = "softmax"
    words = "a softmax over the streams"
    alone = True

    def at_zero(self, n: int, dialect: Dialect) -> float:
        """Equal shares."""
        return 1 / n

    def bound(self, logits: Approx, dialect: Dialect, r: Rounding) -> Approx:
        return bounds.softmax(logits, r)

    def pullback(self, logits: Approx, cotangent: Approx, dialect: Dialect, r: Rounding) -> Approx:
        return bounds.softmax_gradient(logits, cotangent, r)


GATE = Softmax()
