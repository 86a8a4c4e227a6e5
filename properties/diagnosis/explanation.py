"""Which named slip, or which two, give the answers that the target gave.

A slip explains a target when an implementation with it gives the same answers to the whole exam within what rounding
explains, and again to fresh questions. Nothing else is ever named.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from mhc_ref import Dialect
from properties.case import map_tensors
from properties.deviations import CATALOGUE, Deviant, Kind
from properties.diagnosis.answers import Answer, Predictions, alike, answer
from properties.diagnosis.budget import Budget
from properties.diagnosis.estimate import Estimate
from properties.diagnosis.measured import Measured, candidates
from properties.diagnosis.probe import Probe
from properties.diagnosis.view import View

COMPOSITE = ("block", "depth", "precision", "execution")
"""Stages whose answers are made of the others'."""


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
    """

    explanations: list[Explanation] = field(default_factory=lambda: [])
    nearest: tuple[str, float] = ("", math.inf)
    tried: int = 0
    exhausted: bool = True

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


def compose(names: Sequence[str], base: Dialect) -> Deviant | None:
    """An implementation with all of these slips, declaring `base`; None where one of them makes no difference."""
    if any(not CATALOGUE[name].applies(base) for name in names):
        return None
    parts = [CATALOGUE[name].make(base) for name in names]
    deviants = [part for part in parts if isinstance(part, Deviant)]
    if len(deviants) < len(parts):
        return None
    if len(deviants) == 1:
        return deviants[0]
    kinds = [type(part) for part in deviants if type(part) is not Deviant]
    redialects = [name for name, part in zip(names, parts, strict=True) if type(part) is Deviant]

    def change(dialect: Dialect) -> Dialect:
        for name in redialects:
            dialect = getattr(CATALOGUE[name].make(dialect), "computed", dialect)
        return dialect

    def prepare(self: Deviant) -> None:
        for kind in kinds:
            kind.prepare(self)

    memory = {"prepare": prepare} if any(kind.prepare is not Deviant.prepare for kind in kinds) else {}
    try:
        if not kinds:
            return Deviant(base, "+".join(names), change)
        both: Any = type("Both", tuple(kinds), memory)
        return both(base, "+".join(names), change if redialects else None)
    except (TypeError, ValueError):  # two slips that no class can have together
        return None


def orders(names: tuple[str, ...], base: Dialect) -> Iterator[tuple[str, ...]]:
    """The slips as given; and the other way round where one of them can hide the other."""
    yield names
    if len(names) != 2:
        return
    parts = [CATALOGUE[name].make(base) for name in names if CATALOGUE[name].applies(base)]
    if len(parts) < 2:
        return
    one, two = (type(part) for part in parts)
    both_dialects = one is Deviant and two is Deviant
    if both_dialects or any(not name.startswith("__") for name in vars(one).keys() & vars(two).keys()):
        yield names[::-1]


class Search:
    """The answers of a target, and everything that was asked of it, to be asked of others."""

    def __init__(
        self, view: View, answers: list[Answer], begin: int, predictions: Predictions, fresh: Callable[[], list[Answer]]
    ) -> None:
        self.view, self.frame, self.answers, self.begin = view, view.frame, answers, begin
        self.predictions = predictions
        self._fresh = fresh
        self._asked: list[Answer] | None = None

    @property
    def fresh(self) -> list[Answer]:
        """Answers to questions that were not part of the exam, asked when something has passed it."""
        if self._asked is None:
            self._mark = len(self.view.log)
            self._asked = self._fresh()
        return self._asked

    def failing(self, base: Dialect) -> list[Answer]:
        """The answers that a dialect does not explain, the cheapest question first."""
        order = ("project", "pre", "post", "mappings", "expand", "collapse", "block", "precision", "depth", "gradient")
        wrong = [one for one in self.answers if self.predictions.ratio(one, base) > 1]
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
        outcome.explanations.sort(key=lambda one: (len(one.names), one.ratio))
        return outcome

    def measured(self, bases: Sequence[Dialect], temperature: Estimate | None) -> Outcome:
        """Every slip with a number that can be measured, in every base."""
        outcome = Outcome()
        for base in bases:
            failing = self.failing(base)
            for one in candidates(failing, self.frame, self.predictions, base, temperature):
                outcome.tried += 1
                worst = self._measured_ratio(one, [*failing, *self._rest(failing)], base)
                if worst > 1:
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
            # what is no explanation is followed until it is known to be further off than the best that was none
            worst = self.distance(made, base, failing, max(1.0, outcome.nearest[1]))
            ratio = self.confirmed(order, base) if worst <= 1 else worst
            if ratio <= 1:
                outcome.explanations.append(Explanation(base, order, ratio))
                return
            outcome.note(" and ".join(order), ratio)

    def nearest_fields(self, base: Dialect, found: Dialect) -> tuple[str, float]:
        """Of the other changes of fields that have a name, the one that comes closest, with its worst ratio."""
        outcome, failing = Outcome(), self.failing(base)
        changed = base.difference(found)
        several = [base.with_(**{name: value}) for name, (_, value) in changed.items()] if len(changed) > 1 else []
        named = [CATALOGUE[name].make(base) for name in CATALOGUE if CATALOGUE[name].applies(base)]
        others = [*several, *(one.computed for one in named if type(one) is Deviant)]
        for other in others:
            if other in (base, found):
                continue
            made = Deviant(base, "other fields", lambda _, other=other: other)
            worst = self.distance(made, base, failing, max(1.0, outcome.nearest[1]))
            if worst > 1:
                words = ", ".join(f"{name} = {value!r}" for name, (_, value) in base.difference(other).items())
                outcome.note(words, worst)
        return outcome.nearest

    def hidden(self, one: Explanation, most: int, budget: Budget) -> list[str]:
        """Slips that would not show next to an explanation: the answers would be the same."""
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
                    found.append(name)
                    break
        return found

    def distance(self, made: Deviant, base: Dialect, failing: list[Answer], limit: float = 1.0) -> float:
        """The worst ratio between the target's answers and those of `made`, the failing ones first; no further than to
        the first ratio above `limit`."""
        if remembers(made):
            other = View(made, self.frame)
            _again(other, self.view.log[: self.begin])
            return self._compared(self.answers, other, base, limit)
        return self._compared([*failing, *self._rest(failing)], View(made, self.frame), base, limit)

    def _rest(self, failing: Sequence[Answer]) -> list[Answer]:
        chosen = {id(one) for one in failing}
        return [one for one in self.answers if id(one) not in chosen]

    def confirmed(self, names: tuple[str, ...], base: Dialect) -> float:
        """The worst ratio on fresh questions."""
        fresh = self.fresh
        made = compose(names, base)
        assert made is not None
        other = View(made, self.frame)
        if remembers(made):
            _again(other, self.view.log[: self._mark])
        return self._compared(fresh, other, base)

    def _compared(
        self, answers: Sequence[Answer], other: View, base: Dialect, limit: float = 1.0, edge: View | None = None
    ) -> float:
        worst = 0.0
        for given in answers:
            found = answer(given.probe, other)
            slack = self.predictions.of(given.probe, base)
            worst = max(worst, alike(given, found, slack, _sensitivity(given.probe, other, edge)))
            if worst > limit:
                break
        return worst

    def pairs(self, base: Dialect, budget: Budget) -> Outcome:
        """Two slips at a time: what a target does wrong in one stage is one of them, or both together."""
        outcome = Outcome()
        failing = self.failing(base)
        chosen = _one_of_each_stage(failing)
        matches: dict[str, list[bool]] = {}
        moves: dict[str, list[bool]] = {}
        memory: set[str] = set()
        for name in CATALOGUE if chosen else ():
            if budget.spent:
                outcome.exhausted = False
                return outcome
            made = compose((name,), base)
            if made is None:
                continue
            found, moved = self._matches(made, chosen, base)
            if any(moved):
                matches[name], moves[name] = found, moved
                memory |= {name} if remembers(made) else set()
        clean: dict[str, bool] = {}
        composite = [one.probe.stage in COMPOSITE for one in chosen]
        for tier in _promising(matches, moves, composite, memory):
            for names in tier:
                if budget.spent:
                    outcome.exhausted = False
                    break
                for name in names:
                    if name not in clean:
                        clean[name] = self._spares(name, base, failing)
                if all(clean[name] for name in names):
                    self._try(names, base, failing, outcome)
            if outcome.explanations:
                break
        outcome.explanations.sort(key=lambda one: one.ratio)
        return outcome

    def _spares(self, name: str, base: Dialect, failing: list[Answer]) -> bool:
        """Whether a slip leaves alone what the target gives right."""
        made = compose((name,), base)
        if made is None or remembers(made):
            return made is not None
        return self._compared(self._rest(failing), View(made, self.frame), base) <= 1

    def _matches(self, made: Deviant, chosen: Sequence[Answer], base: Dialect) -> tuple[list[bool], list[bool]]:
        """Which answers a slip gives, and which it changes at all."""
        others: list[Answer] = []
        if remembers(made):
            view = View(made, self.frame)
            _again(view, self.view.log[: self.begin])
            told = {id(one): answer(one.probe, view) for one in self.answers}
            others = [told[id(one)] for one in chosen]
        else:
            others = [answer(one.probe, View(made, self.frame)) for one in chosen]
        found: list[bool] = []
        for one, other in zip(chosen, others, strict=True):
            slack = self.predictions.of(one.probe, base)
            found.append(alike(one, other, slack, _sensitivity(one.probe, View(made, self.frame))) <= 1)
        moved = [gives or self.predictions.ratio(one, base) > 1 for gives, one in zip(found, others, strict=True)]
        return found, moved


def _promising(
    matches: dict[str, list[bool]], moves: dict[str, list[bool]], composite: list[bool], memory: set[str]
) -> list[list[tuple[str, str]]]:
    """Pairs that between them give every failing answer; then those that give the parts, and move what is composed of
    them; then those that both change what neither gives. To one that remembers, every answer is composed of others."""

    def tier(one: str, two: str) -> int:
        worst = 0
        for k, whole in enumerate(composite):
            if matches[one][k] or matches[two][k]:
                continue
            if (whole or one in memory or two in memory) and (moves[one][k] or moves[two][k]):
                worst = max(worst, 1)
            elif moves[one][k] and moves[two][k]:
                worst = max(worst, 2)
            else:
                return 3
        return worst

    tiers: list[list[tuple[str, str]]] = [[], [], [], []]
    for pair in itertools.combinations(matches, 2):
        tiers[tier(*pair)].append(pair)
    return tiers[:3]


def remembers(made: Deviant) -> bool:
    """Whether earlier calls matter to an implementation."""
    return type(made).prepare is not Deviant.prepare


def _again(view: View, log: Sequence[tuple[str, tuple[object, ...]]]) -> None:
    for method, arguments in list(log):
        try:
            view.call(method, *arguments)
        except Exception:  # what raised for the target may raise here
            continue


def _one_of_each_stage(answers: Sequence[Answer]) -> list[Answer]:
    """The first failing answer of every stage; of the circumstances, which have little in common, a few."""
    found: dict[tuple[str, int], Answer] = {}
    for k, one in enumerate(answers):
        found.setdefault((one.probe.stage, k if one.probe.stage == "execution" else 0), one)
    return list(found.values())[:10]


def _sensitivity(probe: Probe, view: View, edge: View | None = None) -> Callable[[Answer], list[Tensor]]:
    """What a few units of rounding, in the inputs and in the answers, make of the answers of an implementation.

    The declared dialect's bound knows nothing of what a slip amplifies: a line of logits multiplied by 20, a state that
    is not normalised.
    """

    def measure(found: Answer) -> list[Tensor]:
        unit = torch.finfo(torch.float64 if probe.dtype == torch.float64 else torch.float32).eps
        own = [32 * unit * value.double().abs().nan_to_num(0, 0, 0) for value in found.values]
        if edge is not None and len(far := answer(probe, edge).values) == len(own):
            own = [o + (_plain(a) - _plain(b)).abs() for o, a, b in zip(own, found.values, far, strict=True)]
        implementation = view.implementation
        if isinstance(implementation, Deviant) and remembers(implementation):
            return own  # asking again would change what it remembers
        generator = torch.Generator().manual_seed(3)

        def shaken(value: Tensor) -> Tensor:
            noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            return (value.double() * (1 + 4 * unit * noise)).to(value.dtype)

        moved = answer(replace(probe, inputs=tuple(map_tensors(one, shaken) for one in probe.inputs)), view)
        if moved.error or len(moved.values) != len(found.values):
            return own
        pairs = zip(own, found.values, moved.values, strict=True)
        return [o + 8 * (a.double() - b.double()).abs().nan_to_num(0, 0, 0) for o, a, b in pairs]

    return measure


def _plain(value: Tensor) -> Tensor:
    return value.double().nan_to_num(0, 0, 0)
