"""Which named slip, or which two, give the answers that the target gave.

A slip explains a target when an implementation with it gives the same answers to the whole exam within what rounding
explains, and again to fresh questions. Nothing else is ever named.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from mhc_ref import Dialect
from properties.catalogue.deviations import CATALOGUE, Deviant, Kind
from properties.diagnosis.answers import Answer, Predictions, answer
from properties.diagnosis.budget import Budget
from properties.diagnosis.composing import compose, orders, remembers
from properties.diagnosis.measured import Measured
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


@dataclass(frozen=True)
class Explanation:
    """A dialect with any number of named slips, one that was measured, and how well they give fresh answers."""

    dialect: Dialect
    names: tuple[str, ...]
    ratio: float
    measured: tuple[Measured, ...] = ()


@dataclass
class Outcome:
    """What a search came to: what reproduces everything, the plainest first; whether all was tried before the end."""

    explanations: list[Explanation] = field(default_factory=lambda: [])
    exhausted: bool = True


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
        self._aside: set[str] = set()

    @property
    def fresh(self) -> list[Answer]:
        """Answers to questions that were not part of the exam, asked when something has passed it."""
        if self._asked is None:
            self.mark = len(self.view.log)
            self._asked = [one for one in self._fresh() if one.probe.name not in self._aside]
        return self._asked

    def below(self, level: int) -> Search:
        """The same search among the units up to a level."""
        asked = [one for one in self.answers if any(unit.level <= level for unit in self.sheet.units(one))]
        self._asked = self.fresh
        found = copy.copy(self)
        found.answers, found._upto = asked, level
        return found

    def set_aside(self, answers: Sequence[Answer]) -> None:
        """Go on without these answers, and without fresh ones to the same questions."""
        self._aside |= {one.probe.name for one in answers}
        self.answers, self._asked = [one for one in self.answers if one.probe.name not in self._aside], None

    def failing(self, base: Dialect) -> list[Answer]:
        """The answers that a dialect does not explain, the cheapest question first."""
        order = ("project", "pre", "post", "mappings", "expand", "collapse", "block", "precision", "depth", "gradient")
        wrong = [one for one in self.answers if self._worst(self.sheet.by_dialect(one, base)) > 1]
        return sorted(wrong, key=lambda one: order.index(one.probe.stage) if one.probe.stage in order else 99)

    def _try(self, names: tuple[str, ...], base: Dialect, failing: list[Answer], outcome: Outcome) -> None:
        for order in orders(names, base):
            made = compose(order, base)
            if made is None:
                continue
            self.view.progress(f"comparing with {' and '.join(order)}")
            worst = self.distance(made, base, failing)
            ratio = self.confirmed(order, base) if worst <= 1 else worst
            if ratio <= 1:
                outcome.explanations.append(Explanation(base, order, ratio))
                return

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

    def distance(self, made: Deviant, base: Dialect, failing: list[Answer]) -> float:
        """The worst ratio between the target's answers and those of `made`, the failing ones first; no further than to
        the first that is too far."""
        if remembers(made):
            other = View(made, self.frame)
            again(other, self.view.log[: self.begin])
            return self._compared(self.answers, other, base)
        return self._compared([*failing, *self._rest(failing)], View(made, self.frame), base)

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

    def _compared(self, answers: Sequence[Answer], other: View, base: Dialect) -> float:
        worst = 0.0
        for given in answers:
            found = answer(given.probe, other)
            worst = max(worst, self.apart(given, found, base, sensitivity(given.probe, other)))
            if worst > 1:
                break
        return worst

    def apart(self, given: Answer, other: Answer, base: Dialect, extra: Callable[[Answer], list[Tensor]]) -> float:
        """How far an answer of the target and another are from each other, in units of what rounding explains."""
        return self._worst(self.sheet.by_another(given, other, base, extra))

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
