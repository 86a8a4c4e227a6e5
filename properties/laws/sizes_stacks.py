"""Sizes of a whole stack, backwards: what is fused from the first stream to the last has launches of its own."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mhc_ref import Params
from properties import bounds
from properties.core.case import Case
from properties.core.implementation import Implementation
from properties.core.premises import differentiable
from properties.core.sweep import At, Kept
from properties.core.trial import Trial
from properties.core.truth import Truth, present, regrouped
from properties.laws import about, sizes_calls
from properties.laws.premises import fused, mixes_in_compute_dtype
from properties.laws.sizes import ONCE
from properties.laws.sizes_backwards import BY_LAYER, OF_PARAMETERS, parameter_names
from properties.laws.sizes_calls import Named, Stage, swept
from properties.laws.sizes_layouts import layout_of, returning
from properties.laws.sizes_pulls import pulled
from properties.strategies.sweep_inputs import BACKWARDS
from properties.strategies.sweeps_backwards import stack_runs

OF_THE_HEAD = frozenset(f"{name} of the head" for name in OF_PARAMETERS)


def _every(case: Case) -> tuple[Params, ...]:
    return (*case.params, *case.head)


def _names(case: Case) -> list[str]:
    """What there are gradients by: the stream, and the parameters of each layer and of a head."""
    whose = [*(f"layer {layer}" for layer, _ in enumerate(case.params)), *("the head" for _ in case.head)]
    of_each = zip(_every(case), whose, strict=True)
    return ["h", *(f"{name} of {owner}" for one, owner in of_each for name in parameter_names(one))]


def _stack(trial: Trial, case: Case) -> Named:
    def run(target: Implementation, h: Tensor, *parts: Tensor) -> Any:
        return target.stack(h, regrouped(parts, _every(case)), returning(case.branches, layout_of(case)))

    given = [part for one in _every(case) for part in present(one)]
    return pulled(trial, "stack", _names(case), [case.h, *given], case, run, ["the stack"])


def _stacked(trial: Trial, case: Case) -> At:
    given = (case.params, case.branches, case.head, case.cotangents[0])
    by_h, backs = bounds.pullback.stack(case.h, case.n, *given, trial.dialect, trial.rounding, each=True)
    found = [
        getattr(back, name) for one, back in zip(_every(case), backs, strict=True) for name in parameter_names(one)
    ]
    first, *others = (f"the gradient by {name}" for name in _names(case))
    return Kept({first: by_h}, dict(zip(others, found, strict=True)), most=trial.rounding.parameter_max)


def _stack_exactly(truth: Truth, case: Case) -> Named:
    found = truth.stack_vjp(case.h, case.n, _every(case), case.branches, case.cotangents[0])
    return {f"the gradient by {name}": one for name, one in zip(_names(case), found, strict=True)}


STACK = Stage("stack", _stack, _stacked, _stack_exactly, BY_LAYER | OF_THE_HEAD, sizes_calls.STACK, recorded=0)

STACKED = swept("stack" + BACKWARDS, stack_runs, layered=True)


@about.stack(
    "sizes.stacks-pull-back",
    "oracle",
    STACKED.draw,
    fused("stack"),
    differentiable,
    mixes_in_compute_dtype,
    schedule=ONCE,
    sweep=STACKED.sweep,
)
def stacks_pull_back(trial: Trial, case: Case) -> None:
    """The gradients of a whole stack of any number of tokens, channels and streams, by what enters and by the
    parameters of each layer, and of a head.

    Who fuses a stack pulls all of it back in one launch, in tiles of its own; of stacks that are put together of layers
    the parts are tried.
    """
    STACK.hold(trial, case)
