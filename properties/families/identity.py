"""Identity: every stream keeps to itself."""

from __future__ import annotations

from mhc_ref import Dialect
from mhc_ref.families import identity as formulas
from properties.core.family import Guarantees, Mix


class Identity(Mix):
    """He et al., arXiv 1512.03385."""

    name = "identity"
    words = "the identity"
    source = "He et al., arXiv 1512.03385"
    BY_STREAM = formulas.BY_STREAM
    MOST_STREAMS = formulas.MOST_STREAMS

    def shape(self, n: int, dialect: Dialect) -> tuple[int, ...]:
        return formulas.shape(n, dialect)

    def guarantees(self, dialect: Dialect) -> Guarantees:
        """I is everything at once."""
        return Guarantees(nonnegative=True, sums=frozenset({"row", "column"}), orthogonal=True, constant=True)


MIX = Identity()
