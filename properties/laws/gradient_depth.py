"""Gradients through many blocks: by the state that enters, and by the parameters of every layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from mhc_ref import Params
from mhc_ref.packing import params_shapes
from properties import bounds
from properties.bounds import Approx, Pullback
from properties.core.case import BranchSpec, Case, map_tensors
from properties.core.family import end_of
from properties.core.implementation import Implementation
from properties.core.law import Schedule
from properties.core.premises import differentiable, where
from properties.core.trial import Trial, magnitude, wide
from properties.core.truth import present, regrouped
from properties.laws import about, errors, pulls
from properties.laws.depth import DEEP_GATES
from properties.laws.gradient_block import cotangent_of
from properties.laws.premises import mixes_in_compute_dtype, reads_by_gates
from properties.laws.pulls_of_parts import is_that_of_its_parts
from properties.strategies import (
    QUIET,
    TAME,
    Setting,
    as_deep_as,
    branch_of,
    channel_count,
    coarse,
    cotangent_for,
    far_beside,
    layers_among,
    noise,
    params_at_temperature,
    params_of_layers,
    seeds,
    states_of,
    streams,
    width_among,
)

LINEAR = ("scale", "identity", "constant", "zero", "detached")
"""Branches whose derivative is known; first those through which a gradient passes, since few examples are drawn."""


@st.composite
def layered_pulls(draw: DrawFn, setting: Setting) -> Case:
    """A state, one to three blocks, and a cotangent of the state that they leave."""
    n = draw(streams(setting, 1, 4))
    channels = draw(channel_count(setting, 7))
    depth = draw(layers_among(setting, 1, 3))
    x = draw(states_of(setting, n, channels, most=2, scales=(1.0, 30.0)))
    params = draw(params_of_layers(setting, n, channels, depth, gates=DEEP_GATES, patterns=TAME))
    branches = tuple(draw(branch_of(setting, channels, LINEAR)) for _ in range(depth))
    return Case(x=x, params=params, branches=branches, cotangent=draw(cotangent_of(setting, x)))


DEEP = 10
"""The most layers that are pulled back through: what ends after eight shows."""


@st.composite
def deep_pulls(draw: DrawFn, setting: Setting) -> Case:
    """A state of one token, up to ten blocks whose gates are nearly closed, with one branch for all of them or one for
    each, and a cotangent."""
    apart = draw(st.booleans())  # the simplest example, which is always drawn, has one for two layers
    depth = draw(as_deep_as(DEEP) if setting.crowd is None else layers_among(setting, 2, 3))
    case = draw(quiet_pulls(setting, depth if apart else max(2, depth), setting.count(1)))
    return case if apart else case.with_(branches=case.branches[:1] * len(case.branches))


@st.composite
def quiet_pulls(draw: DrawFn, setting: Setting, depth: int, tokens: int) -> Case:
    """A state, blocks whose gates are nearly closed, and a cotangent.

    The numbers of a layer come of its own seed, so that a stack of fewer layers is the beginning of this one.
    """
    n, channels = draw(streams(setting, 1, 4)), draw(width_among(setting, 2, 1, 3))
    dtype, seed = setting.parameter_dtype, draw(seeds)
    shapes = params_shapes(n, channels, setting.dialect)
    params: list[Params] = []
    branches: list[BranchSpec] = []
    for layer in range(depth):
        of = seed + 5 * layer
        phi = torch.tensor(noise(of, *shapes.phi) / math.sqrt(shapes.phi[0]), dtype=dtype)
        bias = torch.tensor(noise(of + 1, *shapes.bias), dtype=dtype)
        one = Params(phi, bias, torch.full(shapes.alpha, QUIET, dtype=dtype))
        params.append(params_at_temperature(one, n, setting.dialect))
        branches.append(BranchSpec("scale", torch.tensor(0.5 + 0.25 * noise(of + 2, channels)).to(setting.dtype)))
    x = torch.tensor(noise(seed + 3, tokens, n, channels)).to(setting.dtype)
    return Case(x=x, params=tuple(params), branches=tuple(branches), cotangent=draw(cotangent_of(setting, x)))


@st.composite
def stacked_pulls(draw: DrawFn, setting: Setting) -> Case:
    """One stream h, one to three blocks and the parameters of a head where there is one, and a cotangent."""
    case = draw(layered_pulls(setting))
    n, channels = case.x.shape[-2:]
    heads = int(end_of(setting.dialect).HEAD)
    head = draw(params_of_layers(setting, n, channels, heads, gates=DEEP_GATES, patterns=TAME))
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
    exact: Sequence[Tensor] | None,
    name: str,
    by_input: Approx,
    layers: Sequence[Pullback],
) -> None:
    """Hold the gradients by the input and by the parameters of every layer to the truth's, in the order in which they
    were asked for; without `exact` to the values of the bounds, which are of float64."""
    every: tuple[Params, ...] = (*case.params, *case.head) if "head" in case else case.params
    bound = [(f"the gradient by {name}", by_input)]
    for layer, (params, back) in enumerate(zip(every, layers, strict=True)):
        where = f"of layer {layer}" if layer < len(case.params) else "of the head"
        bound += [
            (f"the gradient by {part} {where}", getattr(back, part))
            for part, value in params._asdict().items()
            if value is not None
        ]
    for k, (one, (what, expected)) in enumerate(zip(got, bound, strict=True)):
        value = expected.value.reshape(one.shape) if exact is None else exact[k]
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
    trial.judge_exactly()
    judge_pullback(trial, case)


def judge_pullback(trial: Trial, case: Case) -> None:
    """Hold the gradients of a case of `layered_pulls` to the truth's."""

    def run(target: Implementation, x: Tensor, *parts: Tensor) -> Any:
        return target.layers(x, regrouped(parts, case.params), each_once(case.branches))

    given = [part for one in case.params for part in present(one)]
    got = trial.pull("layers", [case.x, *given], [case.cotangent], run)
    exact = trial.truth.layers_vjp(case.x, case.params, case.branches, case.cotangent)
    dialect, r = trial.dialect, trial.rounding
    state, bar = Approx.exact(case.x), Approx.exact(case.cotangent)
    found = bounds.pullback.layers(state, case.params, case.branches, bar, dialect, r)
    judge_layers(trial, case, got, exact, "x", found[0].x, found)


def each_once(branches: Sequence[BranchSpec]) -> list[BranchSpec]:
    """The branches, of which those that are alike are one object, as in a looped transformer."""
    found: list[BranchSpec] = []
    for one in branches:
        found.append(next((other for other in found if other.kind == one.kind and same_weight(one, other)), one))
    return found


def same_weight(one: BranchSpec, other: BranchSpec) -> bool:
    """Whether two branches have the same weight."""
    if one.weight is None or other.weight is None:
        return one.weight is other.weight
    return torch.equal(one.weight, other.weight)


@about.layers(
    "gradient.every-layer-learns",
    "oracle",
    deep_pulls,
    differentiable,
    mixes_in_compute_dtype,
    schedule=Schedule(most=4),
)
def every_layer_learns(trial: Trial, case: Case) -> None:
    """The gradients of up to ten blocks by the state and by the parameters of every layer are exact.

    Tables of layers end, boundaries recur, and a backward pass may be cut behind the fourth. What it needs may be kept
    by its branch, which several layers share. Gates that are nearly
    closed keep the errors of a state out of the logits of the next layer, so that something is claimed of each. The
    rounding of a float64 reference is in the bound (`Rounding.of`).
    """
    judge_pullback(trial, case)


@st.composite
def tied_pulls(draw: DrawFn, setting: Setting) -> Case:
    """Two or three layers with the same parameters."""
    case, depth = draw(deep_pulls(setting)), draw(layers_among(setting, 2, 3))
    return case.with_(params=case.params[:1] * depth, branches=case.branches[:1] * depth)


@about.layers(
    "gradient.tied-layers-add-up",
    "identity",
    tied_pulls,
    differentiable,
    mixes_in_compute_dtype,
    blind=about.ALIKE,
    schedule=Schedule(cost=5, most=2),
)
def tied_layers_add_up(trial: Trial, case: Case) -> None:
    """The gradient by parameters that several layers share is the sum of what the layers have by copies of their own:
    of all parameters, and of each where the others are not shared.

    The chain rule, for looped and universal transformers. Whoever keeps gradients, or what they need, by the parameter
    has those of the last layer only.
    """
    depth, first = len(case.params), present(case.params[0])
    count = len(first)

    def run(target: Implementation, x: Tensor, *parts: Tensor) -> Any:
        apart = regrouped(parts * depth if len(parts) < len(given) else parts, case.params)
        return target.layers(x, apart, case.branches)

    def sharing(which: int) -> list[Tensor]:
        """The gradient by the one of the parameters, then by the others layer by layer."""

        def joined(target: Implementation, x: Tensor, one: Tensor, *rest: Tensor) -> Any:
            left = iter(rest)
            parts = [one if k % count == which else next(left) for k in range(len(given))]
            return target.layers(x, regrouped(parts, case.params), case.branches)

        others = [part for k, part in enumerate(given) if k % count != which]
        return trial.pull("layers", [case.x, first[which], *others], [case.cotangent], joined)[1:]

    given = [part for one in case.params for part in present(one)]
    shared = trial.pull("layers", [case.x, *first], [case.cotangent], run)[1:]
    partly = [sharing(which) for which in range(count)] if count > 1 else []
    alone = trial.pull("layers", [case.x, *given], [case.cotangent], run)[1:]
    dialect, r = trial.dialect, trial.rounding
    state, bar = Approx.exact(case.x), Approx.exact(case.cotangent)
    found = bounds.pullback.layers(state, case.params, case.branches, bar, dialect, r)
    names = [name for name, value in case.params[0]._asdict().items() if value is not None]
    for k, (name, one) in enumerate(zip(names, shared, strict=True)):
        every = torch.stack([wide(part) for part in alone[k::count]])
        error = torch.stack([getattr(back, name).error.reshape(one.shape) for back in found]).sum(0)
        added = depth * r.unit * (magnitude(every).sum(0) + error)
        trial.near(f"the gradient by {name} of all layers", one, every.sum(0), 2 * error + added)
        if partly:
            trial.near(f"the gradient by {name}, shared alone", partly[k][0], every.sum(0), 2 * error + added)
    errors_of = [getattr(back, name).error for back in found for name in names]
    for which, (_, *rest) in enumerate(partly):
        own = [k for k in range(len(given)) if k % count != which]
        for k, one in zip(own, rest, strict=True):
            what = f"the gradient by {names[k % count]} of layer {k // count}, where layers share {names[which]} alone"
            trial.near(what, one, wide(alone[k]), 2 * errors_of[k].reshape(one.shape))


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


COUNTS = (66, 34, 6, 10)
"""Numbers of tokens off the sizes of tiles, and even, to lie on two axes."""


@st.composite
def many_stacked_pulls(draw: DrawFn, setting: Setting) -> Case:
    """One stream of many tokens, two or more quiet blocks, a head where there is one, and a cotangent."""
    tokens = setting.count(draw(st.sampled_from(COUNTS)))
    case = draw(quiet_pulls(setting, setting.depth(2), tokens))
    n, channels = case.x.shape[-2:]
    heads = int(end_of(setting.dialect).HEAD)
    head = draw(params_of_layers(setting, n, channels, heads, gates=DEEP_GATES, patterns=TAME))
    bar = torch.tensor(noise(draw(seeds), tokens, channels)).to(setting.dtype)
    return Case(h=case.x[:, 0].clone(), n=n, params=case.params, branches=case.branches, head=head, cotangent=bar)


@about.stack(
    "gradient.every-token-pulls-back-through-a-stack",
    "identity",
    many_stacked_pulls,
    differentiable,
    mixes_in_compute_dtype,
    blind=about.ALIKE,
    schedule=Schedule(cost=5, most=3),
)
def every_token_pulls_back_through_a_stack(trial: Trial, case: Case) -> None:
    """The gradients of a stack of many tokens are those of each half of them, the parameters' of every layer, and of a
    head, being their sum.

    A stack that is fused, or is computed again backwards in parts of a batch, has tails and sums of its own.
    """
    is_that_of_its_parts(trial, pulls.stack(trial, case))


@st.composite
def constant_stacks(draw: DrawFn, setting: Setting) -> Case:
    """A stack whose mappings depend on biases alone, whose branches scale every channel, and a cotangent."""
    n = draw(streams(setting, 1, 4))
    channels = draw(width_among(setting, 1, 2, 3, 7, 70, 130))
    depth = draw(layers_among(setting, 1, 3))
    head = end_of(setting.dialect).HEAD
    every = draw(params_of_layers(setting, n, channels, depth + head, patterns=TAME))
    still = tuple(one._replace(phi=torch.zeros_like(one.phi)) for one in every)
    branches = tuple(draw(branch_of(setting, channels, ("scale", "identity", "zero"))) for _ in range(depth))
    tokens = setting.count(draw(st.integers(1, 2)))
    h = torch.tensor(coarse(draw(seeds), tokens, channels) + 0.5).to(setting.dtype)
    far = min(20, far_beside(setting.dtype))  # it is a state as well, which a norm squares
    cotangent = draw(cotangent_for((tokens, channels), setting.dtype, far))
    return Case(h=h, n=n, params=still[:depth], branches=branches, head=still[depth:], cotangent=cotangent)


@about.stack(
    "gradient.constant-stacks-pull-back-as-they-push-forward",
    "identity",
    constant_stacks,
    differentiable,
    mixes_in_compute_dtype,
    where(reads_by_gates),
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
    last = bounds.stack.passages(begun, case.params, case.branches, trial.dialect, trial.rounding)[-1]
    pushed = errors.collapse(trial, last.after, *case.head, last=last.h.pre)
    by_h, _ = stack_pullback(trial, case)
    trial.near("the gradient by h", back, wide(there), pushed.error + by_h.error)
