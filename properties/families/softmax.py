"""Softmax: the gates of a token share 1 among the streams."""

from __future__ import annotations

from torch import Tensor

from mhc_ref import Dialect
from properties import bounds
from properties.core.family import Gate
from properties.core.rounding import Approx, Rounding


class Softmax(Gate):
    """exp(z_i) / sum_j exp(z_j)."""

    name = "softmax"
    words = "a softmax"
    alone = True
    relative = True

    def inverse(self, gates: Tensor, dialect: Dialect) -> Tensor:
        """log s without its mean."""
        return gates.log() - gates.log().mean(-1, keepdim=True)

    def slope(self, logits: Tensor, gates: Tensor, dialect: Dialect) -> Tensor:
        """s, but for what the sum of all adds."""
        return gates

    def at_zero(self, n: int, dialect: Dialect) -> float:
        """Equal shares."""
        return 1 / n

    def bound(self, logits: Approx, dialect: Dialect, r: Rounding) -> Approx:
        return bounds.softmax(logits, r)

    def pullback(self, logits: Approx, cotangent: Approx, dialect: Dialect, r: Rounding) -> Approx:
        return bounds.softmax_gradient(logits, cotangent, r)


GATE = Softmax()
