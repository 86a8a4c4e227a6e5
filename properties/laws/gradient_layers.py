"""Gradient: of several layers that are fused, by what is handed over in other ways, and by the weights of branches."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from properties import bounds
from properties.bounds import Approx
from properties.core.case import BranchSpec, Case, map_tensors
from properties.core.implementation import Implementation
from properties.core.law import Schedule
from properties.core.premises import HERE, differentiable, where
from properties.core.trial import Trial, wide
from properties.core.truth import pulled_back
from properties.laws import about, errors, pulls
from properties.laws.calls import Place
from properties.laws.execution_layers import FUSED, few_layers
from properties.laws.gradient_depth import QUIET
from properties.laws.premises import fused, mixes_in_compute_dtype, reads_its_own_gates
from properties.strategies import Setting, noise, seeds

FEW = Schedule(cost=5, by_streams=False, most=2)


@st.composite
def stacks_to_pull(draw: DrawFn, setting: Setting) -> Case:
    """One stream, two layers with gates that are nearly closed, a head where there is one, and a cotangent."""
    case = draw(few_layers(setting))
    params = tuple(one._replace(alpha=QUIET * one.alpha) for one in case.params)
    branches = tuple(BranchSpec("scale", one.weight) for one in case.branches)
    h, bar = (one[:, 0].clone() for one in (case.x, case.other))
    return Case(h=h, n=case.n, params=params, branches=branches, head=case.head, cotangent=bar)


@about.stack(
    "gradient.stacks-pull-back-however-they-are-called",
    "identity",
    stacks_to_pull,
    fused(*FUSED),
    differentiable,
    mixes_in_compute_dtype,
    blind=about.ALIKE,
    schedule=FEW,
)
def stacks_pull_back_however_they_are_called(trial: Trial, case: Case) -> None:
    """The gradients of a stack are the same a second time, for any layout of the cotangent, by some of the inputs, by
    those of one layer alone, and after other calls.

    As for projections. In fine-tuning the first layers are frozen, or all but the head; a head is a linear layer whose
    weight lies transposed.
    """
    pulls.does_not_see_how_it_is_called(trial, pulls.stack(trial, case))


@st.composite
def layers_to_teach(draw: DrawFn, setting: Setting) -> Case:
    """A state of one token, two layers with gates that are nearly closed, weights of their branches, and a
    cotangent."""
    case, seed = draw(few_layers(setting)), draw(seeds)
    x, width = case.x[:1], case.x.shape[-1]
    weights = tuple((0.5 + 0.25 * torch.tensor(noise(seed + k, width))).to(setting.dtype) for k in range(2))
    params = tuple(one._replace(alpha=QUIET * one.alpha) for one in case.params)
    bar = torch.tensor(noise(seed + 2, *x.shape)).to(setting.dtype)
    return Case(x=x, params=params, branches=tuple(BranchSpec("scale", one) for one in weights), cotangent=bar)


@about.layers(
    "gradient.branches-of-layers-learn",
    "oracle",
    layers_to_teach,
    where(reads_its_own_gates),
    fused("layers"),
    differentiable,
    mixes_in_compute_dtype,
    on=HERE,
    schedule=FEW,
)
def branches_of_layers_learn(trial: Trial, case: Case) -> None:
    """The weights of the branch of every layer receive their gradient through several of them, whether or not the state
    asks for one.

    As for a block. Layers that are computed again backwards call their branches in a function of their own, and may ask
    there for the gradient by what a branch has read alone.
    """
    params, branches, dialect, r = case.params, case.branches, trial.dialect, trial.rounding

    def run(target: Implementation, place: Place) -> Any:
        found: list[Tensor] = []
        for asked in (True, False):
            leaves = [place(branch.weight).clone().requires_grad_() for branch in branches]
            x, given = place(case.x).clone().requires_grad_(asked), map_tensors(place(params), torch.clone)
            out = target.layers(x, given, tuple(partial(torch.mul, leaf) for leaf in leaves))
            found += pulled_back([out], leaves, [place(case.cotangent).clone()])
        return tuple(found)

    got = trial.observe("layers", run)
    states = bounds.stack.states(Approx.exact(case.x), params, branches, dialect, r)
    backs = bounds.pullback.layers(states[0], params, branches, Approx.exact(case.cotangent), dialect, r)
    x, n = wide(case.x), case.x.shape[-2]
    for layer, (one, branch, state) in enumerate(zip(params, branches, states, strict=False)):
        last = layer + 1 == len(params)
        h = trial.truth.mappings(x, one)
        u = trial.truth.pre(x, h.pre)
        x = trial.truth.post(x, wide(u) * wide(branch.weight), h.post, h.res)  # pyright: ignore[reportArgumentType]
        bar = wide(case.cotangent)
        if not last:
            bar = wide(trial.truth.layers_vjp(x, params[layer + 1 :], branches[layer + 1 :], case.cotangent)[0])
        exact = u * torch.einsum("ti,tic->tc", wide(h.post), bar)
        mapped = errors.mappings(trial, state, one)
        handed = Approx.exact(case.cotangent) if last else backs[layer + 1].x
        by_y = bounds.stored(bounds.pullback.summed_in_the_state("ti,tic->tc", mapped.post, handed, n, n, r), r)
        bound = bounds.stored(bounds.times(by_y, bounds.block.read(state, mapped.pre, r), r), r).error
        for k, when in enumerate(("", " of a state that asks for no gradient")):
            what = f"the gradient by the weights of the branch of layer {layer}{when}"
            trial.within(what, got[k * len(params) + layer], exact[0], bound[0])
