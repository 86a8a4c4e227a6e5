"""Unconstrained: h_res is its logits, which guarantees nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from mhc_ref import Dialect
from mhc_ref.families import unconstrained as formulas
from properties.core.family import Guarantees, Mix
from properties.core.rounding import Approx, Projection, Rounding


class Unconstrained(Mix):
    """arXiv 2409.19606."""

    name = "unconstrained"
    words = "its logits, without a projection"
    source = "arXiv 2409.19606"
    BY_STREAM = formulas.BY_STREAM
    MOST_STREAMS = formulas.MOST_STREAMS
    asked_as = "hc"

    def shape(self, n: int, dialect: Dialect) -> tuple[int, ...]:
        return formulas.shape(n, dialect)

    def guarantees(self, dialect: Dialect) -> Guarantees:
        """Nothing of the matrix; its lines are where those of the logits are."""
        return Guarantees(equivariant=True)

    def bound(self, logits: Approx, dialect: Dialect, r: Rounding) -> Projection:
        """The logits, with the error that they have."""
        return Projection(logits.value, logits.error, torch.zeros_like(logits.value), logits.error.sum(-1))

    def pullback(self, logits: Approx, cotangent: Approx, dialect: Dialect, r: Rounding) -> Approx:
        """The cotangent itself."""
        return cotangent

    def beginning(self, n: int, dialect: Dialect, far: float = 0.0) -> Tensor:
        """The identity itself, or the average."""
        return torch.eye(n, dtype=torch.float64) if far else torch.full((n, n), 1 / n, dtype=torch.float64)

    def carrying(self, permutation: Tensor, dialect: Dialect) -> Tensor:
        """The permutation itself."""
        return permutation


MIX = Unconstrained()
