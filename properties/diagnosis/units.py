"""The answers of an exam taken apart: every tensor by itself, what is not finite in it by itself, on levels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mhc_ref import Dialect
from properties.core.estimate import ratio
from properties.diagnosis.answers import Answer, Predictions, roughly

UnitKind = Literal["value", "nan", "exception"]

FORWARD = ("project", "pre", "post", "mappings", "expand", "collapse", "block", "depth")
"""Stages of questions about values in the finest dtype, what others are made of first."""

LEVELS = ("value", "nan", "precision", "gradient", "execution", "exception")
"""What a slip of an earlier level does shows in the later ones too, so the earlier ones are explained first."""

_MADE_OF: dict[str, tuple[str, ...]] = {
    "mappings": ("project",),
    "block": ("project", "mappings", "pre", "post"),
    "depth": ("project", "mappings", "pre", "post", "block", "expand", "collapse"),
}


def made_of(method: str) -> tuple[str, ...]:
    """The stages that enter the answers about a method, its own included."""
    return (*_MADE_OF.get(method, ()), method)


@dataclass(frozen=True, eq=False)
class Unit:
    """One tensor of an answer, or the part of it that is not finite though it should be, or what was raised.

    Attributes:
        place: which tensor of the answer; all of them where it is -1.
        level: its place in `LEVELS`.
        broken: where the tensor is not finite though it should be: a unit of its own, "nan", and left out of the value.
    """

    given: Answer
    place: int
    kind: UnitKind
    level: int
    broken: Tensor | None = None

    @property
    def key(self) -> tuple[str, int, UnitKind]:
        """The same for a fresh question of this sort."""
        return self.given.probe.name, self.place, self.kind

    @property
    def method(self) -> str:
        """What it is about, whatever the circumstances."""
        return self.given.probe.of or self.given.probe.stage


def _level(given: Answer, kind: UnitKind) -> int:
    if kind == "exception":
        return LEVELS.index("exception")
    stage = given.probe.stage
    return LEVELS.index(stage) if stage in LEVELS else LEVELS.index("value" if kind == "value" else "nan")


class Sheet:
    """The units of all answers, and how far a hypothesis is from each of them."""

    def __init__(self, predictions: Predictions, base: Dialect) -> None:
        self.predictions, self.base = predictions, base
        self._units: dict[Answer, list[Unit]] = {}

    def units(self, given: Answer) -> list[Unit]:
        """Of one answer, by what the declared dialect predicts for it."""
        if given not in self._units:
            self._units[given] = list(self._taken_apart(given))
        return self._units[given]

    def _taken_apart(self, given: Answer) -> Iterable[Unit]:
        expected = self.predictions.of(given.probe, self.base)
        if given.error:
            yield Unit(given, -1, "exception", _level(given, "exception"))
            return
        if expected is None or len(expected) != len(given.values):
            yield Unit(given, -1, "value", _level(given, "value"))
            return
        for place, (value, exact) in enumerate(zip(given.values, expected, strict=True)):
            broken = None
            if value.shape == exact.value.shape:
                lost = ~torch.isfinite(value) & torch.isfinite(exact.value) & torch.isfinite(exact.error)
                broken = lost if bool(lost.any()) else None
            if broken is not None:
                yield Unit(given, place, "nan", _level(given, "nan"), broken)
            if broken is None or not bool(broken.all()):
                yield Unit(given, place, "value", _level(given, "value"), broken)

    def by_dialect(self, given: Answer, dialect: Dialect) -> dict[Unit, float]:
        """error / bound of each unit under a dialect without a slip."""
        units = self.units(given)
        if given.error or units[0].place < 0:
            return dict.fromkeys(units, self.predictions.ratio(given, dialect) if not given.error else math.inf)
        expected = self.predictions.of(given.probe, dialect)
        if expected is None or len(expected) != len(given.values):
            return dict.fromkeys(units, math.inf)
        admitted = self.predictions.admitted(given)
        return {
            one: _of(one, given.values[one.place], expected[one.place].value, expected[one.place].error)
            if admitted[one.place]
            else math.inf
            for one in units
        }

    def alike(self, one: Answer, two: Answer) -> bool:
        """Whether two implementations of ours give the same answer, up to a few roundings."""
        if one.error or two.error or len(one.values) != len(two.values):
            return one.outcome == two.outcome and not one.values and not two.values
        return all(
            a.dtype == b.dtype and ratio(a, b, roughly(b)) <= 1 for a, b in zip(one.values, two.values, strict=True)
        )

    def one_prediction(self, given: Answer, one: Dialect, two: Dialect) -> bool:
        """Whether two dialects predict the same for a question."""
        first, second = (self.predictions.of(given.probe, dialect) for dialect in (one, two))
        if first is None or second is None or len(first) != len(second):
            return False
        return all(ratio(a.value, b.value, a.error + b.error) <= 1 for a, b in zip(first, second, strict=True))

    def by_another(
        self, given: Answer, other: Answer, slack: Dialect, extra: Callable[[Answer], list[Tensor]]
    ) -> dict[Unit, float]:
        """How far each unit is from the answer of an implementation, in units of what rounding explains in both.

        Where that implementation answers as the dialect does, a unit is as far from it as from the dialect: a slip
        explains nothing where it makes no difference.
        """
        units = self.units(given)
        if given.error or other.error:
            return dict.fromkeys(units, 0.0 if given.outcome == other.outcome else math.inf)
        if len(given.values) != len(other.values):
            return dict.fromkeys(units, math.inf)
        expected = self.predictions.of(given.probe, slack)
        errors = [2 * one.error for one in expected] if expected and len(expected) == len(given.values) else []
        found: dict[Unit, float] = {}
        plain = self.by_dialect(given, slack)
        more: Sequence[Tensor] | None = None
        for one in units:
            places = range(len(given.values)) if one.place < 0 else (one.place,)
            worst = 0.0
            for k in places:
                a, b = given.values[k], other.values[k]
                if a.shape != b.shape or a.dtype != b.dtype:
                    worst = math.inf
                    break
                error = errors[k] if errors and errors[k].shape == a.shape else roughly(a)
                error = torch.where(torch.isfinite(error), error, roughly(a))
                own = _of(one, a, b, error)
                if 1 < own < 1e9:
                    more = more or extra(other)
                    own = _of(one, a, b, error + more[k])
                worst = max(worst, own)
            if one.place >= 0 and math.inf > plain[one] > 1 >= worst and expected and errors:  # inf: another dtype
                exact = expected[one.place]
                worst = plain[one] if _of(one, other.values[one.place], exact.value, exact.error) <= 1 else worst
            found[one] = worst
        return found


def _of(unit: Unit, given: Tensor, other: Tensor, error: Tensor) -> float:
    """The ratio of the numbers of a unit alone."""
    if given.shape != other.shape:
        return math.inf
    if unit.kind == "nan":
        assert unit.broken is not None
        a, b = given[unit.broken], other[unit.broken].to(given.dtype)
        return 0.0 if bool(((a == b) | (a.isnan() & b.isnan())).all()) else math.inf
    if unit.broken is None:
        return ratio(given, other, error)
    kept = ~unit.broken
    return ratio(given[kept], other[kept], error[kept])
