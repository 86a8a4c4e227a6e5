"""Linear: gates or products as they are."""

from __future__ import annotations

from torch import Tensor

from mhc_ref import Dialect
from properties.core.family import Dynamic, Gate
from properties.core.rounding import Approx, Rounding


class LinearGate(Gate):
    """Hyper-connections, arXiv 2409.19606."""

    name = "linear"
    words = "its logits"
    source = "arXiv 2409.19606"

    def inverse(self, gates: Tensor, dialect: Dialect) -> Tensor:
        """The gates themselves."""
        return gates

    def at_zero(self, n: int, dialect: Dialect) -> float:
        """0."""
        return 0.0

    def bound(self, logits: Approx, dialect: Dialect, r: Rounding) -> Approx:
        """The logits, with the error that they have."""
        return logits

    def pullback(self, logits: Approx, cotangent: Approx, dialect: Dialect, r: Rounding) -> Approx:
        """The cotangent itself."""
        return cotangent


class Linear(Dynamic):
    """mHC, arXiv 2512.24880 eq. (7)."""

    name = "linear"
    words = "the dynamic part is linear"
    source = "arXiv 2512.24880 eq. (7)"
    passes = True

    def bound(self, products: Approx, dialect: Dialect, r: Rounding) -> Approx:
        """The products, with the error that they have."""
        return products

    def pullback(self, products: Approx, activated: Approx, cotangent: Approx, dialect: Dialect, r: Rounding) -> Approx:
        """The cotangent itself."""
        return cotangent


GATE = LinearGate()
DYNAMIC = Linear()
