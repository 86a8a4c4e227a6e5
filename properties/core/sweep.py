"""Laws that go through sizes one by one: the points that they visit, and what is expected at many of them together.

Tokens are independent, and layers follow one another: what is expected of the most tokens, or of the most layers, has
in it what is expected of fewer. So points of one width share their inputs, one reference and one bound, which are kept
for the next implementation of the same dialect.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from mhc_ref import Params
from properties.core.case import Case, map_tensors
from properties.core.rounding import Approx
from properties.core.size import Size
from properties.core.sums import adding_up

Values = dict[str, Approx]
"""What is expected, by what it is called."""


class At(Protocol):
    """What is expected of every first so many tokens and layers.

    Attributes:
        numbers: how many it holds.
    """

    @property
    def numbers(self) -> int: ...

    def __call__(self, tokens: int, layers: int) -> Values:
        """What is expected of the first so many."""
        ...


BY_TOKEN = ("x", "y", "h", "h_post", "h_res", "logits", "cotangents")
"""The values of a case that have one entry for every token."""
BY_LAYER = ("params", "branches")
"""The values of a case that have one for every layer, where they are tuples."""

_MOST = 1 << 24
"""How many numbers of what is expected are kept, 128 MiB of them."""
_WORTH = 1 << 24
"""What is expected at one point is kept up to so many numbers for each second that it took to find."""
_FEW = 1 << 10
"""As few are always kept."""
_SMALL = 1 << 17
"""Inputs of no more numbers are kept."""


@dataclass(frozen=True)
class Reach:
    """How far a sweep goes.

    Attributes:
        t: it visits the covering set S(t).
        tokens, channels, layers: the most of each.
        gradients: whether it also asks for gradients.
        models: the most channels of a few that are visited beyond `channels`, as those of models.
    """

    t: int
    tokens: int
    channels: int
    layers: int
    gradients: bool = True
    models: int = 0

    def __str__(self) -> str:
        return f"S({self.t}) to T = {self.tokens}, C = {self.channels}, L = {self.layers}"


class Whole:
    """The inputs of the most tokens and layers, whose first ones are inputs by themselves, and what is expected there.

    Both are made when they are first needed. Inputs are kept that are small, or that many points have; of the others
    only those that were made last.

    Attributes:
        counts: the numbers of tokens that are asked for.
    """

    def __init__(self, make: Callable[[], Case], counts: tuple[int, ...], distinct: int) -> None:
        self._make, self.counts, self._distinct = make, counts, distinct
        self._case: Case | None = None
        self._expected: dict[Hashable, At] = {}

    @property
    def case(self) -> Case:
        """All of the inputs."""
        if self._case is not None:
            return self._case
        if _latest and _latest[0][0] is self:
            return _latest[0][1]
        made = self._make()
        if len(self.counts) > 4 or _numbers_in(made) <= _SMALL:
            self._case = made
        else:
            _latest[:] = [(self, made)]
        return made

    def expected(self, owner: Hashable, expect: Callable[[Case], At]) -> At:
        """What `owner` expects of it: what `expect` says, asked once."""
        if owner not in self._expected:
            case, begun = self.case, time.thread_time()
            with adding_up(count_of(case)[0]):
                found = expect(take(case, slice(self._distinct)))
            if isinstance(found, Kept):
                found = found.over(count_of(case)[0], self.counts)
            once = len(self.counts) * count_of(case)[1] == 1
            worth = max(_FEW, _WORTH * (time.thread_time() - begun)) if once else _MOST // 8
            if found.numbers > worth:
                return found
            self._expected[owner] = found
            _make_room(found.numbers)
            _kept.append((self, owner, found.numbers))
        return self._expected[owner]

    def forget(self, owner: Hashable) -> None:
        """Let go of what `owner` expects."""
        self._expected.pop(owner, None)


_latest: list[tuple[Whole, Case]] = []
"""The inputs that were made last and are not kept."""
_kept: deque[tuple[Whole, Hashable, int]] = deque()
"""What is expected anywhere, the oldest first, with how many numbers it has."""


def _make_room(numbers: int) -> None:
    room = _MOST - numbers - sum(size for _, _, size in _kept) if len(_kept) % 64 == 0 else 0
    while room < 0:
        whole, owner, size = _kept.popleft()
        whole.forget(owner)
        room += size


class Part(Case):
    """The first tokens and layers of a whole."""

    def __init__(self, whole: Whole, tokens: int, layers: int, **more: Any) -> None:
        values = {name: _first(name, value, tokens, layers) for name, value in whole.case.items()}
        super().__init__(**values, **more)
        self._whole, self._tokens, self._layers = whole, tokens, layers

    def expected(self, owner: Hashable, expect: Callable[[Case], At]) -> Values:
        """What `owner` expects here, out of what `expect` says of the whole."""
        return self._whole.expected(owner, expect)(self._tokens, self._layers)


@dataclass(frozen=True)
class Point:
    """One size to be visited, with its inputs.

    Attributes:
        more: values of the case beside those of the whole: how it is called.
        apart: where no size tells it from others, what does, each in words.
    """

    size: Size
    whole: Whole
    more: Mapping[str, Any]
    apart: tuple[str, ...] = ()

    def case(self) -> Part:
        """The inputs."""
        return Part(self.whole, self.size.tokens, self.size.layers, **self.more)


@dataclass(frozen=True)
class Sweep:
    """How a law goes through sizes.

    Attributes:
        points: what an implementation of such a setting is tried at, for a seed.
        at: the inputs of one size, wherever it lies; None where the implementation does not accept it.
    """

    points: Callable[[Any, Reach, int], Sequence[Point]]
    at: Callable[[Any, Size, int], Point | None]


def take(case: Case, tokens: Any) -> Case:
    """The tokens of a case that an index, or a slice, chooses."""
    return Case(**{name: map_tensors(v, lambda t: t[tokens]) if name in BY_TOKEN else v for name, v in case.items()})


def _first(name: str, value: Any, tokens: int, layers: int) -> Any:
    if name in BY_TOKEN:
        return map_tensors(value, lambda one: one[:tokens])
    return value[:layers] if name in BY_LAYER and isinstance(value, tuple) and not isinstance(value, Params) else value


def _numbers_in(case: Case) -> int:
    found = 0

    def counted(one: Tensor) -> Tensor:
        nonlocal found
        found += one.numel()
        return one

    for _, value in case.items():
        map_tensors(value, counted)
    return found


@dataclass(frozen=True)
class Kept:
    """What is expected of every first so many tokens, or layers.

    Attributes:
        by_token: an entry for every token.
        added: an entry for every token, which are added up; of every one of `counts` once `over` has been called.
        by_layer: an entry for every number of layers, each with one for every token.
        counts: the numbers of tokens whose sums are known.
        most: the largest sum that can be stored; beyond it there may be an infinity.
        parts: what has been asked for, by the numbers of tokens and layers.
    """

    by_token: Values = field(default_factory=lambda: {})
    added: Values = field(default_factory=lambda: {})
    by_layer: Values = field(default_factory=lambda: {})
    counts: Sequence[int] = ()
    most: float = math.inf
    parts: dict[tuple[int, int], Values] = field(default_factory=lambda: {})

    @property
    def numbers(self) -> int:
        """How many there are."""
        every = (*self.by_token.values(), *self.added.values(), *self.by_layer.values())
        return sum(2 * one.value.numel() for one in every)

    def over(self, tokens: int, counts: Sequence[int]) -> Kept:
        """The same for so many tokens, which come again and again, and for the sums of so many of them."""

        def again(one: Approx, axis: int) -> Approx:
            place = torch.arange(tokens) % one.value.shape[axis]
            return (
                one
                if len(place) <= one.value.shape[axis]
                else Approx(*(part.index_select(axis, place) for part in (one.value, one.error)))
            )

        by_token = {what: again(one, 0) for what, one in self.by_token.items()}
        added = {what: _sums(one, counts, self.most) for what, one in self.added.items()}
        by_layer = {what: again(one, 1) for what, one in self.by_layer.items()}
        return Kept(by_token, added, by_layer, tuple(counts), self.most)

    def __call__(self, tokens: int, layers: int) -> Values:
        """Those of the first so many."""
        if (tokens, layers) not in self.parts:
            self.parts[tokens, layers] = self._first(tokens, layers)
        return self.parts[tokens, layers]

    def _first(self, tokens: int, layers: int) -> Values:
        found = {what: Approx(one.value[:tokens], one.error[:tokens]) for what, one in self.by_token.items()}
        for what, one in self.added.items():
            place = self.counts.index(tokens)
            found[what] = Approx(one.value[place], one.error[place])
        for what, one in self.by_layer.items():
            found[what] = Approx(one.value[layers - 1][:tokens], one.error[layers - 1][:tokens])
        return found


def _sums(each: Approx, counts: Sequence[int], most: float) -> Approx:
    """The sums over the first so many tokens, for each of the counts, of tokens that come again and again; of sums
    beyond `most` nothing is claimed."""
    found: list[Tensor] = []
    distinct = each.value.shape[0]
    for part in (each.value, each.error):
        up_to = torch.cat([torch.zeros_like(part[:1]), part.cumsum(0)])
        rounds = torch.tensor([count // distinct for count in counts], dtype=torch.float64)
        rest = up_to[[count % distinct for count in counts]]
        found.append(rest + rounds.view(-1, *[1] * (part.ndim - 1)) * up_to[-1])
    value, error = found
    return Approx(value, torch.where(value.abs() + error > most, math.inf, error))


def evenly(points: Sequence[Point]) -> list[Point]:
    """The points so that the first so many are spread over all costs: the cheapest, then halfway, then the quarters,
    and so on; the dearest comes late, as a sweep that time ends shall have seen many."""
    ordered = sorted(points, key=lambda one: (one.size.numbers, str(one.size)))
    if len(ordered) < 2:
        return ordered
    bits = (len(ordered) - 1).bit_length()
    turned = sorted(range(1 << bits), key=lambda k: int(f"{k:0{bits}b}"[::-1], 2))
    return [ordered[k] for k in turned if k < len(ordered)]


def in_pairs(points: Sequence[Point]) -> tuple[list[Point], list[Point]]:
    """Points that bring every pair of circumstances together that comes together in any of them, spread over all costs;
    and the others, spread likewise.

    Many wide states that are views are rare among points that are spread by cost alone, and time may end a sweep before
    it comes to one.
    """
    seen: set[tuple[Any, ...]] = set()
    first: list[Point] = []
    rest: list[Point] = []
    for point in evenly(points):
        new = set(itertools.combinations(_circumstances(point), 2)) - seen
        seen |= new
        (first if new else rest).append(point)
    return first, rest


def _circumstances(point: Point) -> tuple[tuple[str, Any], ...]:
    """What a kernel may branch on at a point, sizes by whether they are of one or two neighbouring octaves, and each
    part of what tells it from others by itself."""
    size = point.size
    octaves = [(axis, getattr(size, axis).bit_length() // 2) for axis in ("tokens", "channels", "layers")]
    ways = [("streams", size.streams), ("gradients", size.gradients), ("contiguous", size.contiguous)]
    return *octaves, *ways, *(("apart", one) for one in point.apart)


def count_of(case: Case) -> tuple[int, int]:
    """The numbers of tokens and of layers of a case."""
    values = dict(case.items())
    tokens = next((values[name].shape[0] for name in BY_TOKEN if name in values and name != "cotangents"), 0)
    params = values.get("params", ())
    return tokens, 1 if isinstance(params, Params) else max(1, len(params))
