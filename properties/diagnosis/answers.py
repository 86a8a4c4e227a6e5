"""Answers to an exam, and how far a dialect or another implementation is from giving the same ones."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mhc_ref import Dialect
from properties.bounds import Approx, Rounding
from properties.core.estimate import ratio
from properties.core.implementation import Mixing, Products, Storage
from properties.diagnosis.judge import Judge, Unanswerable
from properties.diagnosis.probe import Probe
from properties.diagnosis.view import BadOutput, View
from properties.guards.faults import TargetFault
from properties.guards.traces import place_of

SINGLE = Rounding(2.0**-24 + 2.0**-53, torch.finfo(torch.float32).tiny, 2.0**-24, torch.finfo(torch.float32).tiny)
"""float64 states of which everything is computed in float32."""


@dataclass(frozen=True, eq=False)
class Answer:
    """What came back for a probe: tensors, or in their place what was raised, by the name of its class and its place in
    the target's own code; see `told`."""

    probe: Probe
    values: tuple[Tensor, ...]
    error: str = ""
    message: str = ""
    place: str = ""

    @property
    def told(self) -> str:
        """What happened instead of an answer: ``raises ValueError: too many``."""
        if self.error == BadOutput.__name__:
            return f"gives what cannot be used: {self.message}"
        return f"raises {self.error}: {self.message}".rstrip(": ")

    @property
    def outcome(self) -> tuple[str, str]:
        """What two answers have in common that raise the same, or give what has the same wrong form."""
        return self.error, self.message if self.error == BadOutput.__name__ else ""


def answer(probe: Probe, view: View) -> Answer:
    """Put a probe to an implementation; whatever it raises is its answer, and what we raise is not."""
    view.progress(f"asking for {probe.name}")
    try:
        return Answer(probe, tuple(probe.put(view)))
    except TargetFault as fault:
        return Answer(probe, (), fault.kind, fault.message.partition("\n")[0], place_of(fault.error))


class Predictions:
    """What dialects predict, each computed once."""

    def __init__(
        self,
        mixing: Mixing,
        double: Rounding | None = None,
        products: Products = "compute",
        parameters: Storage = "compute",
        short: Sequence[str] = (),
    ) -> None:
        """`double`: what float64 states are held to, instead of float64 (`SINGLE`); the rest as the target declares."""
        self._mixing: Mixing = mixing
        self._products: Products = products
        self._stored: tuple[Storage, Sequence[str]] = (parameters, short)
        self._double = double
        self._found: dict[tuple[Probe, Dialect], list[Approx] | None] = {}
        self._judges: dict[tuple[Dialect, torch.dtype], Judge] = {}

    def of(self, probe: Probe, dialect: Dialect) -> list[Approx] | None:
        """Values with bounds; None where the dialect cannot answer."""
        key = (probe, dialect)
        if key not in self._found:
            place = (dialect, probe.dtype)
            if place not in self._judges:
                own = self._double if probe.dtype == torch.float64 else None
                self._judges[place] = Judge(dialect, probe.dtype, self._mixing, own, self._products, *self._stored)
            try:
                self._found[key] = probe.expect(self._judges[place], *probe.inputs)
            except Unanswerable:
                self._found[key] = None
        return self._found[key]

    def ratios(self, given: Answer, dialect: Dialect) -> list[float]:
        """error / bound of each tensor of an answer."""
        expected = self.of(given.probe, dialect)
        if expected is None or len(expected) != len(given.values):
            return [math.inf]
        found: list[float] = []
        for value, approx, admitted in zip(given.values, expected, self.admitted(given), strict=True):
            found.append(ratio(value, approx.value, approx.error) if admitted else math.inf)
        return found

    def admitted(self, given: Answer) -> list[bool]:
        """Whether each tensor of an answer has a dtype that it may have."""
        own = given.probe.dtype
        fine = (torch.float64,) if own == torch.float64 else (torch.float32, torch.float64)
        fine = (own, *fine) if self._stored[1] else fine
        narrow = itertools.chain(given.probe.narrow, itertools.repeat(True))  # of a branch that was called too often
        return [
            value.dtype == own if one else value.dtype in fine for value, one in zip(given.values, narrow, strict=False)
        ]

    def ratio(self, given: Answer, dialect: Dialect) -> float:
        """The worst of them."""
        return max(self.ratios(given, dialect), default=0.0)


def alike(given: Answer, other: Answer, slack: list[Approx] | None, extra: Callable[[Answer], list[Tensor]]) -> float:
    """How far two answers to one probe are apart, in units of what rounding explains in both together.

    `slack` holds the bounds of the declared dialect; `extra` adds what a hypothesis is more sensitive to, asked for
    only where that could decide.
    """
    if given.error or other.error:
        return 0.0 if given.outcome == other.outcome else math.inf
    if len(given.values) != len(other.values):
        return math.inf
    if any(a.shape != b.shape or a.dtype != b.dtype for a, b in zip(given.values, other.values, strict=True)):
        return math.inf
    errors = [2 * one.error for one in slack] if slack is not None and len(slack) == len(given.values) else None
    if errors is None or any(e.shape != v.shape for e, v in zip(errors, given.values, strict=True)):
        errors = [roughly(value) for value in given.values]
    errors = [torch.where(torch.isfinite(e), e, roughly(v)) for e, v in zip(errors, given.values, strict=True)]
    triples = list(zip(given.values, other.values, errors, strict=True))
    worst = max((ratio(a, b, e) for a, b, e in triples), default=0.0)
    if 1 < worst < 1e9:
        more = extra(other)
        worst = max(ratio(a, b, e + m) for (a, b, e), m in zip(triples, more, strict=True))
    return worst


def roughly(value: Tensor) -> Tensor:
    """A few units of roundoff of a tensor, where nothing better is known."""
    size = value.double().nan_to_num(0, 0, 0).abs()
    top = size.amax() if size.numel() else 0.0
    eps = torch.finfo(value.dtype if value.dtype.is_floating_point else torch.float32).eps
    return 64 * eps * (size + top)
