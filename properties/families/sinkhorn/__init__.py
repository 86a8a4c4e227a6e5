"""Sinkhorn: what alternating divisions guarantee, and the rest that is known of them."""

from __future__ import annotations

import torch
from torch import Tensor

from mhc_ref import Dialect
from mhc_ref.families import sinkhorn as formulas
from properties.core.family import Guarantees, Mix
from properties.core.rounding import Approx, Projection, Rounding
from properties.families.sinkhorn import backwards, forwards
from properties.strategies import BEYOND_EXP


class Sinkhorn(Mix):
    """arXiv 2512.24880 eq. (8)-(9)."""

    name = "sinkhorn"
    words = "projected by Sinkhorn"
    source = "arXiv 2512.24880 eq. (8)-(9)"
    BY_STREAM = formulas.BY_STREAM
    MOST_STREAMS = formulas.MOST_STREAMS
    FIELDS = formulas.FIELDS
    explosions = "properties.explosion.searches.divided"

    def shape(self, n: int, dialect: Dialect) -> tuple[int, ...]:
        return formulas.shape(n, dialect)

    def guarantees(self, dialect: Dialect) -> Guarantees:
        """Only the last division is exact, and only without an eps; the other sums tend to 1.

        What follows is of Z / temperature, of which none of this knows.

        Entries are exp(Z), or a softmax, whose lines are then scaled. What is normalised first divides out a constant
        of its lines: the softmax, or the maximum that an exp start subtracts, without which nothing does. The share of
        an only entry is 1, or what an eps makes of it.
        """
        last = dialect.last_axis if dialect.iterations else ""
        softmax = dialect.start == "softmax"
        return Guarantees(
            nonnegative=True,
            sums=frozenset({last} if last and not dialect.denominator_eps else ()),
            capped=frozenset({last} if last else ()),
            last=last,
            scaled=True,
            temperature=dialect.temperature,
            alternating=True,
            shift=dialect.start_axis if softmax else dialect.first_axis if last else "",
            equivariant=True,
            alone=softmax or bool(last),
        )

    def bound(self, logits: Approx, dialect: Dialect, r: Rounding) -> Projection:
        return forwards.projection(logits, dialect, r)

    def pullback(self, logits: Approx, cotangent: Approx, dialect: Dialect, r: Rounding) -> Approx:
        return backwards.pullback(logits, cotangent, dialect, r)

    def pullback_norm(self, logits: Tensor, dialect: Dialect) -> Tensor:
        return backwards.pullback_norm(logits, dialect)

    def patterns(self, dialect: Dialect, wanted: tuple[str, ...]) -> tuple[str, ...]:
        """Without an iteration an exp start is unshifted: exponentials overflow by design."""
        if dialect.start == "softmax" or dialect.iterations:
            return wanted
        return tuple(pattern for pattern in wanted if pattern not in (*BEYOND_EXP, "wild"))

    def extreme(self, dialect: Dialect) -> tuple[str, ...]:
        return self.patterns(dialect, ("starved row", "triangular", *BEYOND_EXP, "wild"))

    def beginning(self, n: int, dialect: Dialect, far: float = 0.0) -> Tensor:
        return -far * dialect.temperature * (1 - torch.eye(n, dtype=torch.float64))

    def carrying(self, permutation: Tensor, dialect: Dialect) -> Tensor:
        """Exponentials that differ by e^60: below what float32 can add to 1."""
        return 60 * dialect.temperature * permutation


MIX = Sinkhorn()
