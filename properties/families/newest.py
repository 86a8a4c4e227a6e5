"""Newest: the last stream alone, whatever the logits."""

from __future__ import annotations

import torch
from torch import Tensor

from mhc_ref import Dialect
from properties.core.family import Gate
from properties.core.rounding import Approx, Rounding


class Newest(Gate):
    """Attention residuals, arXiv 2603.15031: a layer adds to the sum of its group."""

    name = "newest"
    words = "the newest stream alone"
    source = "Attention Residuals, arXiv 2603.15031"
    alone = True
    constant = True

    def at_zero(self, n: int, dialect: Dialect) -> Tensor:
        """0, ..., 0, 1."""
        return self.gates(torch.zeros(n, dtype=torch.float64), dialect)

    def bound(self, logits: Approx, dialect: Dialect, r: Rounding) -> Approx:
        """0 and 1 are exact."""
        return Approx.exact(self.gates(torch.zeros_like(logits.value), dialect).contiguous())

    def pullback(self, logits: Approx, cotangent: Approx, dialect: Dialect, r: Rounding) -> Approx:
        """Nothing depends on the logits."""
        return Approx.exact(torch.zeros_like(logits.value))


GATE = Newest()
