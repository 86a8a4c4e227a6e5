"""Explanations that reproduce a target equally well, and a question that would tell them apart.

A question that the target accepts is asked. What is left is a tie: either a target that accepted more would break it,
or no question does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from mhc_ref import Dialect
from mhc_ref.packing import most_streams
from properties.catalogue.deviations import Deviant
from properties.core.implementation import METHODS
from properties.diagnosis.answers import Answer, Predictions, alike, answer
from properties.diagnosis.circumstances import coarse, executions, gradients
from properties.diagnosis.exam import forward
from properties.diagnosis.probe import Probe
from properties.diagnosis.view import MAPPINGS, Frame, View

APART = 4.0
"""Answers that are closer than this, in units of what rounding explains, would not tell two explanations apart."""


@dataclass(frozen=True)
class Tie:
    """Another explanation, and the question whose answer would decide; "" where every answer is the same."""

    words: str
    question: str = ""

    def __str__(self) -> str:
        return f"{self.words} ({self.question or 'the same answers to every question here'})"


def wide_frame(frame: Frame) -> Frame:
    """What may be asked of a target that accepts everything, packed as this one."""
    return frame.with_(
        dtype=torch.float64,
        coarse=(torch.float32, torch.bfloat16),
        streams=tuple(n for n in (3, 4, 2, 5, 1, 8) if n <= (most_streams(frame.packing) or n)),
        offered=frozenset(METHODS),
        own=frozenset(METHODS),
        emits=MAPPINGS,
        zero_tokens=True,
        strided=True,
        differentiable=True,
        max_tokens=4096,
        channel_multiple=1,
        device=torch.device("cpu"),
    )


def questions(frame: Frame, seed: int) -> Iterator[Probe]:
    """An exam with other inputs."""
    yield from forward(frame, seed)
    yield from gradients(frame, seed)
    yield from coarse(frame, seed)
    yield from executions(frame, seed)


def apart(one: Deviant, two: Deviant, frame: Frame, base: Dialect, seed: int) -> Probe | None:
    """The first question of an exam that two implementations answer differently."""
    predictions = Predictions(one.mixing)
    for probe in questions(frame, seed):
        first, second = answer(probe, View(one, frame)), answer(probe, View(two, frame))
        if alike(first, second, predictions.of(probe, base), _nothing_more) > APART:
            return probe
    return None


def decided(target: View, one: Deviant, two: Deviant, probe: Probe, base: Dialect) -> tuple[bool, bool]:
    """Whether the target answers a question like one, and like the other."""
    asked = target.implementation
    predictions = Predictions(one.mixing, None, asked.products, asked.parameters, asked.short_stages)
    given = answer(probe, target)
    slack = predictions.of(probe, base)
    told = [answer(probe, View(made, target.frame)) for made in (one, two)]
    close, far = (alike(given, other, slack, _nothing_more) <= 1 for other in told)
    return close, far


def in_words(probe: Probe, frame: Frame) -> str:
    """A question, and what a target with this frame lacks to be asked it."""
    dtype = str(probe.dtype).removeprefix("torch.")
    said = f"told apart by {probe.name}"
    if probe.dtype not in (frame.dtype, *frame.coarse):
        return f"{said}, of states in {dtype}, which it does not accept"
    return said + (f" in {dtype}" if dtype not in probe.name else "")


def breaker(one: Deviant, two: Deviant, frame: Frame, base: Dialect) -> str:
    """In words, a question that would tell two explanations apart; "" where none here does."""
    probe = apart(one, two, wide_frame(frame), base, seed=3)
    return "" if probe is None else in_words(probe, frame)


def _nothing_more(found: Answer) -> list[torch.Tensor]:
    return [torch.zeros_like(value, dtype=torch.float64) for value in found.values]
