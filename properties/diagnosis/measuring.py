"""How the number of a slip is measured: solved for in one answer, and compared with what others say.

An answer is asked of the same slip with other numbers, and the number is looked for by Newton's method for least
squares, in units of the bounds. The bar is what every element of the answer admits: its bound over its slope. Of a
factor an answer is a linear function, so that one step is exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mhc_ref import Dialect
from mhc_ref.packing import streams_of_params
from properties.core.estimate import Estimate
from properties.core.trial import wide
from properties.diagnosis.amounts import Amount, Numbered, Shape
from properties.diagnosis.answers import Answer, Predictions, answer
from properties.diagnosis.composing import compose
from properties.diagnosis.measured import KINDS, Measured, forms
from properties.diagnosis.sensitivity import sensitivity
from properties.diagnosis.view import Frame, View

FORWARD = ("project", "pre", "post", "mappings", "expand", "collapse", "block", "depth")
"""Stages of answers that show a number."""

SHAPES = 3
"""How many different n and C a number is compared at."""

FAR = math.log1p(10)
"""Bits, in units of `_cost`, that an element may be away on average where a number is found."""

ROUNDS = 12
"""Steps of Newton's method; from a start within a factor of 2 it takes four."""


def candidates(
    failing: Sequence[Answer],
    frame: Frame,
    predictions: Predictions,
    base: Dialect,
    *,
    beside: tuple[str, ...] = (),
    numbers: tuple[Measured, ...] = (),
    answers: Sequence[Answer] = (),
) -> Iterator[Measured]:
    """What might explain answers that a dialect does not: every number that one answer shows. Whether it explains the
    others is for whoever asks.

    Arguments:
        failing: answers that are wrong, the first of which count.
        beside: named slips, and
        numbers: measured ones, next to which another is looked for.
        answers: all that were asked, by which it is seen how a number depends on n and C.
    """
    first = list({one.probe.stage: one for one in reversed(failing)}.values())[::-1]
    known = _Known()
    for name, kinds in KINDS.items():
        for kind in kinds:
            if not kind.shows(base, frame) or any(issubclass(kind, one.kind) for one in numbers):
                continue
            one = _Number(name, kind, frame, predictions, base, beside, numbers, known)
            found = one.measured(first, [*failing, *answers])
            if found is not None:
                yield found


@dataclass(frozen=True)
class _Seen:
    """One tensor of an answer: the target's, and its error."""

    given: Answer
    place: int
    value: Tensor
    error: Tensor


@dataclass
class _Known:
    """What is the same for all kinds.

    Attributes:
        plain: tensors of answers without the slip.
        whole: answers of which one kind explains every tensor, so that what explains some of them is not asked for.
    """

    plain: dict[tuple[Answer, int], Tensor] = field(default_factory=lambda: {})
    whole: set[Answer] = field(default_factory=lambda: set[Answer]())


class _Number:
    """The number of one kind of slip, next to others."""

    def __init__(
        self,
        name: str,
        kind: type[Numbered],
        frame: Frame,
        predictions: Predictions,
        base: Dialect,
        beside: tuple[str, ...],
        numbers: tuple[Measured, ...],
        known: _Known,
    ) -> None:
        self.known = known
        self.name, self.kind, self.frame, self.predictions, self.base = name, kind, frame, predictions, base
        made = compose(beside, base, *numbers, Measured(name, kind, Estimate(1.0, 1.0, 1.0)))
        self.made = made if isinstance(made, Numbered) else None
        self.others = {one.kind: one.amount() for one in numbers}

    def measured(self, failing: Sequence[Answer], answers: Sequence[Answer]) -> Measured | None:
        """The number that the first of the wrong answers has on which it acts, and the formula of n and C that it is
        where others have another one."""
        if self.made is None:
            return None
        for given in failing:
            for seen in self._wrong(given):
                first = self._solved(seen, self._starts(seen))
                if first is None:
                    return None
                if self._whole(given, first.value):
                    self.known.whole.add(given)
                elif given in self.known.whole:
                    return None
                return self._compared(seen, first, answers)
        return None

    def _whole(self, given: Answer, size: float) -> bool:
        """Whether a number explains all tensors of an answer."""
        return all(
            bool(
                ((one.value - self._values(given, one.place, size)).abs() <= 8 * one.error)[one.value.isfinite()].all()
            )
            for one in self._tensors(given)
        )

    def _compared(self, seen: _Seen, first: Estimate, answers: Sequence[Answer]) -> Measured | None:
        """With the estimates of other n and C."""
        shapes = [self._shape(seen.given)]
        found = [first]
        for given in sorted(answers, key=lambda one: one.probe.stage != seen.given.probe.stage):
            if given.error or given.probe.stage not in FORWARD or len(shapes) == SHAPES:
                continue
            shape = self._shape(given)
            if shape in shapes:
                continue
            for other in self._wrong(given):
                own = [Amount(1.0, form).of(*shape) for form in self._forms(shapes, found)]
                estimate = self._solved(other, [first.value, *own])
                if estimate is not None:
                    shapes.append(shape)
                    found.append(estimate)
                    break
        low, high = max(one.low for one in found), min(one.high for one in found)
        if low <= high:
            value = min(max(first.value, low), high)
            return Measured(self.name, self.kind, Estimate(value, low, high), "", tuple(shapes))
        form = next(iter(self._forms(shapes, found)), None)
        return Measured(self.name, self.kind, first, form, tuple(shapes)) if form else None

    def _forms(self, shapes: Sequence[Shape], found: Sequence[Estimate]) -> list[str]:
        pairs = list(zip(shapes, found, strict=True))
        return [
            form for form in forms(self.kind) if all(one.admits(Amount(1.0, form).of(*shape)) for shape, one in pairs)
        ]

    def _shape(self, given: Answer) -> Shape:
        """n and C of a question; C is None where the number does not know it."""
        probe = given.probe
        if probe.stage == "project":
            return given.values[0].shape[-1], None
        if probe.stage == "depth":
            channels = probe.inputs[0].shape[-1]
            n = streams_of_params(probe.inputs[1][0], self.frame.packing, channels)
        else:
            n, channels = (given.values[0] if probe.stage == "expand" else probe.inputs[0]).shape[-2:]
        return n, channels if self.kind.wide else None

    # One answer

    def _values(self, given: Answer, place: int, size: float) -> Tensor:
        """A tensor of the answer that the slip gives with a number; one without numbers where it gives none."""
        assert self.made is not None
        self.made.numbers = {**self.others, self.kind: Amount(size)}
        found = answer(given.probe, View(self.made, self.frame))
        usable = len(found.values) == len(given.values) and found.values[place].shape == given.values[place].shape
        return wide(found.values[place]) if usable else torch.full(given.values[place].shape, math.nan).double()

    def _wrong(self, given: Answer) -> Iterator[_Seen]:
        """The tensors of an answer that are not what they are without the slip, where the slip acts."""
        return filter(self._acts, self._tensors(given))

    def _tensors(self, given: Answer) -> Iterator[_Seen]:
        if given.error or given.probe.stage not in FORWARD:
            return
        exact = self.predictions.of(given.probe, self.base)
        if exact is None or len(exact) != len(given.values):
            return
        for place, (value, own) in enumerate(zip(given.values, exact, strict=True)):
            if value.shape != own.value.shape or not value.numel():
                continue
            unit = torch.finfo(value.dtype).eps
            error = own.error.double() + 4 * unit * own.value.double().abs()
            error = error.nan_to_num(posinf=math.inf) + torch.finfo(torch.float64).tiny
            yield _Seen(given, place, wide(value), error)

    def _acts(self, seen: _Seen) -> bool:
        """Whether the slip moves the tensor, and everything in it that is clearly wrong."""
        kind = self.kind
        place = seen.given, seen.place
        if place not in self.known.plain:
            self.known.plain[place] = self._values(*place, kind.neutral)
        plain = self.known.plain[place]
        far = (seen.value - plain).abs()
        if not bool((far > 4 * seen.error).any()):
            return False
        probe = {"linear": 2.0, "factors": 2.0, "offsets": 1.0, "eps": 1e-3}[kind.search]
        moved = (self._values(seen.given, seen.place, probe) - plain).abs()
        if not bool((moved > 0).any()):
            return False
        still = (moved == 0) & (far > 1e3 * seen.error)
        return kind.search == "eps" or not bool(still.any())

    def _starts(self, seen: _Seen) -> list[float]:
        """Numbers one of which is near enough for Newton's method."""
        kind = self.kind
        if kind.search == "linear":
            return [1.0]
        if kind.search == "eps":
            return [10.0**-k for k in range(14)]
        if kind.search == "offsets":
            return [-6.0, -3.0, -1.0, -0.3, 0.3, 1.0, 3.0, 6.0]
        return [-1.0, 0.02, 0.1, 0.3, 0.6, 1.5, 3.0, 9.0, 25.0]

    def _solved(self, seen: _Seen, starts: Sequence[float]) -> Estimate | None:
        """The number with which the tensor is as it is; None where there is none, or none that can be told from that
        with which nothing is wrong."""
        size = min(starts, key=lambda one: self._cost(seen, one)) if len(starts) > 1 else starts[0]
        cost = self._cost(seen, size)
        for _ in range(ROUNDS):
            step = self._step(seen, size)
            if step is None:
                return None
            less = self._cost(seen, self._moved(size, step))
            if less > cost:
                step /= 8
                less = self._cost(seen, self._moved(size, step))
            if less > cost - 1:  # it is as near as it gets, which is the number where there is one
                size = self._moved(size, step) if less < cost else size
                break
            size, cost = self._moved(size, step), less
        return self._bar(seen, size) if cost <= FAR * seen.value.numel() else None

    def _moved(self, size: float, step: float) -> float:
        """An eps stays positive."""
        return size * math.exp(max(-3.0, min(3.0, step / size))) if self.kind.search == "eps" else size + step

    def _cost(self, seen: _Seen, size: float) -> float:
        """How far an answer is with a number: bits lost, which a few elements that are far away do not decide."""
        apart = (seen.value - self._values(seen.given, seen.place, size)).abs() / seen.error
        return float(torch.log1p(apart[torch.isfinite(seen.value)].nan_to_num(nan=1e300)).sum())

    def _slope(self, seen: _Seen, size: float) -> tuple[Tensor, Tensor]:
        """The answer, and by how much it changes with the number."""
        narrow = seen.given.probe.dtype != torch.float64
        here = self._values(seen.given, seen.place, size)
        width = (1e-2 if narrow else 1e-5) * (abs(size) or 1.0)
        up, down = (self._values(seen.given, seen.place, size + sign * width) for sign in (1, -1))
        return here, (up - down) / (2 * width)

    def _step(self, seen: _Seen, size: float) -> float | None:
        here, slope = self._slope(seen, size)
        weight = torch.where(torch.isfinite(seen.value) & torch.isfinite(slope), 1 / seen.error, 0.0)
        scaled = slope.nan_to_num() * weight
        top = scaled.abs().amax()
        if not top > 0:
            return None
        scaled = scaled / top
        return float(((seen.value - here).nan_to_num() * weight / top * scaled).sum() / scaled.square().sum())

    def _bar(self, seen: _Seen, size: float) -> Estimate | None:
        """Every number that all elements admit."""
        here, slope = self._slope(seen, size)
        assert self.made is not None
        self.made.numbers = {**self.others, self.kind: Amount(size)}
        view = View(self.made, self.frame)
        more = sensitivity(seen.given.probe, view)(answer(seen.given.probe, view))
        error = 2 * seen.error + more[seen.place]
        told = torch.isfinite(seen.value) & torch.isfinite(here) & torch.isfinite(error) & (slope.abs() > 0)
        if not bool(told.any()):
            return None
        off, error, slope = (seen.value - here)[told], error[told], slope[told]
        low, high = (
            float(((off * slope.sign() - error) / slope.abs()).max()),
            float(((off * slope.sign() + error) / slope.abs()).min()),
        )
        if low > high:
            return None
        middle = size + (low + high) / 2
        reach = (high - low) / 2 + 8 * torch.finfo(torch.float64).eps * abs(size)
        if not abs(middle - self.kind.neutral) > 2 * reach or (self.kind.search == "eps" and middle <= reach):
            return None
        return Estimate(middle, middle - reach, middle + reach)
