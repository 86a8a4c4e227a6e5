"""The search of a law that goes through sizes: every point, then the smallest that fails beside one that passes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from hypothesis.errors import FlakyFailure

from properties.core.case import Case, map_tensors
from properties.core.implementation import dtype_names, offers
from properties.core.size import Size
from properties.core.sweep import Point, Reach, in_pairs
from properties.core.trial import LawBroken, NoRoom
from properties.engine.search import Search
from properties.engine.subject import Status, Verdict
from properties.guards.interruption import checkpoint

_MOST = 8192
"""The most tokens and channels that a sweep goes to by itself."""
_COARSE = {1: 130, 2: 1100}
"""The most of a coarse sweep."""
_LAYERS = 129
_EVERYWHERE = 12
"""Where so many of the first points fail, and none passes, it is no matter of sizes."""
_TRIED = 4
"""Failing points that are put to the known causes, or explained."""
_PLAIN = 16
"""Sizes that fail with inputs out of the ordinary and are tried with others."""
_ASKED = 240
"""Further points that a rule may ask for."""
_AXES = ("tokens", "channels", "layers")
_EVERY = (*_AXES, "streams", "gradients", "contiguous")
_AGAIN = 6
"""Points that are visited again in the end: by then every other size has been called for between."""
_PATIENCE = 3
"""How often the time of a sweep is given to the pairs of circumstances, so that a slow machine visits them as well."""
_LEAST = 24
"""Points that are visited before time may end a sweep."""


class Sweeping(Search):
    """The search for one law that goes through sizes.

    Attributes:
        seen: the sizes that were visited, and whether one of their points failed.
    """

    def _everywhere(self) -> None:
        self._begun = self._now()
        self.seen: dict[Size, bool] = {}
        self._failing: dict[Size, Point] = {}
        self._vague: set[Size] = set()
        self._broken: dict[Size, LawBroken] = {}
        self._apart: dict[Size, Point] = {}
        self._told = ""
        sweep = self.law.sweep
        assert sweep is not None
        setting, self._seed = self.subject.setting(self.law), self.randomness or 0
        reach = self._reach()
        first, rest = in_pairs(sweep.points(setting, reach, self._seed))
        points = first + rest
        again = points[1 : 1 + _AGAIN] if len(points) > 16 * _AGAIN else []
        try:
            visited = self._visit(points + again, len(first))
        except BaseException:  # stopped from outside, or a fault of ours: what has failed until then stands
            self._keep_first()
            raise
        self._told = f"{len(self.seen)} sizes, {reach}"
        if visited < len(points):
            why = f"{self.profile.seconds:g} s had passed"
            if self._failing or self._apart:
                why = "all of them failed" if self._fails_everywhere() else "one failed" if self._enough() else why
            self._told += f"; {len(points) - visited} of {len(points)} points were left out as {why}"
        if self._failing or self._apart:
            self._explained()

    def _reach(self) -> Reach:
        """As far as the profile says in one dtype of an implementation's own method, and less far in the others."""
        implementation, t = self.subject.implementation, self.profile.sizes
        gradients, names = self.subject.trial().differentiable, dtype_names(implementation)
        own = any(offers(implementation)[method] == "own" for method in self.law.needs)
        if self.subject.dtype_name != ("float32" if "float32" in names else names[0]):
            t = min(max(1, t - 2), 2)
            few, models = _COARSE[t] // 2, _MOST if t > 1 else 0
            return Reach(t, few, few, 24, gradients, models) if own else Reach(1, 16, 16, 5, gradients)
        if not own or not implementation.in_process:
            return Reach(1, 130, 130, 12, gradients)
        most = _MOST if t > 2 else _COARSE[t]
        return Reach(t, most, most, _LAYERS, gradients)

    def _keep_first(self) -> None:
        """The smallest failure so far, where the sweep does not come to its end."""
        self._failing = self._failing or self._apart
        if self._failing:
            smallest = self._by_size()[0]
            self.failure, self.case = self._broken[smallest], _plain(self._failing[smallest])
            self._save(self.failure, self.case)

    def _now(self) -> float:
        """The time that the target takes: of this thread, so that neither a busy machine ends a sweep nor one of many
        cores, on which the threads of torch wait for one another at small sizes; of the wall where the target computes
        in another process."""
        return time.thread_time() if self.subject.implementation.in_process else time.monotonic()

    def _visit(self, points: Sequence[Point], pairs: int) -> int:
        """Visit points until all have been, or time is over, which for the first ones, with every pair of circumstances
        in them, is longer; how many have been."""
        for number, point in enumerate(points):
            seconds = self.profile.seconds * (_PATIENCE if number < pairs else 1)
            late = seconds and self._now() - self._begun > seconds
            if (late and number >= _LEAST) or (number == _EVERYWHERE and self._fails_everywhere()):
                return number
            self._fails(point)
            if self._enough():
                return number + 1
        return len(points)

    def _enough(self) -> bool:
        """Whether it is known that the law is broken, where nobody asks for the smallest size or the rule."""
        return not self.profile.shrink and self.attribution is None and bool(self._failing or self._apart)

    def _fails_everywhere(self) -> bool:
        return len(self.seen) >= min(_EVERYWHERE, 2) and all(self.seen.values())

    def _fails(self, point: Point) -> bool | None:
        """Whether the law is broken at a point, by the float64 reference; None where there is no room for it."""
        checkpoint()
        trial = self.subject.trial()
        try:
            self.law.judge(trial, point.case())
        except NoRoom as error:
            self.no_room = str(error)
            return None
        except LawBroken as broken:
            self._tally.examples += 1
            if point.apart:
                self._apart.setdefault(point.size, point)
                self._broken.setdefault(point.size, broken)
                return True
            self._failing.setdefault(point.size, point)
            self._broken[point.size] = broken
            self.seen[point.size] = True
            return True
        self._tally.examples += 1
        self._tally.add(trial)
        vague = 2 * (trial.abstentions + trial.loose) > trial.abstentions + trial.claims  # that it passes says little
        if not point.apart:
            self.seen.setdefault(point.size, False)
            if vague:
                self._vague.add(point.size)
        return None if vague else False

    def _ask(self, size: Size) -> bool | None:
        """Whether the law is broken at a further size; None where it is not accepted, or enough have been tried."""
        if size in self.seen:
            return self.seen[size]
        sweep = self.law.sweep
        late = self.profile.seconds and self._now() - self._begun > 3 * self.profile.seconds
        if sweep is None or self._asked >= _ASKED or late:
            return None
        point = sweep.at(self.subject.setting(self.law), size, self._seed)
        if point is None:
            return None
        self._asked += 1
        return self._fails(point)

    def _explained(self) -> None:
        """Infer at which sizes it fails, and take the smallest as the counterexample.

        Raises:
            LawBroken: it belongs to no known cause.
            FlakyFailure: no size that failed fails again.
        """
        self._asked = 0
        for size in sorted(self._apart, key=_cost)[:_PLAIN] if not self._failing else ():
            self._ask(size)  # whether the size is enough
        if self._enough():
            self._failing = self._failing or self._apart
        elif not self._failing:
            self._failing = self._apart
            reasons = ", or ".join(dict.fromkeys(" and ".join(point.apart) for point in self._apart.values()))
            self.also.append(f"it fails only {reasons}: at {len(self._apart)} sizes, and at none otherwise")
        elif not all(self.seen.values()):
            self._narrow(self._by_size()[0])
            if self.attribution is not None:
                known = {size: failed for size, failed in self.seen.items() if failed or size not in self._vague}
                self.attribution.rule(self.law, self.subject, known, self._ask)
        failing = self._by_size()
        self._told_of_sizes(failing)
        for size in _spread(failing):
            self._attempt(_plain(self._failing[size]))
        if self.failure is None:
            raise self._unsteady(failing[0])

    def _by_size(self) -> list[Size]:
        """The sizes that fail, the smallest first."""
        return sorted(self._failing, key=_cost)

    def _narrow(self, smallest: Size) -> None:
        """Look for a smaller size that fails: between it and the largest below that passes, where one number tells
        them apart."""
        below = self._below(smallest)
        axes = [axis for axis in _AXES if below and getattr(below, axis) != getattr(smallest, axis)]
        if below is None or len(axes) != 1:
            return
        step = self.subject.implementation.channel_multiple if axes[0] == "channels" else 1
        low, high = getattr(below, axes[0]), getattr(smallest, axes[0])
        while high - low > step:
            middle = low + (high - low) // (2 * step) * step
            failed = self._ask(replace(smallest, **{axes[0]: middle}))
            if failed is None:
                return
            low, high = (low, middle) if failed else (middle, high)

    def _below(self, smallest: Size) -> Size | None:
        """The largest size that passes below the smallest that fails, called in the same way."""
        passing = [size for size, failed in self.seen.items() if not failed and size.numbers < smallest.numbers]
        alike = [
            one for one in passing if replace(one, tokens=0, channels=0) == replace(smallest, tokens=0, channels=0)
        ]
        near = [one for one in alike if one.tokens == smallest.tokens or one.channels == smallest.channels]
        return max(near or alike or passing, key=lambda one: one.numbers, default=None)

    def _told_of_sizes(self, failing: list[Size]) -> None:
        """What the message says of sizes."""
        if self._enough():
            self.also.append(f"the first size that fails is {failing[0]}: nobody asked for a smaller one")
            return
        if not any(self.seen.values()):
            return
        if all(self.seen.values()):
            self.also.append(f"it fails at every size that was tried ({len(self.seen)})")
            return
        below = self._below(failing[0])
        of = f"{len(failing)} of {len(self.seen)} sizes fail; the smallest is {failing[0]}"
        self.also += [f"{of}{f', and below it {below} passes' if below else ''}", *self._excusing(failing)]

    def _excusing(self, failing: list[Size]) -> list[str]:
        """The limits whose declaration would have excused the failure."""
        passing = [size for size, failed in self.seen.items() if not failed]
        implementation, found = self.subject.implementation, list[str]()
        most = min(size.tokens for size in failing) - 1
        if most >= 1 and all(size.tokens <= most for size in passing):
            found.append(f"`max_tokens = {most}` would have excused it, if that is meant")
        for multiple in (256, 128, 64, 32, 16, 8, 4, 2):
            odd = all(size.channels % multiple for size in failing)
            if odd and all(size.channels % multiple == 0 for size in passing):
                found.append(f"`channel_multiple = {multiple}` would have excused it, if that is meant")
                break
        streams = {size.streams for size in passing} - {size.streams for size in failing}
        if streams and {size.streams for size in failing}.isdisjoint(size.streams for size in passing):
            found.append(f"`streams = {tuple(sorted(streams))}` would have excused it, if that is meant")
        if (
            implementation.strided
            and not any(size.contiguous for size in failing)
            and any(s.contiguous for s in passing)
        ):
            found.append("`strided = False` would have excused it, if that is meant")
        return found

    def _unsteady(self, size: Size) -> FlakyFailure:
        self.case = _plain(self._failing[size])
        self.failure = LawBroken(f"a failure at {size} did not come again", ratio=float("inf"), kind="randomness")
        self._save(self.failure, self.case)
        return FlakyFailure(f"a failure at {size} did not come again", [self.failure])

    def _smallest(self, broken: LawBroken) -> LawBroken:
        return broken

    def _plain(self, broken: LawBroken) -> LawBroken:
        return broken

    def _said(self, status: Status, reason: str, worst: float) -> Verdict:
        return replace(super()._said(status, reason, worst), sizes=self._told, visited=self._visited())

    def _visited(self) -> dict[str, list[list[int]]]:
        """Along each axis [size, points that were visited, points that failed]; of axes with one size nothing."""
        found: dict[str, list[list[int]]] = {}
        for axis in (*_AXES, "streams"):
            counts: dict[int, list[int]] = {}
            for size, failed in self.seen.items():
                at = counts.setdefault(getattr(size, axis), [0, 0])
                at[0] += 1
                at[1] += failed
            if len(counts) > 1:
                found[axis] = [[value, *counts[value]] for value in sorted(counts)]
        return found


def _cost(size: Size) -> tuple[int, str]:
    return size.numbers, str(size)


def _plain(point: Point) -> Case:
    """The inputs of a point by themselves: what is saved, and replayed anywhere."""
    return Case(**{name: map_tensors(value, lambda one: one.clone()) for name, value in point.case().items()})


def _spread(failing: list[Size]) -> list[Size]:
    """The smallest, the largest, and some between."""
    chosen = [0, len(failing) - 1, len(failing) // 2, len(failing) // 4]
    return [failing[k] for k in dict.fromkeys(chosen)][:_TRIED]
