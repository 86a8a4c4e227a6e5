"""Gradient: of losses that branches make of what they read, through a block, through layers and through a stack.

Experts are balanced by a loss of what their router has read. It reaches the state and the mappings beside what comes
back through the output, and whoever calls a branch in a function of its own has a gradient less.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import mhc_ref
from mhc_ref import Branch, Params
from mhc_ref.block import gates_read
from properties import bounds
from properties.bounds import Approx, Pullback
from properties.core.case import BranchSpec, Case, map_tensors
from properties.core.implementation import Implementation
from properties.core.premises import HERE, differentiable
from properties.core.pulling import pulled_back
from properties.core.trial import Trial, wide
from properties.core.truth import present
from properties.laws import about
from properties.laws.calls import Place
from properties.laws.gradient_branches import FEW, Calling, layers_to_teach, stacks_to_teach, unbranched
from properties.laws.gradient_depth import judge_layers
from properties.laws.premises import fused, mixes_in_compute_dtype
from properties.strategies import noise

Bound = Callable[[tuple[BranchSpec, ...], list[Tensor]], tuple[Approx, Sequence[Pullback]]]


def teach(
    trial: Trial, case: Case, method: str, given: Tensor, every: tuple[Params, ...], call: Calling, bound: Bound
) -> None:
    """Hold the gradients by `given` and by all parameters to the chain rule, where each branch is w u and has the loss
    <a, u>.

    `call` makes the call; `bound` says of branches as data, and of a for each of them, what `given` and each of
    `every` get.
    """
    tokens, channels = given.shape[0], given.shape[-1]
    weights = case.weights
    asked = [torch.tensor(noise(case.turn + 50 + k, tokens, channels)).to(given.dtype) for k in range(len(weights))]

    def run(target: Implementation, place: Place) -> Any:
        state = place(given).clone().requires_grad_()
        parts = map_tensors(map_tensors(place(every), torch.clone), Tensor.requires_grad_)
        losses: dict[int, Tensor] = {}
        read: list[Tensor] = []

        def branch(k: int) -> Branch:
            weight, a = place(weights[k]), place(asked[k])

            def called(u: Tensor) -> Tensor:
                losses[k] = (a * u).sum()
                read.append(u.detach().clone())
                return weight * u

            return called

        out = call(target, state, parts, [branch(k) for k in range(len(weights))])
        made = dict(losses)  # before it is computed again
        bars = [place(case.cotangent).clone(), *(torch.ones_like(one) for one in made.values())]
        leaves = [state, *(part for one in parts for part in present(one))]
        return tuple(read[:1]), tuple(pulled_back([out, *made.values()], leaves, bars))

    read, got = trial.observe(method, run)
    n, depth = case.n if "n" in case else 0, len(weights)
    is_read_first(trial, method, given, n, every[0], read)
    found = bound(tuple(BranchSpec("scale", one) for one in weights), asked)
    whole = case.with_(params=every[:depth], head=every[depth:])
    judge_layers(trial, whole, got, None, "h" if n else "x", *found)


def is_read_first(trial: Trial, method: str, given: Tensor, n: int, params: Params, read: Sequence[Tensor]) -> None:
    """What the first branch reads [tokens, C] is what the truth says; of h [tokens, C], n streams begin first."""
    trial.contract("the number of calls of the first branch", bool(read), "0", "1")
    dialect, r = trial.dialect, trial.rounding
    begun = bounds.stack.begun(given, n, dialect, r) if n else Approx.exact(given)
    state = mhc_ref.expand(wide(given), n, dialect) if n else wide(given)
    exact = trial.truth.pre(state, gates_read(trial.truth.mappings(state, params).pre, None, dialect))
    way = bounds.block.passed(begun, params, BranchSpec("zero"), dialect, r)
    trial.within(f"what the first branch of {method} reads", read[0], exact, way.u.error)


@about.block(
    "gradient.losses-of-a-branch-teach",
    "oracle",
    unbranched,
    differentiable,
    mixes_in_compute_dtype,
    on=HERE,
    schedule=about.SELDOM,
)
def losses_of_a_branch_teach(trial: Trial, case: Case) -> None:
    """A loss that a branch makes of what it reads reaches the state and the mappings beside that of the output.

    With F(u) = w u and a loss <a, u> the cotangent of u is w (sum_i h_post_i bar_i) + a. Experts are balanced so. A
    block that calls its branch where nothing is recorded, and again backwards, hands that loss nothing.
    """
    every, r = (case.params,), trial.rounding

    def bound(branches: tuple[BranchSpec, ...], asked: list[Tensor]) -> tuple[Approx, Sequence[Pullback]]:
        bar = Approx.exact(case.cotangent)
        given = (Approx.exact(case.x), every, branches, bar)
        found = bounds.pullback.layers(*given, trial.dialect, r, beside=asked)
        return found[0].x, found

    def call(target: Implementation, x: Tensor, params: tuple[Params, ...], branches: Sequence[Branch]) -> Tensor:
        return target.block(x, params[0], branches[0])

    teach(trial, case, "block", case.x, every, call, bound)


@about.layers(
    "gradient.losses-of-branches-of-layers-teach",
    "oracle",
    layers_to_teach,
    fused("layers"),
    differentiable,
    mixes_in_compute_dtype,
    on=HERE,
    schedule=FEW,
)
def losses_of_branches_of_layers_teach(trial: Trial, case: Case) -> None:
    """The losses that branches of several layers make of what they read reach the state that enters, and the mappings
    of each layer up to that one.

    As for a block. Layers that are computed again backwards have their branches read tensors of no graph.
    """

    def bound(branches: tuple[BranchSpec, ...], asked: list[Tensor]) -> tuple[Approx, Sequence[Pullback]]:
        given = (Approx.exact(case.x), case.params, branches, Approx.exact(case.cotangent))
        found = bounds.pullback.layers(*given, trial.dialect, trial.rounding, beside=asked)
        return found[0].x, found

    def call(target: Implementation, x: Tensor, params: tuple[Params, ...], branches: Sequence[Branch]) -> Tensor:
        return target.layers(x, params, branches)

    teach(trial, case, "layers", case.x, case.params, call, bound)


@about.stack(
    "gradient.losses-of-branches-of-stacks-teach",
    "oracle",
    stacks_to_teach,
    fused("stack"),
    differentiable,
    mixes_in_compute_dtype,
    on=HERE,
    schedule=FEW,
)
def losses_of_branches_of_stacks_teach(trial: Trial, case: Case) -> None:
    """The losses that branches make of what they read reach what enters a whole stack, and the mappings of each layer.

    As for layers.
    """

    def bound(branches: tuple[BranchSpec, ...], asked: list[Tensor]) -> tuple[Approx, Sequence[Pullback]]:
        given = (case.h, case.n, case.params, branches, case.head, case.cotangent)
        return bounds.pullback.stack(*given, trial.dialect, trial.rounding, beside=asked)

    def call(target: Implementation, h: Tensor, params: tuple[Params, ...], branches: Sequence[Branch]) -> Tensor:
        return target.stack(h, params, branches)

    teach(trial, case, "stack", case.h, (*case.params, *case.head), call, bound)
