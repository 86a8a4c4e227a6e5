"""Gradients through many blocks: by the state that enters, and by the parameters of every layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from mhc_ref import Params
from properties import bounds
from properties.bounds import Approx, Pullback
from properties.core.case import Case, map_tensors
from properties.core.family import end_of
from properties.core.implementation import Implementation
from properties.core.premises import differentiable
from properties.core.trial import Trial, wide
from properties.core.truth import present, regrouped
from properties.laws import about, errors
from properties.laws.depth import DEEP_GATES
from properties.laws.premises import mixes_in_compute_dtype
from properties.strategies import (
    TAME,
    Setting,
    branch_of,
    channel_count,
    coarse,
    cotangent_for,
    params_of,
    seeds,
    states_of,
    streams,
)

LINEAR = ("scale", "identity", "constant", "zero")
"""Branches whose derivative is known; first those through which a gradient passes, since few examples are drawn."""


@st.composite
def layered_pulls(draw: DrawFn, setting: Setting) -> Case:
    """A state, one to three blocks, and a cotangent of the state that they leave."""
    n = draw(streams(setting, 1, 4))
    channels = draw(channel_count(setting, 7))
    depth = draw(st.integers(1, 3))
    x = draw(states_of(setting, n, channels, most=2, scales=(1.0, 30.0)))
    params = tuple(draw(params_of(setting, n, channels, gates=DEEP_GATES, patterns=TAME)) for _ in range(depth))
    branches = tuple(draw(branch_of(setting, channels, LINEAR)) for _ in range(depth))
    return Case(x=x, params=params, branches=branches, cotangent=draw(cotangent_for(tuple(x.shape), setting.dtype)))


@st.composite
def stacked_pulls(draw: DrawFn, setting: Setting) -> Case:
    """One stream h, one to three blocks and the parameters of a head where there is one, and a cotangent."""
    case = draw(layered_pulls(setting))
    n, channels = case.x.shape[-2:]
    head = ()
    if end_of(setting.dialect).HEAD:
        head = (draw(params_of(setting, n, channels, gates=DEEP_GATES, patterns=TAME)),)
    h = case.x[:, 0].clone()
    return Case(h=h, n=n, params=case.params, branches=case.branches, head=head, cotangent=case.cotangent[:, 0].clone())


def stack_pullback(trial: Trial, case: Case) -> tuple[Approx, list[Pullback]]:
    """The gradient by h, and the pullbacks of the layers and of the head, for the cotangent of a case."""
    parts = (case.h, case.n, case.params, case.branches, case.head, case.cotangent)
    return bounds.pullback.stack(*parts, trial.dialect, trial.rounding)


def judge_layers(
    trial: Trial,
    case: Case,
    got: Sequence[Tensor],
    exact: Sequence[Tensor],
    name: str,
    by_input: Approx,
    layers: Sequence[Pullback],
) -> None:
    """Hold the gradients by the input and by the parameters of every layer to the truth's, in the order in which they
    were asked for."""
    every: tuple[Params, ...] = (*case.params, *case.head) if "head" in case else case.params
    bound = [(f"the gradient by {name}", by_input)]
    for layer, (params, back) in enumerate(zip(every, layers, strict=True)):
        where = f"of layer {layer}" if layer < len(case.params) else "of the head"
        bound += [
            (f"the gradient by {part} {where}", getattr(back, part))
            for part, value in params._asdict().items()
            if value is not None
        ]
    for one, value, (what, expected) in zip(got, exact, bound, strict=True):
        trial.within(what, one, value, expected.error.reshape(value.shape))


@about.layers(
    "gradient.layers-pull-back-to-the-state-and-every-layer",
    "oracle",
    layered_pulls,
    differentiable,
    mixes_in_compute_dtype,
    schedule=about.TOGETHER,
)
def layers_pull_back_to_the_state_and_every_layer(trial: Trial, case: Case) -> None:
    """The gradients of L blocks by the state that enters and by the parameters of every layer are exact.

    The chain rule from block to block: the cotangent that a block hands back is the one that the block before is pulled
    back by. Errors of the states grow forwards, those of the cotangents backwards (`block_pullback`).
    """

    def run(target: Implementation, x: Tensor, *parts: Tensor) -> Any:
        return target.layers(x, regrouped(parts, case.params), case.branches)

    given = [part for one in case.params for part in present(one)]
    trial.judge_exactly()
    got = trial.pull("layers", [case.x, *given], [case.cotangent], run)
    exact = trial.truth.layers_vjp(case.x, case.params, case.branches, case.cotangent)
    dialect, r = trial.dialect, trial.rounding
    states = bounds.stack.states(Approx.exact(case.x), case.params, case.branches, dialect, r)
    found = bounds.pullback.layers(states, case.params, case.branches, Approx.exact(case.cotangent), dialect, r)
    judge_layers(trial, case, got, exact, "x", found[0].x, found)


@about.stack(
    "gradient.stack-pulls-back-to-its-input-and-every-layer",
    "oracle",
    stacked_pulls,
    differentiable,
    mixes_in_compute_dtype,
    schedule=about.TOGETHER,
)
def stack_pulls_back_to_its_input_and_every_layer(trial: Trial, case: Case) -> None:
    """The gradients of a whole stack by its input and by the parameters of every layer, and of a head, are exact.

    The collapse pulls a cotangent back to every stream, the layers carry those back one by one, and the n copies of the
    input add theirs up.
    """

    def run(target: Implementation, h: Tensor, *parts: Tensor) -> Any:
        return target.stack(h, regrouped(parts, (*case.params, *case.head)), case.branches)

    given = [part for one in (*case.params, *case.head) for part in present(one)]
    trial.judge_exactly()
    every = (*case.params, *case.head)
    got = trial.pull("stack", [case.h, *given], [case.cotangent], run)
    exact = trial.truth.stack_vjp(case.h, case.n, every, case.branches, case.cotangent)
    by_h, found = stack_pullback(trial, case)
    judge_layers(trial, case, got, exact, "h", by_h, found)


@st.composite
def constant_stacks(draw: DrawFn, setting: Setting) -> Case:
    """A stack whose mappings depend on biases alone, whose branches scale every channel, and a cotangent."""
    n = draw(streams(setting, 1, 4))
    channels = draw(channel_count(setting, 7))
    depth = draw(st.integers(1, 3))
    head = end_of(setting.dialect).HEAD
    every = tuple(draw(params_of(setting, n, channels, patterns=TAME)) for _ in range(depth + head))
    still = tuple(one._replace(phi=torch.zeros_like(one.phi)) for one in every)
    branches = tuple(draw(branch_of(setting, channels, ("scale", "identity", "zero"))) for _ in range(depth))
    tokens = draw(st.integers(1, 2))
    h = torch.tensor(coarse(draw(seeds), tokens, channels) + 0.5).to(setting.dtype)
    cotangent = draw(cotangent_for((tokens, channels), setting.dtype))
    return Case(h=h, n=n, params=still[:depth], branches=branches, head=still[depth:], cotangent=cotangent)


@about.stack(
    "gradient.constant-stacks-pull-back-as-they-push-forward",
    "identity",
    constant_stacks,
    differentiable,
    mixes_in_compute_dtype,
    blind=("h-res-transposed", "norm-missing", "implicit-backward"),
    schedule=about.TOGETHER,
)
def constant_stacks_pull_back_as_they_push_forward(trial: Trial, case: Case) -> None:
    """With phi = 0 and branches that scale channels, the gradient by the input is the stack of the cotangent.

    Mappings that do not depend on the state make the stack linear, and every channel goes its own way through the same
    streams: h_c becomes s_c h_c, so the Jacobian is diagonal and its own transpose. Whoever cuts a path backwards that
    is open forwards, between layers, at the copies or at the collapse, breaks it.
    """
    every = (*case.params, *case.head)

    def run(target: Implementation, h: Tensor) -> Any:
        return target.stack(h, map_tensors(every, lambda part: part.to(h.device)), case.branches)

    back = trial.pull("stack", [case.h], [case.cotangent], run)[0]
    there, _ = trial.stack(case.cotangent, every, case.branches)
    begun = bounds.stack.begun(case.cotangent, case.n, trial.dialect, trial.rounding)
    states = bounds.stack.states(begun, case.params, case.branches, trial.dialect, trial.rounding)
    pushed = errors.collapse(trial, states[-1], *case.head)
    by_h, _ = stack_pullback(trial, case)
    trial.near("the gradient by h", back, wide(there), pushed.error + by_h.error)
