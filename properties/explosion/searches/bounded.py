"""The search over bounded mixing: the smallest architecture first, then its fewest and simplest entries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from properties.explosion.answer import Answer
from properties.explosion.composite import Matrix, composite_reaches
from properties.explosion.configurations import Chain
from properties.explosion.proofs import overflow
from properties.explosion.proofs.closed_form import answer
from properties.explosion.searches.architecture import Architecture, smallest_architecture
from properties.explosion.searches.entries import simplest_entries
from properties.explosion.searches.hunt import Hunt

if TYPE_CHECKING:
    from properties.explosion.questions.linear import BoundedQuestion


def solve(question: BoundedQuestion, hunt: Hunt[Chain]) -> Answer:
    """What is known in the end; what reaches the threshold is kept in `hunt`.

    Raises:
        AssertionError: the search found something smaller than a proof allows.
    """
    known = overflow.answer(question) if question.gain == "nonfinite" else answer(question)
    if known.proved and known.depth is None:
        return known
    smallest = _Smallest(question, known, hunt)
    if question.gain == "nonfinite":
        return known
    smallest_architecture(question, hunt.clock, smallest)
    if smallest.best is not None:
        hunt.clock.stage = "entries"
        start, sought = smallest.best.operators(question), (question.gain, question.threshold, question.direction)
        for better in simplest_entries(start, question.origin, *sought, seed=question.seed, clock=hunt.clock):
            smallest.keep(better)
    return known


class _Smallest:
    """The smallest architecture seen so far, beginning with the one of the closed form, if there is one."""

    def __init__(self, question: BoundedQuestion, known: Answer, hunt: Hunt[Chain]) -> None:
        self._question, self._known, self._hunt = question, known, hunt
        self.best: Architecture | None = None
        hunt.keep(known)
        if known.depth is not None and known.streams is not None:
            self.best = Architecture(known.depth, known.streams)
            self.keep(self.best.operators(question))

    def __call__(self, one: Architecture) -> None:
        if self.best is None or one.size < self.best.size:
            if self._known.proved:
                raise AssertionError(f"found {one}, although {self.best} is proved smallest: {self._known.proof}")
            self.best = one
            self.keep(one.operators(self._question))

    def keep(self, operators: Sequence[Matrix]) -> None:
        asked = self._question

        def build() -> Chain:
            wanted = (asked.gain, asked.threshold, asked.direction)
            if asked.gain != "nonfinite" and not composite_reaches(operators, *wanted):
                raise AssertionError(f"the answer does not reach its threshold: {asked}")
            return Chain(tuple(operators))

        self._hunt.promise(self._known, build)
