"""Two slips at a time: which of them may together be what is wrong, told by what each does to a few answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mhc_ref import Dialect
from properties.catalogue.deviations import CATALOGUE
from properties.diagnosis.answers import Answer, answer
from properties.diagnosis.composing import compose, remembers
from properties.diagnosis.sensitivity import again, sensitivity
from properties.diagnosis.view import View

if TYPE_CHECKING:
    from properties.diagnosis.explanation import Search

COMPOSITE = ("block", "depth", "precision", "execution")
"""Stages whose answers are made of the others'."""

TIERS = 4
"""See `Cells.fits`."""


class Cells:
    """What each slip does to each of some answers that a dialect does not explain, found out when it is asked for."""

    def __init__(self, search: Search, base: Dialect, chosen: list[Answer]) -> None:
        self.search, self.base, self.chosen = search, base, chosen
        made = {name: compose((name,), base) for name in CATALOGUE} if chosen else {}
        self.made = {name: one for name, one in made.items() if one is not None}
        self.names = list(self.made)
        self.memory = {name for name, one in self.made.items() if remembers(one)}
        self._replayed: dict[str, dict[Answer, Answer]] = {}
        self._cells: dict[tuple[str, int], tuple[bool, bool]] = {}

    def fits(self, names: tuple[str, str], tier: int) -> bool:
        """Whether two slips may be what is wrong. Tier 0: each answer is given by one of them; 1: or it is composed of
        others and one of them moves it; 2: or both of them move it; 3: or one of them remembers, which composes all."""
        memory = tier >= 3 and any(name in self.memory for name in names)
        for k, given in enumerate(self.chosen):
            if any(self._cell(name, k)[0] for name in names):
                continue
            moved = [self._cell(name, k)[1] for name in names] if tier else [False]
            composed = memory or given.probe.stage in COMPOSITE
            if not (tier >= 1 and composed and any(moved)) and not (tier >= 2 and all(moved)):
                return False
        return True

    def open(self, names: tuple[str, str]) -> list[Answer]:
        """The answers that neither gives: where a pair that is wrong shows soonest."""
        return [one for k, one in enumerate(self.chosen) if not any(self._cell(name, k)[0] for name in names)]

    def _cell(self, name: str, k: int) -> tuple[bool, bool]:
        """Whether a slip gives an answer, and whether it changes it at all."""
        if (name, k) not in self._cells:
            made, given = self.made[name], self.chosen[k]
            view = View(made, self.search.frame)
            other = self._again(name, given) if name in self.memory else answer(given.probe, view)
            gives = self.search.apart(given, other, self.base, sensitivity(given.probe, view)) <= 1
            self._cells[name, k] = gives, gives or self.search.predictions.ratio(other, self.base) > 1
        return self._cells[name, k]

    def _again(self, name: str, given: Answer) -> Answer:
        """The answer of a slip that remembers, after all that was asked before."""
        if name not in self._replayed:
            view = View(self.made[name], self.search.frame)
            again(view, self.search.view.log[: self.search.begin])
            self._replayed[name] = {one: answer(one.probe, view) for one in self.search.answers}
        return self._replayed[name][given]


def one_of_each_stage(answers: Sequence[Answer]) -> list[Answer]:
    """The first failing answer of every stage; of the circumstances, which have little in common, a few."""
    found: dict[tuple[str, int], Answer] = {}
    for k, one in enumerate(answers):
        found.setdefault((one.probe.stage, k if one.probe.stage == "execution" else 0), one)
    return list(found.values())[:10]
