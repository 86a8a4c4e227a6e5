"""Which named slip, or which two, give the answers that the target gave.

A slip explains a target when an implementation with it gives the same answers to the whole exam within what rounding
explains, and again to fresh questions. Nothing else is ever named.
"""

from __future__ import annotations

import copy
import itertools
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from mhc_ref import Dialect
from properties.catalogue.deviations import CATALOGUE, Deviant, Kind
from properties.core.deviant import redialected
from properties.core.estimate import Estimate
from properties.diagnosis.answers import Answer, Predictions, answer
from properties.diagnosis.budget import Budget
from properties.diagnosis.composing import compose, orders, remembers
from properties.diagnosis.findings import joined
from properties.diagnosis.measured import TEMPERATURE, Measured, candidates
from properties.diagnosis.pairs import TIERS, Cells, one_of_each_stage
from properties.diagnosis.sensitivity import again, sensitivity
from properties.diagnosis.units import LEVELS, Sheet, Unit
from properties.diagnosis.view import View

TELLING: dict[Kind, tuple[str, ...]] = {
    "scaling": ("mappings", "block"),
    "initialisation": ("mappings", "block"),
    "normalisation": ("mappings", "block"),
    "order": ("mappings", "block"),
    "orientation": ("mappings", "post"),
    "eps": ("mappings", "project"),
    "iterations": ("project",),
    "packing": ("mappings", "block"),
    "missing-term": ("mappings", "post"),
    "dtype": ("precision", "mappings"),
    "gradient": ("gradient",),
    "collapse": ("expand", "collapse", "depth"),
    "execution": ("execution",),
    "gamed": ("mappings", "block"),
}
"""Where slips of a kind show first, as a rule: asked first, since one answer that differs is enough."""


FOLLOWED = 3
"""How many of the explanations that do not fit are compared with the whole exam, to tell which comes next."""


@dataclass(frozen=True)
class Explanation:
    """A dialect with none, one or two named slips, or one that was measured, and how well it gives fresh answers."""

    dialect: Dialect
    names: tuple[str, ...]
    ratio: float
    measured: Measured | None = None


@dataclass
class Outcome:
    """What a search came to.

    Attributes:
        explanations: those that reproduce everything, the plainest first; several are a tie.
        nearest: the best of those that do not, with its ratio on the answers that the dialect fails.
        tried: how many were tried.
        exhausted: whether all were; False where the time was up before.
        refused: those that left the bound, with the ratio at which they left it first.
    """

    explanations: list[Explanation] = field(default_factory=lambda: [])
    nearest: tuple[str, float] = ("", math.inf)
    tried: int = 0
    exhausted: bool = True
    refused: list[tuple[float, tuple[str, ...]]] = field(default_factory=lambda: [])

    def note(self, name: str, ratio: float) -> None:
        """Remember an explanation that does not reproduce everything, if it is the best so far."""
        if ratio < self.nearest[1]:
            self.nearest = (name, ratio)

    def add(self, other: Outcome) -> None:
        """What another search came to."""
        self.explanations += other.explanations
        self.note(*other.nearest)
        self.tried += other.tried
        self.exhausted = self.exhausted and other.exhausted


class Search:
    """The answers of a target, and everything that was asked of it, to be asked of others."""

    def __init__(
        self,
        view: View,
        answers: list[Answer],
        begin: int,
        predictions: Predictions,
        fresh: Callable[[], list[Answer]],
        base: Dialect | None = None,
    ) -> None:
        """`base`: what the answers are compared with, the declared dialect if not given."""
        self.view, self.frame, self.answers, self.begin = view, view.frame, answers, begin
        self.predictions = predictions
        self.sheet = Sheet(predictions, view.implementation.dialect if base is None else base)
        self._fresh = fresh
        self._asked: list[Answer] | None = None
        self._upto = len(LEVELS)

    @property
    def fresh(self) -> list[Answer]:
        """Answers to questions that were not part of the exam, asked when something has passed it."""
        if self._asked is None:
            self.mark = len(self.view.log)
            self._asked = self._fresh()
        return self._asked

    def below(self, level: int) -> Search:
        """The same search among the units up to a level."""
        asked = [one for one in self.answers if any(unit.level <= level for unit in self.sheet.units(one))]
        self._asked = self.fresh
        found = copy.copy(self)
        found.answers, found._upto = asked, level
        return found

    def failing(self, base: Dialect) -> list[Answer]:
        """The answers that a dialect does not explain, the cheapest question first."""
        order = ("project", "pre", "post", "mappings", "expand", "collapse", "block", "precision", "depth", "gradient")
        wrong = [one for one in self.answers if self._worst(self.sheet.by_dialect(one, base)) > 1]
        return sorted(wrong, key=lambda one: order.index(one.probe.stage) if one.probe.stage in order else 99)

    def singles(self, bases: Sequence[Dialect], budget: Budget) -> Outcome:
        """Every slip of the catalogue in every base."""
        outcome = Outcome()
        for base in bases:
            failing = self.failing(base)
            if not failing:
                continue
            for name in self._sorted(failing):
                if budget.spent:
                    outcome.exhausted = False
                    return outcome
                self._try((name,), base, failing, outcome)
            self._follow(outcome, base, failing)
        outcome.explanations.sort(key=lambda one: (len(one.names), one.ratio))
        return outcome

    def _follow(self, outcome: Outcome, base: Dialect, failing: list[Answer]) -> None:
        """The worst ratio of the few that left the bound by least where they left it first."""
        explained = {one.names for one in outcome.explanations}
        closest = [(ratio, names) for ratio, names in sorted(outcome.refused) if names not in explained]
        made = ((" and ".join(names), ratio, compose(names, base)) for ratio, names in closest)
        self._note_worst(outcome, ((words, ratio, one) for words, ratio, one in made if one), base, failing)
        outcome.refused.clear()

    def _note_worst(
        self, outcome: Outcome, made: Iterable[tuple[str, float, Deviant]], base: Dialect, failing: list[Answer]
    ) -> None:
        """Compare the first few, each with the ratio at which it left the bound, with the whole exam. Where a NaN sets
        all of them infinitely far apart, the least of those ratios is told: the worst is no smaller."""
        finite, least = 0, ("", math.inf)
        for words, ratio, one in itertools.islice(made, 4 * FOLLOWED):
            worst = self.distance(one, base, failing, sys.float_info.max)
            outcome.note(words, worst)
            least = min(least, (words, ratio), key=lambda pair: pair[1])
            finite += math.isfinite(worst)
            if finite == FOLLOWED:
                break
        if not finite:
            outcome.note(*least)

    def measured(self, bases: Sequence[Dialect], temperature: Estimate | None) -> Outcome:
        """Every slip with a number that can be measured, in every base."""
        outcome = Outcome()
        for base in bases:
            failing = self.failing(base)
            for one in candidates(failing, self.frame, self.predictions, base, temperature):
                outcome.tried += 1
                worst = self._measured_ratio(one, [*failing, *self._rest(failing)], base)
                if worst > 1:  # a gain is fitted, so it would always be the next best: that tells nothing
                    if one.name == TEMPERATURE:
                        outcome.note(str(one), worst)
                    continue
                ratio = self._measured_ratio(one, self.fresh, base)
                if ratio <= 1:
                    outcome.explanations.append(Explanation(base, (), ratio, one))
        return outcome

    def _measured_ratio(self, one: Measured, answers: Sequence[Answer], base: Dialect) -> float:
        """The worst ratio, with what the error bar of the number makes of the answers allowed for."""
        made, edge = View(one.make(base), self.frame), View(one.make(base, one.estimate.high), self.frame)
        return self._compared(answers, made, base, edge=edge)

    def _sorted(self, failing: list[Answer]) -> list[str]:
        """What only shows in gradients or circumstances last, unless nothing else fails."""
        stages = {one.probe.stage for one in failing}
        late = {"gradient", "execution"} - stages

        return sorted(CATALOGUE, key=lambda name: CATALOGUE[name].kind in late)

    def _try(self, names: tuple[str, ...], base: Dialect, failing: list[Answer], outcome: Outcome) -> None:
        for order in orders(names, base):
            made = compose(order, base)
            if made is None:
                continue
            outcome.tried += 1
            self.view.progress(f"comparing with {' and '.join(order)}")
            worst = self.distance(made, base, failing)
            ratio = self.confirmed(order, base) if worst <= 1 else worst
            if ratio <= 1:
                outcome.explanations.append(Explanation(base, order, ratio))
                return
            outcome.refused.append((ratio, order))

    def nearest_fields(self, base: Dialect, found: Dialect) -> tuple[str, float]:
        """Of the other changes of fields that have a name, the one that comes closest, with its worst ratio."""
        outcome, failing = Outcome(), self.failing(base)
        changed = base.difference(found)
        several = [joined(base, {name: value}) for name, (_, value) in changed.items()] if len(changed) > 1 else []
        named = [CATALOGUE[name].make(base) for name in CATALOGUE if CATALOGUE[name].applies(base)]
        others = [*several, *(one.computed for one in named if isinstance(one, Deviant) and redialected(one))]
        made = [Deviant(base, "other fields", lambda _, other=other: other) for other in others]
        first = [(self.distance(one, base, failing), k) for k, one in enumerate(made) if others[k] not in (base, found)]

        def words(one: Dialect) -> str:
            return ", ".join(f"{name} = {value!r}" for name, (_, value) in base.difference(one).items())

        closest = ((words(others[k]), ratio, made[k]) for ratio, k in sorted(first) if ratio > 1)
        self._note_worst(outcome, closest, base, failing)
        return outcome.nearest

    def hidden(self, one: Explanation, most: int, budget: Budget) -> list[str]:
        """Slips that show in what the target offers, but would not next to an explanation: its answers are the same."""
        found: list[str] = []
        for name in CATALOGUE:
            if len(found) >= most or budget.spent:
                break
            if name in one.names or not CATALOGUE[name].applies(one.dialect):
                continue
            telling = [given for given in self.answers if given.probe.stage in TELLING[CATALOGUE[name].kind]]
            for order in orders((name, *one.names), one.dialect):
                made = compose(order, one.dialect)
                if made is None or self.distance(made, one.dialect, telling) > 1:
                    continue
                if self.confirmed(order, one.dialect) <= 1:
                    found += [name] * self._shows(name, one.dialect)
                    break
        return found

    def _shows(self, name: str, dialect: Dialect) -> bool:
        """Whether a slip by itself changes an answer to what this target is asked."""
        made = compose((name,), dialect)
        if made is None or remembers(made):
            return made is not None
        view = View(made, self.frame)
        return any(self.predictions.ratio(answer(one.probe, view), dialect) > 1 for one in self.answers)

    def distance(self, made: Deviant, base: Dialect, failing: list[Answer], limit: float = 1.0) -> float:
        """The worst ratio between the target's answers and those of `made`, the failing ones first; no further than to
        the first ratio above `limit`."""
        if remembers(made):
            other = View(made, self.frame)
            again(other, self.view.log[: self.begin])
            return self._compared(self.answers, other, base, limit)
        return self._compared([*failing, *self._rest(failing)], View(made, self.frame), base, limit)

    def _rest(self, failing: Sequence[Answer]) -> list[Answer]:
        chosen = set(failing)
        return [one for one in self.answers if one not in chosen]

    def confirmed(self, names: tuple[str, ...], base: Dialect) -> float:
        """The worst ratio on fresh questions."""
        fresh = self.fresh
        made = compose(names, base)
        assert made is not None
        other = View(made, self.frame)
        if remembers(made):
            again(other, self.view.log[: self.mark])
        return self._compared(fresh, other, base)

    def _compared(
        self, answers: Sequence[Answer], other: View, base: Dialect, limit: float = 1.0, edge: View | None = None
    ) -> float:
        worst = 0.0
        for given in answers:
            found = answer(given.probe, other)
            ratios = self.sheet.by_another(given, found, base, sensitivity(given.probe, other, edge))
            worst = max(worst, self._worst(ratios))
            if worst > limit:
                break
        return worst

    def _worst(self, ratios: dict[Unit, float]) -> float:
        return max((ratio for unit, ratio in ratios.items() if unit.level <= self._upto), default=0.0)

    def pairs(self, base: Dialect, budget: Budget) -> Outcome:
        """Two slips at a time: what a target does wrong in one stage is one of them, or both together."""
        outcome = Outcome()
        failing = self.failing(base)
        cells = Cells(self, base, one_of_each_stage(failing))
        clean: dict[str, bool] = {}
        tried: set[tuple[str, str]] = set()
        for tier in range(TIERS):
            for names in itertools.combinations(cells.names, 2):
                if budget.spent:
                    outcome.exhausted = False
                    break
                if names in tried or not cells.fits(names, tier):
                    continue
                tried.add(names)
                for name in names:
                    if name not in clean:
                        clean[name] = self._spares(name, base, failing)
                if all(clean[name] for name in names):
                    self._try(names, base, [*cells.open(names), *failing], outcome)
            if outcome.explanations or not outcome.exhausted:
                break
        outcome.explanations.sort(key=lambda one: one.ratio)
        return outcome

    def _spares(self, name: str, base: Dialect, failing: list[Answer]) -> bool:
        """Whether a slip leaves alone what the target gives right."""
        made = compose((name,), base)
        if made is None or remembers(made):
            return made is not None
        return self._compared(self._rest(failing), View(made, self.frame), base) <= 1
