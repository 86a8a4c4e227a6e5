"""What an implementation makes of a little rounding, and how it is asked again what another was asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from properties.catalogue.deviations import Deviant
from properties.core.case import BranchSpec, map_tensors
from properties.diagnosis.answers import Answer, answer
from properties.diagnosis.composing import remembers
from properties.diagnosis.probe import Probe
from properties.diagnosis.view import View
from properties.guards.faults import TargetFault


def again(view: View, log: Sequence[tuple[str, tuple[object, ...], tuple[BranchSpec, ...]]]) -> None:
    """Everything that was asked of another, in the same order, of somebody who may remember it."""
    for asked in list(log):
        try:
            view.ask(*asked)
        except TargetFault:  # what raised for the target may raise here
            continue


def sensitivity(probe: Probe, view: View, edge: View | None = None) -> Callable[[Answer], list[Tensor]]:
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
