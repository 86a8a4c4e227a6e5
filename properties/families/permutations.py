"""Permutations: what a mixture of permutation matrices guarantees, and the rest that is known of it."""

from __future__ import annotations

from mhc_ref import Dialect
from mhc_ref.families import permutations as formulas
from properties.core.family import Guarantees, Mix


class Permutations(Mix):
    """arXiv 2601.05732."""

    name = "permutations"
    words = "a mixture of permutations"
    source = "arXiv 2601.05732"
    BY_STREAM = formulas.BY_STREAM
    MOST_STREAMS = formulas.MOST_STREAMS

    def shape(self, n: int, dialect: Dialect) -> tuple[int, ...]:
        return formulas.shape(n, dialect)

    def guarantees(self, dialect: Dialect) -> Guarantees:
        """Convex combinations of permutation matrices are doubly stochastic (Birkhoff)."""
        return Guarantees(nonnegative=True, sums=frozenset({"row", "column"}))


MIX = Permutations()
