"""Gradient: of many forward passes that wait for their backward passes at once, as those of a pipeline do."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from properties.core.case import BranchSpec, Case
from properties.core.implementation import Implementation
from properties.core.law import Schedule
from properties.core.premises import differentiable
from properties.core.pulling import pulled_back
from properties.core.trial import Trial, wide
from properties.laws import about, pulls
from properties.laws.calls import Place
from properties.laws.premises import mixes_in_compute_dtype
from properties.strategies import Setting, seeds
from properties.strategies.sweep_inputs import BACKWARDS, inputs
from properties.strategies.sweeps import main_streams

WAITING = 40
"""More than rings of 32, and of 1 MiB each: more than 32 MiB."""
SIZE = 1 << 20
"""Bytes of a state."""
LANE = 64
"""Channels that are drawn; they come again and again up to that size."""
TOKENS = 16
"""So few that the gradient by phi is of more than a MiB, too."""
ASKED = (0, 1, WAITING // 2, WAITING - 1)
"""Whose gradients are compared."""
ONCE = Schedule(cost=10, by_streams=False, most=1, crowds=False)


@st.composite
def large_passes(draw: DrawFn, setting: Setting) -> Case:
    """A block of few channels, its branch, a cotangent, and how often its channels come again for so many bytes."""
    n, tokens = main_streams(setting), min(TOKENS, setting.max_tokens)
    channels = setting.width(LANE)
    made = inputs(setting, "block" + BACKWARDS, n, channels, tokens, 1, 1.0, "", draw(seeds))
    times = max(1, min(SIZE // (tokens * n * setting.dtype.itemsize), 8192) // channels)
    return Case(x=made.x, params=made.params, branch=made.branch, cotangent=made.cotangents[0], times=times)


def widened(case: Case) -> Case:
    """The same block, whose channels come again so often, with logits as large as before."""
    channels, times = case.x.shape[-1], case.times

    def again(one: Tensor) -> Tensor:
        return torch.cat([one] * times, -1)

    def rows(one: Tensor, size: float = 1.0) -> Tensor:
        parts = (one * size).reshape(-1, channels, *one.shape[1:])
        return torch.cat([parts] * times, 1).reshape(-1, *one.shape[1:])

    weight = case.params.norm_weight
    params = case.params._replace(
        phi=rows(case.params.phi, 1 / times), norm_weight=None if weight is None else rows(weight)
    )
    branch = BranchSpec(case.branch.kind, again(case.branch.weight))
    return Case(x=again(case.x), params=params, branch=branch, cotangent=again(case.cotangent))


@about.block(
    "gradient.many-passes-may-wait",
    "identity",
    large_passes,
    differentiable,
    mixes_in_compute_dtype,
    blind=about.ALIKE,
    schedule=ONCE,
)
def many_passes_may_wait(trial: Trial, case: Case) -> None:
    """Of forty forward passes of a MiB each that wait for their backward passes, each has the gradients that it has
    alone.

    Pipelines, and gradients that are accumulated over parts of a batch, have many passes on the way. What is saved in a
    ring, or in a buffer of so many bytes, is overwritten by the pass that comes round to it.
    """
    case = widened(case)
    case = case.with_(params=trial.stored(case.params))  # a third of phi has no place in the dtype of the state
    pulled = pulls.block(trial, case)

    def run(target: Implementation, place: Place) -> Any:
        state, *parts = (place(one) for one in pulled.inputs)
        leaves = [one.clone().requires_grad_() for one in parts]

        def forth(k: int) -> tuple[list[Tensor], tuple[Tensor, ...]]:
            given = [(state * (1 - k / 64)).requires_grad_(), *leaves]
            return given, pulled.function(target, given)

        def back(given: list[Tensor], outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return tuple(pulled_back(outputs, given, [place(case.cotangent).clone()]))

        waiting = [forth(k) for k in range(WAITING)]
        found = {k: back(*waiting[k]) for k in ASKED}
        waiting.clear()
        alone = {k: tuple(one.clone() for one in back(*forth(k))) for k in ASKED}
        return tuple((found[k], alone[k]) for k in ASKED)  # the former are held through all others

    for k, (found, alone) in zip(ASKED, trial.observe(pulled.method, run), strict=True):
        bounds = pulls.block(trial, case.with_(x=case.x * (1 - k / 64))).errors((case.cotangent,))
        for name, one, other, error in zip(pulled.names, found, alone, bounds, strict=True):
            what = f"the gradient of {pulled.method} by {name}, of pass {k} of {WAITING} that wait"
            trial.near(what, one, wide(other), 2 * error)
