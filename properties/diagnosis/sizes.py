"""The simplest rule that says at which sizes an implementation is wrong, by few more calls."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from properties.core.size import Size
from properties.diagnosis.candidates import consistent, either
from properties.diagnosis.rules import MODES, NUMBERS, Atom, Between, Mode, Power, Residue, Rule

_CONFIRMED = 60
"""Calls that a rule must have foreseen, after it was found, to be stated; twice as many of two."""
_REFUSED = 60
"""Sizes that could not be tried, after which nothing more is asked."""
_TWOFOLD = 12
"""How often two rules may be looked for, which takes a while; a rule that is refuted so often is none."""
_UNLIKELY = 0.02
"""How much the candidates that say otherwise must weigh together, for a call to be worth it."""
_DEAREST = 8.0
"""What a rule may cost that is still likely."""


def infer(
    seen: Mapping[Size, bool], fails: Callable[[Size], bool | None], most_calls: int = 150, seed: int = 0
) -> Rule | None:
    """The simplest rule for the sizes that fail, or None where there is none that is likely.

    Candidates are the conjunctions of intervals, residues and modes that hold wherever something failed and nowhere
    else, or two of them. The next call is the one that narrows an end of the simplest by half, else the one on which
    the candidates differ most, else one that the simplest foresees, until it has foreseen enough.

    Args:
        seen: the sizes that were tried, and whether they failed.
        fails: whether a size fails; None where it cannot be tried.
        most_calls: how many calls it may take.
        seed: of the calls that are drawn.

    Returns:
        A rule that no call contradicts.
    """
    search = _Search(dict(seen), fails, most_calls, random.Random(seed))
    return search.rule()


@dataclass
class _Search:
    seen: dict[Size, bool]
    fails: Callable[[Size], bool | None]
    calls: int
    random: random.Random
    refused: set[Size] = field(default_factory=lambda: set[Size]())

    def __post_init__(self) -> None:
        known = list(self.seen)
        self.most = {axis: max((of(one) for one in known), default=1) for axis, of in NUMBERS.items()}
        self.streams = sorted({one.streams for one in known})
        self.modes = {axis: {of(one) for one in known} for axis, (of, _, _) in MODES.items()}
        self.step = {"C": math.gcd(*(one.channels for one in known)), "K": 1, "T": 1, "n": 1, "L": 1}
        self.dearest = max((one.numbers for one in known), default=1)

    def rule(self) -> Rule | None:
        """Ask until nothing is left to ask, and say what holds then."""
        rules: list[Rule] = []
        foreseeable: Iterator[Size] | None = None
        foreseen, about, twofold = 0, None, 0
        while True:
            if not rules:
                foreseeable, rules = None, consistent(self.seen)
                if not rules and twofold < _TWOFOLD:
                    twofold, rules = twofold + 1, either(self.seen)
            if not rules or rules[0].cost > _DEAREST:
                return None
            best = rules[0]
            enough = _CONFIRMED * len(best.parts)
            question, parting = None, False
            if foreseeable is None and (question := self._narrowing(best)) is None:
                question = self._parting(rules)
                parting = question is not None
                foreseeable = self._foreseeable(best) if question is None else None
            if foreseeable is not None and foreseen < enough:
                question = next(filter(self._open, foreseeable), None)
            if question is None or self.calls <= 0:
                return self._stated(best) if question is None or foreseen >= enough else None
            if (said := self._asked(question)) is None:
                continue
            if (kind := _kind(best)) != about:
                foreseen, about = 0, kind
            foreseen += (parting or foreseeable is not None) and said == best.holds(question)
            if said != best.holds(question) or parting:
                rules = []

    def _asked(self, size: Size) -> bool | None:
        said = self.fails(size)
        if said is None:
            self.refused.add(size)
        else:
            self.calls -= 1
            self.seen[size] = said
        return said

    def _open(self, size: Size) -> bool:
        """Whether a size can be tried and has not been."""
        return (
            len(self.refused) < _REFUSED
            and size not in self.seen
            and size not in self.refused
            and size.numbers <= self.dearest
            and size.streams in self.streams
            and size.channels % self.step["C"] == 0
            and all(1 <= of(size) <= self.most[axis] for axis, of in NUMBERS.items())
            and all(of(size) in self.modes[axis] for axis, (of, _, _) in MODES.items())
        )

    def _narrowing(self, rule: Rule) -> Size | None:
        """The call that halves the distance between the last size that passes and the first that fails, of an end."""
        for part in rule.parts:
            for atom in part.atoms:
                if not isinstance(atom, Between):
                    continue
                for side in (-1, 1):
                    end = atom.low if side < 0 else atom.high
                    if end is not None and (found := self._halving(part, atom, side)) is not None:
                        return found
        return None

    def _halving(self, rule: Rule, atom: Between, side: int) -> Size | None:
        of, others = NUMBERS[atom.axis], [one for one in rule.atoms if one is not atom]
        inside, outside = self._ends(rule, atom, side)
        if outside is None:
            return None
        step = math.lcm(
            self.step[atom.axis],
            *(a.modulus for a in others if isinstance(a, Residue) and a.axis == atom.axis and a.equal),
        )
        low, high = sorted((of(inside), of(outside)))
        for value in _outwards(low, high, of(inside), step):
            for base in (inside, outside):
                for size in self._moved(base, atom.axis, value):
                    if self._open(size) and all(one.holds(size) for one in others):
                        return size
        return None

    def _ends(self, rule: Rule, atom: Between, side: int) -> tuple[Size, Size | None]:
        """The outermost size that fails, and the nearest beyond it that passes for this end alone."""
        of = NUMBERS[atom.axis]
        inside = max(
            (one for one, failed in self.seen.items() if failed and rule.holds(one)), key=lambda one: side * of(one)
        )
        rest = [one for one in rule.atoms if one is not atom]
        outer = [
            one
            for one, failed in self.seen.items()
            if not failed and side * of(one) > side * of(inside) and all(a.holds(one) for a in rest)
        ]
        alike = min(outer, key=lambda one: (side * of(one), _distance(one, inside)), default=None)
        return inside, alike

    def _moved(self, base: Size, axis: str, value: int) -> Iterator[Size]:
        """A size with another number, and all else as it was."""
        if axis == "T":
            yield dataclasses.replace(base, tokens=value)
        elif axis == "C":
            yield dataclasses.replace(base, channels=value)
        elif axis == "n":
            yield dataclasses.replace(base, streams=value)
        elif axis == "L":
            yield dataclasses.replace(base, layers=value)
        else:
            for n in sorted(self.streams, key=lambda n: n != base.streams):
                if value % n == 0:
                    yield dataclasses.replace(base, streams=n, channels=value // n)

    def _parting(self, rules: Sequence[Rule]) -> Size | None:
        """The call on which the candidates differ most."""
        if len(rules) == 1:
            return None
        pool = self._pool(rules)
        if not pool:
            return None
        weights = np.array([4.0 ** (rules[0].cost - one.cost) for one in rules])
        says = np.array([[one.holds(size) for size in pool] for one in rules])
        share = weights @ says / weights.sum()
        best = np.minimum(share, 1 - share)
        if best.max() <= _UNLIKELY:
            return None
        likely = [pool[k] for k in np.flatnonzero(best >= best.max() - 0.02)]
        return min(likely, key=lambda one: one.numbers)

    def _foreseeable(self, rule: Rule) -> Iterator[Size]:
        """Calls whose answers the rule foresees: known ones with a number far from where it was, then others, failing
        and passing in turn."""
        failing = sorted((one for one, failed in self.seen.items() if failed), key=lambda one: one.numbers)
        beside = (one for one, failed in self.seen.items() if not failed and self._near(rule, one, failing=False))
        passing = min(beside, key=lambda one: one.numbers, default=failing[0])
        for base in dict.fromkeys((failing[0], failing[len(failing) // 2], passing)):
            yield from self._elsewhere(base)
        for number in range(5):
            pool = self._pool([rule])
            self.random.shuffle(pool)
            fails, passes = ([one for one in pool if self._near(rule, one, failing)] for failing in (True, False))
            turns = itertools.chain.from_iterable(zip(fails, passes, strict=False))
            yield from itertools.islice(turns, 30) if number < 4 else pool

    def _near(self, rule: Rule, size: Size, failing: bool) -> bool:
        """Whether a size fails by the rule, or passes for one condition alone."""
        broken = min(sum(not atom.holds(size) for atom in part.atoms) for part in rule.parts)
        return broken == (0 if failing else 1)

    def _elsewhere(self, base: Size) -> Iterator[Size]:
        """A size with one number or mode changed, by much."""
        for axis in MODES:
            yield dataclasses.replace(base, **{axis: not getattr(base, axis)})
        for axis, most in self.most.items():
            for value in (1, 3, round(math.sqrt(most)), most // 2 + 1, most):
                yield from itertools.islice(self._moved(base, axis, value), 1)

    def _pool(self, rules: Iterable[Rule]) -> list[Size]:
        """Sizes that can be tried: those seen with one or two of their numbers or modes changed."""
        failing = sorted((s for s, failed in self.seen.items() if failed), key=lambda s: s.numbers)
        passing = sorted((s for s, failed in self.seen.items() if not failed), key=lambda s: s.numbers)
        bases = [*_some(failing, self.random), *_some(passing, self.random)]
        values = {axis: self._values(axis, rules) for axis in NUMBERS}
        found: dict[Size, None] = {}
        for base in bases:
            for axis, those in values.items():
                for value in those:
                    for size in self._moved(base, axis, value):
                        found[size] = None
            for axis in MODES:
                found[dataclasses.replace(base, **{axis: not getattr(base, axis)})] = None
            for _ in range(8):
                size = base
                for axis in self.random.sample(list(NUMBERS), 2):
                    size = next(self._moved(size, axis, self.random.choice(values[axis])), size)
                found[size] = None
        return [one for one in found if self._open(one)]

    def _values(self, axis: str, rules: Iterable[Rule]) -> list[int]:
        """Numbers at which rules may differ."""
        most = self.most[axis]
        found = {1, 2, 3, 4, 5, 8, most}
        if axis == "n":
            return self.streams
        for rule in rules:
            for atom in (atom for part in rule.parts for atom in part.atoms if atom.axis == axis):
                if isinstance(atom, Between):
                    found |= {end + k for end in (atom.low, atom.high) if end for k in (-1, 0, 1)}
                elif isinstance(atom, Power):
                    found |= {2 ** self.random.randint(1, most.bit_length()) + k for k in (-1, 0, 1)}
                elif isinstance(atom, Residue):
                    times = self.random.randint(1, max(1, most // atom.modulus - 1))
                    found |= {k * atom.modulus + atom.residue + e for k in (1, 2, 3, times) for e in (0, 1)}
        for _ in range(6):
            found.add(int(math.exp(self.random.uniform(0, math.log(most + 0.5)))))
        return [one for one in sorted(found) if 1 <= one <= most]

    def _stated(self, rule: Rule) -> Rule:
        """The rule with its ends rounded to what lies between the last that passes and the first that fails."""
        parts = [self._told(part) for part in rule.parts]
        return dataclasses.replace(parts[0], other=parts[1] if len(parts) > 1 else None)

    def _told(self, part: Rule) -> Rule:
        atoms: list[Atom] = []
        for atom in part.atoms:
            if isinstance(atom, Between) and atom.low != atom.high:
                low, high = (self._rounded(part, atom, side) for side in (-1, 1))
                low = 1 if high == 1 else low
                atoms.append(dataclasses.replace(atom, low=low, high=high))
            else:
                atoms.append(atom)
        order = [*NUMBERS, *MODES]
        atoms.sort(key=lambda one: order.index(one.axis))
        ended = {one.axis for one in atoms if isinstance(one, Between) and one.high is not None}
        open_ended = {one.axis for one in atoms if not isinstance(one, Mode)} - ended - {"n"}
        failed = [size for size, failed in self.seen.items() if failed and part.holds(size)]
        tried = [(axis, max(NUMBERS[axis](size) for size in failed)) for axis in NUMBERS if axis in open_ended]
        return Rule(tuple(atoms), tried=tuple(tried))

    def _rounded(self, rule: Rule, atom: Between, side: int) -> int | None:
        end = atom.low if side < 0 else atom.high
        if end is None:
            return None
        _, outside = self._ends(rule, atom, side)
        beyond = None if outside is None else NUMBERS[atom.axis](outside)
        return end if beyond is None or _roundness(beyond) <= _roundness(end) else beyond - side


def _kind(rule: Rule) -> frozenset[object]:
    """What a rule is about, whatever its ends."""
    kinds: set[object] = set()
    for atom in rule.atoms:
        kinds.add((atom.axis, atom.low is None, atom.high is None) if isinstance(atom, Between) else atom)
    return frozenset(kinds)


def _outwards(low: int, high: int, anchor: int, step: int) -> Iterator[int]:
    """What lies strictly between, in the class of the anchor modulo the step, from the middle outwards."""
    first = low + 1 + (anchor - low - 1) % step
    inside = range(first, high, step)
    middle = len(inside) // 2
    for k in itertools.islice(itertools.count(), min(len(inside), 64)):
        at = middle + (k + 1) // 2 * (-1 if k % 2 else 1)
        if 0 <= at < len(inside):
            yield inside[at]


def _distance(one: Size, other: Size) -> int:
    return sum(of(one) != of(other) for of in NUMBERS.values())


def _roundness(value: int) -> int:
    return (value & -value).bit_length()


def _some(sizes: Sequence[Size], chance: random.Random) -> list[Size]:
    """A few of them, the smallest first."""
    return [*sizes[:2], *chance.sample(list(sizes[2:]), min(4, max(0, len(sizes) - 2)))]
