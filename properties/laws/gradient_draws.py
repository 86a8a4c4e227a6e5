"""Gradient: of blocks whose branches draw random numbers, as dropout does.

Whoever computes a block again in its backward pass calls its branch again. Unless the generator is set back for that,
the gradient is of another mask than the value. Here a branch scales its channels by what it draws, so that the gradient
for what it drew forwards is known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from mhc_ref import Params
from properties import bounds
from properties.bounds import Approx
from properties.core.case import BranchSpec, Case
from properties.core.implementation import Implementation
from properties.core.law import Schedule
from properties.core.premises import HERE, differentiable
from properties.core.pulling import pulled_back
from properties.core.trial import Trial, wide
from properties.core.truth import present, regrouped
from properties.laws import about, pulls
from properties.laws.calls import Place
from properties.laws.gradient_block import cotangent_of
from properties.laws.gradient_depth import judge_layers
from properties.laws.premises import mixes_in_compute_dtype
from properties.strategies import TAME, Setting, noise, params_of, params_of_layers, seeds, streams, width_among

block, layers = (partial(one, on=HERE, schedule=Schedule(cost=4, most=2)) for one in (about.block, about.layers))


class Drawing:
    """A branch that scales every channel by a multiple of 1/16 from 1/2 to 3/2, drawn anew at every call.

    Attributes:
        drawn: what it has drawn, [C] each, in the order of its calls.
    """

    def __init__(self) -> None:
        self.drawn: list[Tensor] = []

    def __call__(self, u: Tensor) -> Tensor:
        self.drawn.append((torch.randint(8, 25, u.shape[-1:]) / 16).to(u))  # exact in every dtype
        return self.drawn[-1] * u


@st.composite
def drawing_cases(draw: DrawFn, setting: Setting, depth: int) -> Case:
    """A state of one or two tokens, dense parameters of so many layers, a seed of the generator, and a cotangent."""
    n, channels, seed = draw(streams(setting, 1, 4)), draw(width_among(setting, 3, 7)), draw(seeds)
    x = torch.tensor(noise(seed, setting.count(2), n, channels)).to(setting.dtype)
    options: Any = {"gates": (1.0, 0.5), "patterns": TAME, "least_phi": 2}
    if depth == 1:
        params = (draw(params_of(setting, n, channels, **options)),)
    else:
        params = draw(params_of_layers(setting, n, channels, setting.depth(depth), **options))
    return Case(x=x, params=params, seed=seed, cotangent=draw(cotangent_of(setting, x)))


def judged(trial: Trial, case: Case, method: str, call: Callable[[Implementation, Tensor, Any, Any], Tensor]) -> None:
    """Hold the gradients of `call(implementation, x, params, branches)` to those of what its branches drew first."""
    given = [case.x, *(part for one in case.params for part in present(one))]
    depth = len(case.params)

    def run(target: Implementation, place: Place) -> Any:
        branches = [Drawing() for _ in range(depth)]
        leaves = [place(one).clone().requires_grad_() for one in given]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(case.seed)
            out = call(target, leaves[0], regrouped(leaves[1:], case.params), branches)
            first = [one.drawn[0] for one in branches]
            return tuple(first), tuple(pulled_back([out], leaves, [place(case.cotangent).clone()]))

    first, got = trial.observe(method, run)
    branches = tuple(BranchSpec("scale", drawn) for drawn in first)
    exact = trial.truth.layers_vjp(case.x, case.params, branches, case.cotangent)
    state, bar = Approx.exact(case.x), Approx.exact(case.cotangent)
    found = bounds.pullback.layers(state, case.params, branches, bar, trial.dialect, trial.rounding)
    judge_layers(trial, case, got, exact, "x", found[0].x, found)


@block(
    "gradient.branches-may-draw",
    "oracle",
    lambda s: drawing_cases(s, 1),
    differentiable,
    mixes_in_compute_dtype,
)
def branches_may_draw(trial: Trial, case: Case) -> None:
    """Where a branch draws from torch's generator, as dropout does, the gradients of a block are those of what it drew
    forwards.

    One call has one mask. A block that is computed again in its backward pass has to set the generator back, as
    activation checkpointing does where it is not told otherwise.
    """
    trial.judge_exactly()

    def call(target: Implementation, x: Tensor, params: Sequence[Params], branches: Sequence[Drawing]) -> Tensor:
        return target.block(x, params[0], branches[0])

    judged(trial, case, "block", call)


@layers(
    "gradient.branches-of-layers-may-draw",
    "oracle",
    lambda s: drawing_cases(s, 2),
    differentiable,
    mixes_in_compute_dtype,
)
def branches_of_layers_may_draw(trial: Trial, case: Case) -> None:
    """Where branches draw from torch's generator, the gradients of layers are those of what each drew forwards.

    As for a block. Layers that are computed again from the last one on draw in another order than forwards.
    """
    trial.judge_exactly()

    def call(target: Implementation, x: Tensor, params: Sequence[Params], branches: Sequence[Drawing]) -> Tensor:
        return target.layers(x, params, branches)

    judged(trial, case, "layers", call)


def stacks_have_one_mask(trial: Trial, case: Case) -> None:
    """The gradients of a stack whose branches draw are those of the same stack whose branches scale by what these drew
    forwards; the branches of `case` say by their number alone how many there are."""

    def of(*branches: Any) -> pulls.Pulled:
        return pulls.stack(trial, case.with_(branches=branches))

    depth = len(case.params)
    still = of(*[BranchSpec("scale", torch.ones(case.h.shape[-1], dtype=case.h.dtype))] * depth)

    def run(target: Implementation, place: Place) -> Any:
        def back(branches: Sequence[Any]) -> tuple[Tensor, ...]:
            leaves = [place(one).clone().requires_grad_() for one in still.inputs]
            out = target.stack(leaves[0], regrouped(leaves[1:], (*case.params, *case.head)), branches)
            return tuple(pulled_back([out], leaves, [place(case.cotangent).clone()]))

        drawing = [Drawing() for _ in range(depth)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(depth)
            found = back(drawing)
        first = tuple(one.drawn[0] for one in drawing)
        return first, found, back([BranchSpec("scale", one) for one in first])

    first, found, plain = trial.observe("stack", run)
    drawn = of(*(BranchSpec("scale", one.cpu()) for one in first))
    for name, one, other, error in zip(drawn.names, found, plain, drawn.errors(drawn.cotangents), strict=True):
        trial.near(f"the gradient of a stack whose branches draw by {name}", one, wide(other), 2 * error)
