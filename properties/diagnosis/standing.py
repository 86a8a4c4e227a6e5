"""One explanation beside the whole exam: what it gives of each answer, and what it leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from properties.catalogue.deviations import Deviant
from properties.diagnosis.answers import Answer, answer
from properties.diagnosis.composing import compose, remembers
from properties.diagnosis.explanation import Explanation, Search
from properties.diagnosis.sensitivity import again, sensitivity
from properties.diagnosis.units import LEVELS, Unit, made_of
from properties.diagnosis.view import MAPPINGS, View

VALUE, NAN = LEVELS.index("value"), LEVELS.index("nan")


@dataclass(frozen=True, eq=False)
class Standing:
    """An explanation with the ratio of every unit of the exam, and the answers that it gives where it has a slip."""

    explanation: Explanation
    ratios: dict[Unit, float]
    told: dict[Answer, Answer]

    @property
    def wrong(self) -> list[Unit]:
        """The units that it leaves unexplained."""
        return [one for one, ratio in self.ratios.items() if ratio > 1]

    def wrong_at(self, level: int) -> list[Unit]:
        """Those of one level."""
        return [one for one in self.wrong if one.level == level]

    def shadowed(self, unit: Unit) -> bool:
        """Whether something else that is unexplained enters a unit, so that it says nothing by itself."""
        level, stage = (unit.level if unit.level <= NAN else VALUE), unit.given.probe.stage
        enters = [one for one in self.wrong if one.level == level and one.given.probe.stage in made_of(unit.method)]
        if unit.level <= NAN:
            enters = [one for one in enters if one.given.probe.stage != stage]
        if stage == "mappings" and len(unit.given.values) == len(MAPPINGS) and unit.place < 2:
            return False  # h_pre and h_post are made of nothing else
        if stage == "block" and unit.place == 0:  # as is the branch input of h_pre and the state
            stages = {"pre"} | ({"mappings"} if any(one.place == 0 for one in enters if _maps(one)) else set[str]())
            return any(one.given.probe.stage in stages for one in enters)
        return bool(enters)


def _maps(unit: Unit) -> bool:
    return unit.given.probe.stage == "mappings"


def made_of_explanation(one: Explanation) -> Deviant | None:
    """An implementation with an explanation's slips; None where it has none, or they make none together."""
    return compose(one.names, one.dialect, *one.measured) if one.names or one.measured else None


class Trials:
    """The exam of a target, and every explanation that is put to it."""

    def __init__(self, search: Search) -> None:
        self.search, self.sheet = search, search.sheet
        self._again: dict[Explanation, dict[Unit, float]] = {}
        self._edges: dict[Explanation, View | None] = {}

    def standing(
        self, one: Explanation, given_up: Callable[[dict[Unit, float]], bool] | None = None
    ) -> Standing | None:
        """An explanation and the whole exam; None where it was given up at an answer."""
        made = made_of_explanation(one)
        view = View(made, self.search.frame) if made is not None else None
        if view is not None and made is not None and remembers(made):
            again(view, self.search.view.log[: self.search.begin])
        ratios: dict[Unit, float] = {}
        told: dict[Answer, Answer] = {}
        for given in self.search.answers:
            if view is not None:
                told[given] = answer(given.probe, view)
            now = self._compared(given, told.get(given), one, view)
            if given_up is not None and given_up(now):
                return None
            ratios |= now
        return Standing(one, ratios, told)

    def whole(self, one: Explanation) -> Standing:
        """An explanation and the whole exam."""
        found = self.standing(one)
        assert found is not None
        return found

    def ratios(self, given: Answer, one: Explanation, view: View | None) -> dict[Unit, float]:
        return self._compared(given, answer(given.probe, view) if view is not None else None, one, view)

    def _compared(self, given: Answer, found: Answer | None, one: Explanation, view: View | None) -> dict[Unit, float]:
        if view is None or found is None:
            return self.sheet.by_dialect(given, one.dialect)
        return self.sheet.by_another(given, found, one.dialect, sensitivity(given.probe, view, self._edge(one)))

    def _edge(self, one: Explanation) -> View | None:
        """An explanation with every measured number at the end of its bar; None where it has none."""
        if one.measured and one not in self._edges:
            made = compose(one.names, one.dialect, *(number.edge() for number in one.measured))
            usable = made is not None and not remembers(made)
            self._edges[one] = View(made, self.search.frame) if made is not None and usable else None
        return self._edges.get(one)

    def confirmed(self, one: Standing, level: int) -> float:
        """The worst ratio on fresh questions of what an explanation gives at a level and before it."""
        explained = {unit.key for unit in one.ratios if unit.level <= level} - {unit.key for unit in one.wrong}
        return max((ratio for unit, ratio in self.asked_again(one).items() if unit.key in explained), default=0.0)

    def asked_again(self, one: Standing) -> dict[Unit, float]:
        """Every unit of the fresh answers, each explanation compared with them once."""
        fresh, explanation = self.search.fresh, replace(one.explanation, ratio=0.0)
        if explanation not in self._again:
            made = made_of_explanation(explanation)
            view = View(made, self.search.frame) if made is not None else None
            if view is not None and made is not None and remembers(made):
                again(view, self.search.view.log[: self.search.mark])
            ratios: dict[Unit, float] = {}
            for given in fresh:
                ratios |= self.ratios(given, explanation, view)
            self._again[explanation] = ratios
        return self._again[explanation]

    def moved(self, given: Answer, one: Explanation, view: View | None, before: Standing) -> dict[Unit, float]:
        """The ratios of an explanation; those of another where both give the same, which is soon seen."""
        if view is None:
            return self.ratios(given, one, view)
        found = answer(given.probe, view)
        if given in before.told:
            same = self.sheet.alike(found, before.told[given])
        else:
            same = self.sheet.predictions.ratio(found, before.explanation.dialect) <= 1 and not found.error
        if same and not given.error:
            return {unit: before.ratios[unit] for unit in self.sheet.units(given)}
        return self._compared(given, found, one, view)

    def same(self, given: Answer, one: Standing, two: Standing) -> bool:
        told = [each.told.get(given) for each in (one, two)]
        if told[0] is not None and told[1] is not None:
            return self.sheet.alike(told[0], told[1])
        if told[0] is None and told[1] is None:
            return self.sheet.one_prediction(given, one.explanation.dialect, two.explanation.dialect)
        found, dialect = (told[0], two.explanation.dialect) if told[0] else (told[1], one.explanation.dialect)
        assert found is not None
        return not found.error and self.sheet.predictions.ratio(found, dialect) <= 1
