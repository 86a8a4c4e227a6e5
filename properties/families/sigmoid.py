"""Sigmoid: each gate by itself between 0 and 1."""

from __future__ import annotations

import torch
from torch import Tensor

from mhc_ref import Dialect
from properties.bounds.arithmetic import capped, times
from properties.core.family import Gate
from properties.core.rounding import Approx, Rounding, known


class Sigmoid(Gate):
    """mHC, arXiv 2512.24880 eq. (8)."""

    name = "sigmoid"
    words = "a sigmoid"
    source = "arXiv 2512.24880 eq. (8)"
    unit_range = True

    def inverse(self, gates: Tensor, dialect: Dialect) -> Tensor:
        """log(s / (1 - s))."""
        return torch.logit(gates)

    def slope(self, logits: Tensor, gates: Tensor, dialect: Dialect) -> Tensor:
        """s (1 - s)."""
        return logits.sigmoid() * (1 - logits.sigmoid())

    def at_zero(self, n: int, dialect: Dialect) -> float:
        """The middle."""
        return 0.5

    def bound(self, logits: Approx, dialect: Dialect, r: Rounding) -> Approx:
        """|sigma'| <= 1/4, and sigma' changes by at most e^d over a distance d, so d moves it by at most
        min(d/4, sigma(1-sigma)(e^d - 1)); any formula is accurate *absolutely* to 6 units, (tanh(z/2)+1)/2 included,
        which is not accurate relatively for z << 0."""
        d = logits.error
        value = logits.value.sigmoid()
        moved = torch.minimum(d / 4, value * (1 - value) * capped(d, 700).expm1())
        return Approx(value, capped(known(moved), 1.0) + 6 * r.unit)

    def pullback(self, logits: Approx, cotangent: Approx, dialect: Dialect, r: Rounding) -> Approx:
        """sigmoid' = s (1 - s) moves by at most min(d / 10, s (1 - s) (e^d - 1)), |sigmoid''| < 0.0963, and s, hence
        1 - s, is accurate absolutely to 6 units. A logit of which nothing is claimed may be a NaN, and so may s."""
        s, d = logits.value.sigmoid(), logits.error
        slope = s * (1 - s)
        moved = known(torch.minimum(d / 10, slope * capped(d, 350).expm1()))
        return times(cotangent, Approx(slope, capped(moved, 0.25) + 9 * r.unit), r)


GATE = Sigmoid()
