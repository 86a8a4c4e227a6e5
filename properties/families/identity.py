"""Identity: every stream keeps to itself."""

from __future__ import annotations

import torch

from mhc_ref import Dialect
from mhc_ref.families import identity as formulas
from properties.core.family import Guarantees, Mix
from properties.core.rounding import Approx, Projection, Rounding


class Identity(Mix):
    """He et al., arXiv 1512.03385."""

    name = "identity"
    words = "the identity"
    source = "He et al., arXiv 1512.03385"
    BY_STREAM = formulas.BY_STREAM
    MOST_STREAMS = formulas.MOST_STREAMS
    FIELDS = formulas.FIELDS

    def shape(self, n: int, dialect: Dialect) -> tuple[int, ...]:
        return formulas.shape(n, dialect)

    def guarantees(self, dialect: Dialect) -> Guarantees:
        """I is everything at once."""
        return Guarantees(identity=True)

    def bound(self, logits: Approx, dialect: Dialect, r: Rounding) -> Projection:
        """1 and 0 are exact."""
        n = logits.value.shape[-2]
        value = torch.eye(n, dtype=torch.float64, device=logits.value.device).expand(*logits.value.shape[:-1], n)
        return Projection(value, torch.zeros_like(value), torch.zeros_like(value), torch.zeros_like(value).sum(-1))

    def pullback(self, logits: Approx, cotangent: Approx, dialect: Dialect, r: Rounding) -> Approx:
        """Nothing depends on the logits."""
        return Approx.exact(torch.zeros_like(logits.value))


MIX = Identity()
