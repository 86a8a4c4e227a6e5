"""The gain of a product of operators in float64: what a search climbs, before the exact one is asked."""

from __future__ import annotations

from torch import Tensor

from mhc_ref.gain import gains
from properties.explosion.composite import measure


def float_gain(composed: Tensor, gain: str) -> Tensor:
    """The gain of composites [..., n, n] in float64."""
    found = gains(composed)
    return found.forward_signed if gain == "signed" else getattr(found, measure(gain))
