"""Execution: what is owed of a block is owed of several that are fused, and of how streams begin and end.

Who makes layers of blocks that are tried by themselves has nothing of its own there, and is not asked.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from properties.core.case import Case, map_tensors
from properties.core.family import end_of
from properties.core.implementation import Implementation, offers
from properties.core.law import Schedule
from properties.core.premises import HERE
from properties.core.trial import Trial
from properties.laws import about, calls, held, history, pulls
from properties.laws.calls import Call, Place, Way, by_token
from properties.laws.depth import arrangements
from properties.laws.depth_shapes import views_of_parameters, with_views
from properties.laws.premises import fused
from properties.strategies import TAME, Setting, branch_of, noise, params_of, seeds, streams, width_among

FUSED = ("layers", "stack", "expand", "collapse")
FEW = Schedule(cost=5, by_streams=False, most=2)
"""An example makes a hundred calls, at which the values hardly matter."""
ONCE = Schedule(cost=10, by_streams=False, most=1)

layers = partial(about.layers, on=HERE)  # blind to what the parts of a block do wrong alike, none of which has layers
stack = partial(about.stack, on=HERE, blind=about.ALIKE)


@st.composite
def few_layers(draw: DrawFn, setting: Setting) -> Case:
    """A state, another of its shape, two layers with open gates and dense parameters, other parameters of their shapes,
    constant branches, and the parameters of a head where there is one."""
    n, channels, seed = draw(streams(setting, 1, 4)), draw(width_among(setting, 3, 7)), draw(seeds)
    count = min(2, setting.max_tokens)
    x, other = (torch.tensor(noise(seed + k, count, n, channels)).to(setting.dtype) for k in range(2))
    each = params_of(setting, n, channels, gates=(1.0, 0.5), patterns=TAME, least_phi=2)
    params = tuple(draw(each) for _ in range(2))
    others = tuple(
        one._replace(bias=one.bias + torch.tensor(noise(seed + 2 + k, *one.bias.shape)).to(one.bias))
        for k, one in enumerate(params)
    )
    branches = tuple(draw(branch_of(setting, channels, ("constant",))) for _ in params)
    head = (draw(each),) if end_of(setting.dialect).HEAD else ()
    return Case(x=x, other=other, n=n, params=params, other_params=others, branches=branches, head=head)


@st.composite
def few_stacks(draw: DrawFn, setting: Setting) -> Case:
    """One stream of one or two tokens, two layers, constant branches, a head where there is one, and a cotangent."""
    case = draw(few_layers(setting))
    h, bar = (one[:, 0].clone() for one in (case.x, case.other))
    return Case(h=h, n=case.n, params=case.params, branches=case.branches, head=case.head, cotangent=bar)


@layers("execution.layers-outlive-further-calls", "contract", few_layers, fused("layers"), schedule=FEW)
def layers_outlive_further_calls(trial: Trial, case: Case) -> None:
    """What layers returned, and what each of them handed to its branch, is not changed by the layers after it, nor by
    24 further calls of the same and of new shapes, in any mode.

    As for blocks. Two buffers that a state goes to and fro between are those of the next call, too, and what a branch
    of an early layer has read lies in them perhaps.
    """
    call = calls.layers(trial, case, case.x)
    held.outlives_further_calls(trial, call)
    held.branch_inputs_outlive_further_calls(trial, call)


@stack("execution.stacks-outlive-further-calls", "contract", few_layers, fused(*FUSED), schedule=FEW)
def stacks_outlive_further_calls(trial: Trial, case: Case) -> None:
    """What a stack returned, and how streams began and ended, is not changed by 24 further calls of the same and of new
    shapes, in any mode.

    As for blocks. The hidden states of a step of decoding are held while the next step is computed.
    """
    h, offered = case.x[:, 0].clone(), offers(trial.implementation)
    held.outlives_further_calls(trial, calls.stack(trial, case, h))
    if offered.get("expand") == "own":
        held.outlives_further_calls(trial, Call("expand", ("h", "n"), (h, case.n), ("expand",), tuple))
    if offered.get("collapse") == "own":
        given = (case.x, *case.head)
        ended = Call("collapse", ("x", "head")[: len(given)], given, ("collapse",), tuple)
        held.outlives_further_calls(trial, ended)


@layers("execution.layers-let-go", "contract", few_layers, fused("layers"), schedule=ONCE)
def layers_let_go(trial: Trial, case: Case) -> None:
    """Of 40 calls of layers on states of one shape, most leave no memory behind, in any mode, and under no_grad none
    beside their outputs.

    As for blocks.
    """
    held.lets_go(trial, calls.layers(trial, case, case.x))


@layers("execution.layers-have-no-memory", "identity", few_layers, fused("layers"), schedule=FEW)
def layers_have_no_memory(trial: Trial, case: Case) -> None:
    """Layers write to nothing that they are given; new states and parameters in the same storage, and the first ones
    again, pass them as if never called before, and so do those whose branches pass other layers, or raise.

    As for blocks. A state that is kept in place from layer to layer is the caller's in the first of them.
    """
    call = calls.layers(trial, case, case.x)
    other = calls.layers(trial, case.with_(params=case.other_params), case.other)
    calls.leaves_arguments_alone(trial, call)
    calls.has_no_memory(trial, call, other)
    history.is_not_disturbed_by_its_branch(trial, call, other)
    last_layer_is_read_anew(trial, case)


def last_layer_is_read_anew(trial: Trial, case: Case) -> None:
    """Where the parameters of the last layer alone are others than at the call before, in the same storage or not,
    layers have these, in any mode: who packs the parameters of all layers once asks the first of them perhaps."""
    changed = (*case.params[:-1], case.other_params[-1])

    def run(target: Implementation, place: Place) -> Any:
        def after(mode: str, in_place: bool) -> Tensor:
            x, branches = place(case.x), place(case.branches)
            params = calls.asking(map_tensors(place(case.params), torch.clone), mode, trial)
            target.layers(x.clone(), params, branches)
            if in_place:
                for old, new in zip(params[-1], changed[-1], strict=True):
                    if old is not None and new is not None:
                        old.data.copy_(place(new))
            else:
                params = (*params[:-1], calls.asking(map_tensors(place(changed[-1]), torch.clone), mode, trial))
            return target.layers(x.clone(), params, branches).detach().clone()

        found: list[Tensor] = []
        for name, mode in calls.QUIET:
            with mode():
                found += [after(name, in_place) for in_place in (True, False)]
        return tuple(found)

    outputs = [branch(case.x[..., 0, :]) for branch in case.branches]
    (error,) = calls.layers(trial, case.with_(params=changed), case.x).errors()
    got = trial.observe("layers", run)
    _, exact = trial.truth.layers(case.x, changed, outputs)
    turns = [(name, how) for name, _ in calls.QUIET for how in ("in its storage", "in another")]
    for (mode, how), one in zip(turns, got, strict=True):
        trial.within(f"layers of which the last has new parameters {how}{mode}", one, exact, error)


@layers("depth.layers-take-any-batch", "identity", few_layers, fused("layers"), schedule=FEW)
def layers_take_any_batch(trial: Trial, case: Case) -> None:
    """A state with tokens on two axes, on three or on none, in a view, with views of parameters or of branch outputs
    passes layers as one that lies in the order of its entries.

    A stack hands layers what it has made itself; a model that has its own beginning hands over what it likes.
    """
    ways = [by_token(what, arrange) for what, arrange in arrangements(trial.implementation)]
    if trial.implementation.strided:
        ways += views_of_parameters()
        ways.append(Way("tokens whose branches return views", with_views))
        ways.append(by_token("a transposed view", lambda one: one.mT.contiguous().mT))
    calls.does_not_see(trial, calls.layers(trial, case, case.x), ways)


@stack(
    "execution.first-stacks-are-like-later-ones",
    "identity",
    few_stacks,
    fused(*FUSED),
    schedule=FEW,
)
def first_stacks_are_like_later_ones(trial: Trial, case: Case) -> None:
    """A stack at the first calls of a number of tokens is that of later calls, without gradients and backwards.

    As for projections.
    """
    history.first_calls_are_like_later_ones(trial, pulls.stack(trial, case))
