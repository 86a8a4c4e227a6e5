"""Unconstrained: h_res is its logits, which guarantees nothing."""

from __future__ import annotations

from mhc_ref import Dialect
from mhc_ref.families import unconstrained as formulas
from properties.core.family import Guarantees, Mix


class Unconstrained(Mix):
    """arXiv 2409.19606."""

    name = "unconstrained"
    words = "its logits, without a projection"
    source = "arXiv 2409.19606"
    BY_STREAM = formulas.BY_STREAM
    MOST_STREAMS = formulas.MOST_STREAMS

    def shape(self, n: int, dialect: Dialect) -> tuple[int, ...]:
        return formulas.shape(n, dialect)

    def guarantees(self, dialect: Dialect) -> Guarantees:
        """Nothing."""
        return Guarantees()


MIX = Unconstrained()
