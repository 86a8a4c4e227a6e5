"""Sinkhorn: what alternating divisions guarantee, and the rest that is known of them."""

from __future__ import annotations

from mhc_ref import Dialect
from mhc_ref.families import sinkhorn as formulas
from properties.core.family import Guarantees, Mix


class Sinkhorn(Mix):
    """arXiv 2512.24880 eq. (8)-(9)."""

    name = "sinkhorn"
    words = "projected by Sinkhorn"
    source = "arXiv 2512.24880 eq. (8)-(9)"
    BY_STREAM = formulas.BY_STREAM
    MOST_STREAMS = formulas.MOST_STREAMS

    def shape(self, n: int, dialect: Dialect) -> tuple[int, ...]:
        return formulas.shape(n, dialect)

    def guarantees(self, dialect: Dialect) -> Guarantees:
        """Only the last division is exact, and only without an eps; the other sums tend to 1."""
        if not dialect.iterations:
            return Guarantees(nonnegative=True)
        exact = not dialect.denominator_eps
        last = frozenset({dialect.last_axis})
        return Guarantees(nonnegative=True, sums=last if exact else frozenset(), capped=last)


MIX = Sinkhorn()
