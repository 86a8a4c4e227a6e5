"""The first two criteria of minimality: depth, then streams.

Hypothesis draws the architecture and a few changes to a stack whose entries are all at their strongest. That is the
orientation which makes shrinking work: the simplest value of an entry is its *strongest* one while depth is minimised,
and so a network gets simpler only by getting shorter. With entries that shrink towards 0 a shorter network would have
to be found together with all the entries that it needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from properties.explosion.composite import Matrix, composite_reaches
from properties.explosion.proofs.closed_form import strongest
from properties.explosion.searches.hypothesise import Clock, smallest

if TYPE_CHECKING:
    from properties.explosion.questions.linear import BoundedQuestion


@dataclass(frozen=True)
class Architecture:
    """A stack of the strongest matrix, with `changes` (sub-layer, row, column, E_ij as a fraction of the bound)."""

    depth: int
    streams: int
    changes: tuple[tuple[int, int, int, Fraction], ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """What is minimised first, in this order."""
        return self.depth, self.streams

    def operators(self, question: BoundedQuestion) -> list[Matrix]:
        stack = [strongest(question, self.streams)] * self.depth
        for depth, i, j, part in self.changes:
            rows = [list(row) for row in stack[depth]]
            rows[i][j] = question.origin * (i == j) + part * question.bound
            stack[depth] = tuple(map(tuple, rows))
        return stack


def architectures(
    depths: SearchStrategy[int], streams: SearchStrategy[int], max_changes: int = 3
) -> SearchStrategy[Architecture]:
    """Depth first, then streams, then changes: the order in which Hypothesis prefers the smaller."""

    @st.composite
    def drawn(draw: st.DrawFn) -> Architecture:
        depth, n = draw(depths), draw(streams)
        part = st.sampled_from([Fraction(1), Fraction(1, 2), Fraction(0), Fraction(-1, 2), Fraction(-1)])
        place = st.tuples(st.integers(0, depth - 1), st.integers(0, n - 1), st.integers(0, n - 1), part)
        return Architecture(depth, n, tuple(draw(st.lists(place, max_size=max_changes))))

    return drawn()


def smallest_architecture(
    question: BoundedQuestion, clock: Clock, seen: Callable[[Architecture], None]
) -> Architecture | None:
    """The smallest depth at any allowed number of streams, then the fewest streams at that depth.

    While depth is minimised, streams too are oriented towards the strongest, which is the most. Every architecture that
    reaches the threshold is shown to `seen`.
    """

    def reached(one: Architecture) -> bool:
        enough = composite_reaches(one.operators(question), question.gain, question.threshold, question.direction)
        if enough:
            clock.best = f"depth {one.depth}, {one.streams} streams"
            seen(one)
        return enough

    clock.stage = "depth"
    most = question.max_streams
    widest = st.integers(0, most - 1).map(lambda fewer: most - fewer)
    depths = st.integers(1, question.max_depth)
    deep = smallest(architectures(depths, widest), reached, seed=question.seed, clock=clock, examples=300)
    if deep is None or most == 1:
        return deep
    clock.stage = "streams"
    narrow = architectures(st.just(deep.depth), st.integers(1, most))
    return smallest(narrow, reached, seed=question.seed, clock=clock, examples=100) or deep


def searched_depth(question: BoundedQuestion, n: int, clock: Clock) -> int | None:
    """The smallest depth of exactly n streams that the search finds, knowing nothing of the closed form."""

    def reached(one: Architecture) -> bool:
        return composite_reaches(one.operators(question), question.gain, question.threshold, question.direction)

    clock.best = "nothing yet"
    stacks = architectures(st.integers(1, question.max_depth), st.just(n))
    found = smallest(stacks, reached, seed=question.seed, clock=clock, examples=100)
    return None if found is None else found.depth
