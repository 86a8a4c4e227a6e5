"""Carry: what diag(alpha), alpha^2 = max(1 - beta^2, floor), guarantees, and how far rounding carries it.

With w = z / temperature, b = sigma(w) and s = 1 - b^2: ds/dw = -2 b^2 (1 - b), which is at most 8/27 in size, and
|d log(b^2 (1 - b)) / dw| <= 2, so that s moves over a distance d by at most min(0.3 d, b^2 (1 - b) (e^{2d} - 1)). Any
formula of a sigmoid is accurate absolutely to 6 units, 1 - sigma(w) and (tanh(w / 2) + 1) / 2 included, so that s as
1 - b^2 or as sigma(-w) (1 + b) is to 16. The root and the floor are monotone: alpha lies between those of the ends. By
logarithms it has a few units of 1 + |log alpha^2| more.

**The gradient** of alpha is ds/dw / (2 alpha temperature), and 0 below the floor; where s may lie on either side of it
either is admitted, and all between. Reverse mode adds up -(1 - b) b (1 + b) and (1 - b)^2 b, or has 2 b b (1 - b): each
is off by at most 34 units, and by what w has moved, |d2s/dw2| = 2 b^2 (1 - b) |2 - 3 b| <= 0.16.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from mhc_ref import Dialect
from mhc_ref.families import carry as formulas
from properties.bounds.arithmetic import capped, times
from properties.core.family import BOTH, Guarantees, Mix
from properties.core.rounding import INF, Approx, Projection, Rounding, known


class Carry(Mix):
    """Muse Spark; a gate beside what it leaves is that of highway networks, arXiv 1505.00387."""

    name = "carry"
    words = "diagonal, what a gate leaves of each stream"
    source = "transformers 5.24.0, models/muse_spark/modeling_muse_spark.py: MuseSparkResidualGate"
    BY_STREAM = formulas.BY_STREAM
    MOST_STREAMS = formulas.MOST_STREAMS
    FIELDS = formulas.FIELDS
    everywhere = False  # beside the diagonal it is 0, and below the floor nothing moves

    def shape(self, n: int, dialect: Dialect) -> tuple[int, ...]:
        return formulas.shape(n, dialect)

    def guarantees(self, dialect: Dialect) -> Guarantees:
        """0 < alpha < 1, so that a stream alone can lose, and none can grow."""
        return Guarantees(nonnegative=True, capped=BOTH, temperature=dialect.temperature)

    def bound(self, logits: Approx, dialect: Dialect, r: Rounding) -> Projection:
        kept = _Kept.of(logits, dialect, r)
        roundings = 4 + 2 * kept.alpha.log().abs()
        error = known(torch.maximum(kept.high - kept.alpha, kept.alpha - kept.low)) + roundings * r.unit * kept.high
        value, error = kept.alpha.diag_embed(), error.diag_embed()
        return Projection(value, error, torch.zeros_like(value), error.sum(-1))

    def pullback(self, logits: Approx, cotangent: Approx, dialect: Dialect, r: Rounding) -> Approx:
        kept = _Kept.of(logits, dialect, r)
        tau, d = dialect.temperature, kept.moved
        curve = kept.beta.square() * kept.left
        off = torch.minimum(0.16 * d, 2 * curve * capped(2 * d, 700).expm1()) + 34 * r.unit
        value = curve / (kept.alpha * tau)
        nearer = (1 / kept.low - 1 / kept.alpha).clamp(min=0)
        error = (curve * nearer + off / (2 * kept.low)) / tau * (1 + 8 * r.unit) + 8 * r.unit * value
        below, above = kept.most < dialect.floor * (1 - r.unit), kept.least > dialect.floor * (1 + r.unit)
        inside = kept.square > dialect.floor
        error = torch.where(below, 0.0, torch.where(above, error, error + value))
        slope = Approx(torch.where(inside, -value, 0.0), known(torch.where(d.isinf(), INF, error)))
        own = Approx(*(part.diagonal(dim1=-2, dim2=-1) for part in (cotangent.value, cotangent.error)))
        found = times(own, slope, r)
        most = max(1.0, 1 / tau) / kept.low
        beyond = r.beyond((own.value.abs() + own.error) * most)
        error = torch.where(beyond, INF, found.error + 8 * r.tiny * most)
        return Approx(found.value.unsqueeze(-1), error.unsqueeze(-1))

    def pullback_norm(self, logits: Tensor, dialect: Dialect) -> Tensor:
        """Of a diagonal derivative the largest entry: b^2 (1 - b) / (alpha temperature)."""
        over = logits.squeeze(-1) / dialect.temperature
        beta, left = over.sigmoid(), (-over).sigmoid()
        alpha = (left * (1 + beta)).clamp(min=dialect.floor).sqrt()
        return (beta.square() * left / (alpha * dialect.temperature)).amax(-1)

    def beginning(self, n: int, dialect: Dialect, far: float = 0.0) -> Tensor:
        """Every gate half open, or nearly closed."""
        return torch.full(self.shape(n, dialect), -far * dialect.temperature, dtype=torch.float64)

    def telling(self, n: int, dialect: Dialect) -> SearchStrategy[Any]:
        """Streams that keep all of themselves, a half, and what the floor leaves; and those just above and below it."""
        at = float(torch.logit(torch.tensor(1 - dialect.floor, dtype=torch.float64).sqrt().clamp(max=1 - 1e-15)))
        each = st.sampled_from((-30.0, -3.0, 0.0, 1.0, at - 1, at - 0.125, at + 0.125, at + 1, 2 * at + 30))

        def made(over: list[float]) -> Any:
            return dialect.temperature * np.array(over).reshape(n, 1)

        return st.lists(each, min_size=n, max_size=n).map(made)


class _Kept(NamedTuple):
    """alpha of a batch of logits, and where it may lie; all [tokens, n].

    Attributes:
        beta, left: sigma(w) and 1 less it.
        square, least, most: 1 - beta^2, and the ends of where an evaluation may have it.
        alpha, low, high: the root of what is not below the floor, of the square and of its ends.
        moved: the error of w.
    """

    beta: Tensor
    left: Tensor
    square: Tensor
    least: Tensor
    most: Tensor
    alpha: Tensor
    low: Tensor
    high: Tensor
    moved: Tensor

    @classmethod
    def of(cls, logits: Approx, dialect: Dialect, r: Rounding) -> _Kept:
        over = logits.value.squeeze(-1) / dialect.temperature
        moved = known(logits.error.squeeze(-1) / dialect.temperature) * (1 + 3 * r.unit) + 3 * r.unit * over.abs()
        beta, left = over.sigmoid(), (-over).sigmoid()
        square = left * (1 + beta)
        by = torch.minimum(0.3 * moved, beta.square() * left * capped(2 * moved, 700).expm1())
        off = capped(known(by), 1.0) + 16 * r.unit
        least, most = square - off, (square + off).clamp(max=1 + 16 * r.unit)
        roots = (
            square.clamp(min=dialect.floor).sqrt(),
            least.clamp(min=dialect.floor * (1 - 2 * r.unit)).sqrt() * (1 - 2 * r.unit),
            most.clamp(min=dialect.floor * (1 + 2 * r.unit)).sqrt(),
        )
        return cls(beta, left, square, least, most, *roots, moved)


MIX = Carry()
