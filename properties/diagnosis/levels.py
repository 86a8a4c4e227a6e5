"""What is wrong with a target, peeled off level by level: what explains the values is the base for what comes later.

An explanation of one level must give what the target gives there, and must not spoil what the target gives right. So
two slips of different levels, or of different stages of one level, cost one search of the catalogue each, not one of
all pairs; and what nothing explains leaves the earlier levels as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field, replace

from mhc_ref import Dialect
from properties.catalogue.deviations import CATALOGUE, Deviant, Kind
from properties.diagnosis.answers import Answer
from properties.diagnosis.budget import Budget
from properties.diagnosis.composing import compose, orders, remembers
from properties.diagnosis.explanation import Explanation, Search
from properties.diagnosis.findings import grouped, joined
from properties.diagnosis.measuring import candidates
from properties.diagnosis.standing import NAN, VALUE, Standing, Trials, made_of_explanation
from properties.diagnosis.units import FORWARD, LEVELS, Unit
from properties.diagnosis.view import View

FITTING: dict[str, frozenset[Kind]] = {
    "nan": frozenset(("missing-term", "eps", "normalisation", "execution", "gamed", "dtype")),
    "precision": frozenset(("dtype", "execution", "eps")),
    "gradient": frozenset(("gradient", "execution", "dtype", "missing-term")),
    "execution": frozenset(("execution", "gamed", "dtype")),
    "exception": frozenset(("execution", "packing", "dtype")),
}
"""Kinds of slips that show at a level and need not show before it; the values may be spoiled by any."""

READABLE = 10.0
"""A next best explanation above this ratio, or not that many times nearer than the dialect itself, tells nothing."""

FOLLOWED = 3
"""How many of those that come next are compared with all values."""

MOST = 4
"""So many slips are looked for at one level."""


@dataclass
class Peeled:
    """What the levels came to.

    Attributes:
        standing: the explanation, and what it leaves.
        ties: explanations that leave nothing more and are as plain.
        nearest: the best of those that do not fit, where it is worth reading, with its ratio.
        exhausted: whether the search was finished within its time.
    """

    standing: Standing
    ties: list[Explanation] = field(default_factory=lambda: [])
    nearest: tuple[str, float] = ("", math.inf)
    exhausted: bool = True


class Peeling:
    """One search by levels.

    Arguments:
        search: the answers of the target.
        base: the declared dialect.
        measured: the dialect that was inferred, asked for when values are wrong, with the groups of fields that may act
            in them.
        single: whether everything may have been computed in single precision, see `float32-inside`.
    """

    def __init__(
        self,
        search: Search,
        base: Dialect,
        measured: Callable[[Set[str]], Dialect],
        single: Callable[[Dialect], bool],
        budget: Budget,
    ) -> None:
        self.search, self.base, self.budget = search, base, budget
        self.trials = Trials(search)
        self._measured, self._single = measured, single
        self._found: Dialect | None = None
        self._closest: list[tuple[float, str, Explanation]] = []
        self.exhausted = True

    def result(self) -> Peeled:
        """Every level in turn."""
        here = Peeled(self.trials.whole(Explanation(self.base, (), 0.0)))
        silent = all(one.error for one in self.search.answers)
        for level in range(0 if silent else len(LEVELS)):
            here = self._explained(here, level)
        here.exhausted = self.exhausted
        if not here.standing.wrong:  # all of the exam; what is fresh may tell more
            ratio = self.trials.confirmed(here.standing, len(LEVELS))
            explanation = replace(here.standing.explanation, ratio=ratio)
            more = self.trials.asked_again(here.standing) if ratio > 1 else {}
            here.standing = replace(here.standing, explanation=explanation, ratios=here.standing.ratios | more)
        if here.standing.wrong and not silent:
            here.nearest = self._nearest(here.standing)
        return here

    def _explained(self, begun: Peeled, level: int) -> Peeled:
        """One more slip after the other as long as each explains something of the level."""
        reached = begun
        for _ in range(MOST):
            front = self._front(reached.standing, level)
            following = self._further(reached, level, front) if front else []
            if not following and level == VALUE:  # what is offered for the whole need not be made of what is beside it
                whole = [one for one in self._front(reached.standing, level, shadowed=True) if one not in front]
                following = self._further(reached, level, whole) if whole else []
            if not following:
                break
            reached = self._best(following, reached, level)
            if not reached.standing.wrong_at(level):
                break
        if level == VALUE and reached is begun and begun.standing.wrong_at(VALUE):
            reached = self._by_two(begun, reached)
        return reached

    def _best(self, following: list[Peeled], before: Peeled, level: int) -> Peeled:
        """What leaves least, and of that what changes least of what it does not explain; with its ties."""
        following.sort(key=lambda one: self._rank(one.standing, level))
        left = self._rank(following[0].standing, level)[:2]
        equals = [one for one in following if self._rank(one.standing, level)[:2] == left]
        if len(equals) > 1 and following[0].standing.wrong_at(level):
            moved = {one.standing: self._moves(one.standing, before.standing) for one in equals}
            equals.sort(key=lambda one: (moved[one.standing], self._rank(one.standing, level)))
        best = equals[0]
        plain = [one for one in equals[1:] if self._plainness(one) == self._plainness(best)]
        best.ties += [one.standing.explanation for one in plain]
        return best

    def _moves(self, one: Standing, before: Standing) -> int:
        """How many answers an explanation changes that it does not give, and that were wrong before."""
        return sum(
            not self.trials.same(given, one, before) for given in dict.fromkeys(unit.given for unit in one.wrong)
        )

    def _rank(self, one: Standing, level: int) -> tuple[float, ...]:
        """Less is better: what is left of the level, of the others, what had to be assumed."""
        explanation = one.explanation
        # of as many changes those of fields are the plainest
        plain = len(grouped(self.base, explanation.dialect)) + 1.01 * len(explanation.names)
        plain += 1.5 * len(explanation.measured)
        left = [unit for unit in one.wrong if unit.level <= level]
        return len(left), len(one.wrong), plain, explanation.ratio

    def _plainness(self, one: Peeled) -> float:
        return self._rank(one.standing, VALUE)[2]

    # One more slip

    def _further(self, here: Peeled, level: int, front: list[Answer]) -> list[Peeled]:
        """What explains more of a level than an explanation does, each by one more slip."""
        found: list[Peeled] = []
        for k, way in enumerate(self._ways(here.standing.explanation, level, front)):
            for one in way:
                if self.budget.spent:
                    self.exhausted = False
                    break
                standing = self._fits(one, here.standing, level, front)
                if standing is not None:
                    found.append(Peeled(standing, list(here.ties)))
            done = any(not one.standing.wrong for one in found) or (k and found) or not self.exhausted
            if done:
                break
        return found

    def _front(self, here: Standing, level: int, *, shadowed: bool = False) -> list[Answer]:
        """The first answer of every stage that is wrong by itself, the cheapest first; of circumstances all. Or also
        of those into which something else that is wrong may enter."""
        found: dict[tuple[str, str], Answer] = {}
        for unit in here.wrong_at(level):
            if shadowed or not here.shadowed(unit):
                stage = unit.given.probe.stage
                found.setdefault((stage, "" if stage in FORWARD else unit.given.probe.name), unit.given)
        answers = sorted(found.values(), key=lambda one: _dear(one.probe.stage))
        return list(dict.fromkeys(answers))

    def _ways(self, here: Explanation, level: int, front: list[Answer]) -> Iterator[Iterator[Explanation]]:
        """Explanations with one more slip, those that are likely first; a later way only where none before will do."""
        if level == VALUE:
            yield self._by_fields(here)
            if not here.names and not here.measured and self._single(here.dialect):
                yield iter([replace(here, names=("float32-inside",))])
        kinds = FITTING.get(LEVELS[level])
        names = [name for name in CATALOGUE if name not in here.names]
        if level == VALUE:
            names = [name for name in names if CATALOGUE[name].kind != "gradient"]
        chosen = [name for name in names if kinds is None or CATALOGUE[name].kind in kinds]
        memory = {name for name in chosen if self._remembers(name, here.dialect)}
        yield (replace(here, names=(*here.names, name)) for name in chosen if name not in memory)
        if level == VALUE:
            yield self._by_numbers(here, front)
        yield (replace(here, names=(*here.names, name)) for name in chosen if name in memory)
        if kinds is not None:
            yield (replace(here, names=(*here.names, name)) for name in names if name not in chosen)

    def _remembers(self, name: str, base: Dialect) -> bool:
        made = compose((name,), base)
        return made is not None and remembers(made)

    def _by_fields(self, here: Explanation) -> Iterator[Explanation]:
        """The fields that were measured: all that differ, then each choice by itself."""
        found = self._inferred()
        groups = grouped(self.base, found)
        left = [one for one in groups if not all(here.dialect.fields().get(k) == v for k, v in one.items())]
        every = {name: value for group in left for name, value in group.items()}
        for fields in [every, *left] if len(left) > 1 else left:
            dialect = joined(here.dialect, fields)
            if dialect != here.dialect:
                yield replace(here, dialect=dialect)

    def _by_numbers(self, here: Explanation, front: list[Answer]) -> Iterator[Explanation]:
        for one in candidates(
            front,
            self.search.frame,
            self.search.predictions,
            here.dialect,
            beside=here.names,
            numbers=here.measured,
            answers=self.search.answers,
        ):
            yield replace(here, measured=(*here.measured, one))

    def _inferred(self) -> Dialect:
        if self._found is None:
            self._found = self._measured(self._in_question())
        return self._found

    def _in_question(self) -> set[str]:
        """The groups of fields that what is wrong of the values depends on."""
        declared = self.trials.whole(Explanation(self.base, (), 0.0))
        wrong = [unit for unit in declared.wrong if unit.level in (VALUE, NAN)]
        stages = {unit.given.probe.stage for unit in wrong}
        asked = {one.probe.stage for one in self.search.answers}
        of_res = {unit.place == 2 for unit in wrong if unit.given.probe.stage == "mappings"}
        groups = {"structure"} if wrong else set[str]()
        if "project" in stages or ("project" not in asked and stages & {"mappings", "block", "depth"}):
            groups.add("projection")
        if False in of_res or ("mappings" not in asked and stages & {"block", "depth"}):
            groups.add("coefficients")
        return groups

    def _fits(self, one: Explanation, before: Standing, level: int, front: list[Answer]) -> Standing | None:
        """What one explanation comes to, if it explains more of the level than another and spoils nothing."""
        ways = [one]
        if len(one.names) > 1 and one.names != before.explanation.names:
            ways = [replace(one, names=names) for names in orders(one.names, one.dialect)]
        for way in ways:
            made = made_of_explanation(way)
            if made is None and (way.names or way.measured):
                continue
            if not self._helps(way, made, before, level, front):
                continue
            reached = self.trials.standing(way, lambda ratios: self._spoils(ratios, before, level))
            if reached is None or not any(reached.ratios[unit] <= 1 for unit in before.wrong_at(level)):
                continue
            standing = self._lean(reached, before)
            ratio = self.trials.confirmed(standing, level)
            if ratio <= 1:
                return replace(standing, explanation=replace(standing.explanation, ratio=ratio))
        return None

    def _helps(self, one: Explanation, made: Deviant | None, before: Standing, level: int, front: list[Answer]) -> bool:
        """Whether it gives a unit of the front that was wrong, and all that were right."""
        if made is not None and remembers(made):
            return True  # only the whole exam in its order can tell
        helped, least = False, math.inf
        view = View(made, self.search.frame) if made is not None else None
        for given in front:
            ratios = self.trials.moved(given, one, view, before)
            if any(ratios[unit] > 1 and before.ratios[unit] <= 1 for unit in ratios if unit.level <= level):
                return False
            wrong = [unit for unit in ratios if unit.level == level and before.ratios[unit] > 1]
            helped = helped or any(ratios[unit] <= 1 for unit in wrong)
            least = min([least, *(ratios[unit] for unit in wrong)])
        if not helped and 1 < least <= READABLE:
            self._closest.append((least, _words(one, before.explanation), one))
        return helped

    def _lean(self, one: Standing, before: Standing) -> Standing:
        """Without the changes of fields that make no difference."""
        groups = grouped(before.explanation.dialect, one.explanation.dialect)
        if len(groups) < 2:
            return one
        for group in groups:
            fields = {name: before.explanation.dialect.fields().get(name) for name in group}
            dialect = joined(
                one.explanation.dialect, {name: value for name, value in fields.items() if value is not None}
            )
            if dialect == one.explanation.dialect or dialect == before.explanation.dialect:
                continue
            less = self.trials.whole(replace(one.explanation, dialect=dialect))
            if set(less.wrong) <= set(one.wrong):
                one = less
        return one

    def _spoils(self, ratios: dict[Unit, float], before: Standing, level: int) -> bool:
        return any(ratio > 1 and before.ratios[unit] <= 1 for unit, ratio in ratios.items() if unit.level <= level)

    # Two at once, and what comes next

    def _by_two(self, begun: Peeled, reached: Peeled) -> Peeled:
        """Two slips that only together give the values."""
        found = self._inferred()
        below = self.search.below(VALUE)
        bases = dict.fromkeys((found, self.base))
        for base in sorted(bases, key=lambda one: len(below.failing(one))):
            if not below.failing(base):
                continue
            outcome = below.pairs(base, self.budget)
            self.exhausted = self.exhausted and outcome.exhausted
            standings = [self.trials.whole(one) for one in outcome.explanations]
            standings = [one for one in standings if not one.wrong_at(VALUE)]
            if standings:
                standings.sort(key=lambda one: self._rank(one, VALUE))
                best = self._rank(standings[0], VALUE)[:3]
                ties = [one.explanation for one in standings[1:] if self._rank(one, VALUE)[:3] == best]
                return Peeled(standings[0], ties)
        return reached

    def _nearest(self, here: Standing) -> tuple[str, float]:
        """Of what leaves the bound by little where it leaves it first, the best with its worst ratio on the values."""
        best = ("", math.inf)
        declared = max((ratio for unit, ratio in here.ratios.items() if unit.level == VALUE), default=0.0)
        for least, words, one in sorted(self._closest, key=lambda each: each[:2])[:FOLLOWED]:
            if least * READABLE > declared:
                continue
            ratios = self.trials.whole(one).ratios
            worst = max((ratio for unit, ratio in ratios.items() if unit.level == VALUE), default=math.inf)
            if worst <= READABLE and worst * READABLE <= declared:
                best = min(best, (words, worst), key=lambda pair: pair[1])
        return best


def _words(one: Explanation, before: Explanation) -> str:
    names = [name for name in one.names if name not in before.names]
    fields = [f"{name} = {value!r}" for name, (value, _) in one.dialect.difference(before.dialect).items()]
    return ", ".join([*fields, *names, *(str(number) for number in one.measured if number not in before.measured)])


def _dear(stage: str) -> int:
    order: Sequence[str] = ("project", "pre", "post", "mappings", "expand", "collapse", "block", "precision", "depth")
    return order.index(stage) if stage in order else len(order)
