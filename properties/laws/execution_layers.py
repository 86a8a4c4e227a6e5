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

from mhc_ref import Params
from properties.core.case import Case
from properties.core.family import end_of
from properties.core.implementation import Implementation, offers
from properties.core.law import Schedule
from properties.core.premises import HERE
from properties.core.trial import Trial
from properties.core.truth import present
from properties.laws import about, branches, calls, held, history, memory, pulls, shared
from properties.laws.calls import Call, Place, Way, by_token
from properties.laws.depth import arrangements
from properties.laws.depth_shapes import views_of_parameters, with_views
from properties.laws.execution_strides import does_not_see_copies
from properties.laws.layouts import branch_outputs_alone, copied_streams, parameters_alone, rows_of
from properties.laws.premises import fused
from properties.strategies import TAME, Setting, branch_of, noise, params_of_layers, seeds, streams, width_among

FUSED = ("layers", "stack", "expand", "collapse")
FEW = Schedule(cost=5, by_streams=False, most=2)
"""An example makes a hundred calls, at which the values hardly matter."""
ONCE = Schedule(cost=10, by_streams=False, most=1, crowds=False)

layers = partial(about.layers, on=HERE)  # blind to what the parts of a block do wrong alike, none of which has layers
stack = partial(about.stack, on=HERE, blind=about.ALIKE)


@st.composite
def few_layers(draw: DrawFn, setting: Setting) -> Case:
    """A state, another of its shape, a few layers with dense parameters, other parameters of their shapes, constant
    branches, and the parameters of a head where there is one."""
    n, channels, seed = draw(streams(setting, 1, 4)), draw(width_among(setting, 3, 7)), draw(seeds)
    count = setting.count(2)
    x, other = (torch.tensor(noise(seed + k, count, n, channels)).to(setting.dtype) for k in range(2))
    options: Any = {"gates": (1.0, 0.5), "patterns": TAME, "least_phi": 2}
    params = draw(params_of_layers(setting, n, channels, setting.depth(2), **options))
    others = tuple(
        one._replace(bias=one.bias + torch.tensor(noise(seed + 2 + k, *one.bias.shape)).to(one.bias))
        for k, one in enumerate(params)
    )
    branches = tuple(draw(branch_of(setting, channels, ("constant",))) for _ in params)
    head = draw(params_of_layers(setting, n, channels, int(end_of(setting.dialect).HEAD), **options))
    return Case(x=x, other=other, n=n, params=params, other_params=others, branches=branches, head=head)


def deeper(case: Case, depth: int) -> Case:
    """The same with so many different layers, five at most."""
    others = (one._replace(bias=-one.bias) for one in case.other_params)
    every = (*case.params, *case.other_params, *others)[:depth]
    return case.with_(params=every, branches=(case.branches * depth)[: len(every)])


@st.composite
def few_stacks(draw: DrawFn, setting: Setting) -> Case:
    """One stream of a few tokens, a few layers, constant branches, a head where there is one, and a cotangent."""
    case = draw(few_layers(setting))
    h, bar = (one[:, 0].clone() for one in (case.x, case.other))
    return Case(h=h, n=case.n, params=case.params, branches=case.branches, head=case.head, cotangent=bar)


@layers("execution.layers-outlive-further-calls", "contract", few_layers, fused("layers"), schedule=FEW)
def layers_outlive_further_calls(trial: Trial, case: Case) -> None:
    """What layers returned, and what each of them handed to its branch, is not changed by the layers after it, nor by
    24 further calls of the same and of new shapes, in any mode.

    As for blocks. Two buffers that a state goes to and fro between are those of the next call, too, and what a branch
    of an early layer has read lies in them perhaps: that of the first of five layers is written by the third.
    """
    call = calls.layers(trial, case, case.x)
    held.outlives_further_calls(trial, call)
    held.branch_inputs_outlive_further_calls(trial, call)
    held.branch_inputs_outlive_further_calls(trial, calls.layers(trial, deeper(case, 5), case.x), held.SHARED)


@stack("execution.stacks-outlive-further-calls", "contract", few_layers, fused(*FUSED), schedule=FEW)
def stacks_outlive_further_calls(trial: Trial, case: Case) -> None:
    """What a stack returned, and how streams began and ended, is not changed by 24 further calls of the same and of new
    shapes, in any mode.

    As for blocks. The hidden states of a step of decoding are held while the next step is computed. And where a layer
    or the head alone has new parameters, a stack that is fused as a whole has these; layers may share theirs.
    """
    h, offered = case.x[:, 0].clone(), offers(trial.implementation)
    held.outlives_further_calls(trial, calls.stack(trial, case, h))
    if offered.get("expand") == "own":
        held.outlives_further_calls(trial, Call("expand", ("h", "n"), (h, case.n), ("expand",), tuple))
    if offered.get("collapse") == "own":
        given = (case.x, *case.head)
        ended = Call("collapse", ("x", "head")[: len(given)], given, ("collapse",), tuple)
        held.outlives_further_calls(trial, ended)
    if offered.get("stack") == "own":
        one_layer_is_read_anew(trial, deeper(case, max(3, len(case.params))), "stack")
        shared.may_share_parameters(trial, case, lambda own: calls.stack(trial, own, h))


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
    again, pass them as if never called before, and so do those whose branches pass other layers, raise, write to what
    they read, or draw, and those that share parameters.

    As for blocks. A state that is kept in place from layer to layer is the caller's in the first of them.
    """
    call = calls.layers(trial, case, case.x)
    other = calls.layers(trial, case.with_(params=case.other_params), case.other)
    memory.leaves_arguments_alone(trial, call)
    memory.has_no_memory(trial, call, other)
    history.is_not_disturbed_by_its_branch(trial, call, other)
    one_layer_is_read_anew(trial, deeper(case, max(3, len(case.params))), "layers")
    shared.may_share_parameters(trial, case, lambda own: calls.layers(trial, own, case.x))
    branches.may_work_in_place(trial, call)
    branches.draw_anew(trial, call)


def one_layer_is_read_anew(trial: Trial, case: Case, method: str) -> None:
    """Where the parameters of the last of several layers alone, of one between two others, or of a head, are others
    than at the call before, in the same storage or not, layers or a stack have these, in any mode: who packs the
    parameters of all layers once asks the first of them perhaps, or the first and the last."""
    depth, stacked = len(case.params), method == "stack"
    first, every = (case.x[:, 0].clone(), (*case.params, *case.head)) if stacked else (case.x, case.params)
    anew = {"the middle layer": depth // 2, "the last": depth - 1} | ({"the head": depth} if len(every) > depth else {})
    changed = {k: replaced(every, k, every[k]._replace(phi=-every[k].phi, bias=-every[k].bias)) for k in anew.values()}
    outputs = [branch(case.x[..., 0, :]) for branch in case.branches]

    def of(params: tuple[Params, ...]) -> tuple[Tensor, Tensor]:
        """What is to be expected of these, and its bound."""
        own = case.with_(params=params[:depth], head=params[depth:])
        if stacked:
            (error,) = calls.stack(trial, own, first).errors()
            return trial.truth.stack(first, case.n, params, outputs)[1], error
        (error,) = calls.layers(trial, own, first).errors()
        return trial.truth.layers(first, params, outputs)[1], error

    def run(target: Implementation, place: Place) -> Any:
        x, branches = place(first), place(case.branches)

        def after(mode: str, in_place: bool) -> list[Tensor]:
            own, found = calls.of_a_model(place(every), mode, trial), list[Tensor]()
            called = getattr(target, method)
            called(x.clone(), own, branches)
            for k in anew.values():
                params = own
                if in_place:
                    _overwritten(own[k], place(changed[k][k]))
                else:
                    (other,) = calls.of_a_model((place(changed[k][k]),), mode, trial)
                    params = replaced(own, k, other)
                found.append(called(x.clone(), params, branches).detach().clone())
                if in_place:
                    _overwritten(own[k], place(every[k]))
            return found

        found: list[Tensor] = []
        for name, mode, in_place in turns:
            with mode():
                found += after(name, in_place)
        return tuple(found)

    # what asks which tensors there are, and no more, is asked in one mode
    turns = [(*one, True) for one in calls.every_mode(trial)] + [(*calls.QUIET[1], False)]
    got = iter(trial.observe(method, run))
    truths = {k: of(params) for k, params in changed.items()}
    for mode, _, in_place in turns:
        for which, k in anew.items():
            how = "in its storage" if in_place else "in another"
            what = f"{method} of {depth} layers, of which {which} has new parameters {how}{mode}"
            trial.within(what, next(got), *truths[k])


def replaced(params: tuple[Params, ...], k: int, one: Params) -> tuple[Params, ...]:
    """The same with another in the place of one of them."""
    return (*params[:k], one, *params[k + 1 :])


def _overwritten(old: Params, new: Params) -> None:
    for one, other in zip(present(old), present(new), strict=True):
        one.data.copy_(other)


@layers("depth.layers-take-any-batch", "identity", few_layers, fused("layers"), schedule=FEW)
def layers_take_any_batch(trial: Trial, case: Case) -> None:
    """A state with tokens on two axes, on three or on none, in a view, with views of parameters or of branch outputs
    passes layers as one that lies in the order of its entries.

    A stack hands layers what it has made itself; a model that has its own beginning hands over what it likes.
    """
    branches.are_handed_the_axes_of_tokens(trial, calls.layers(trial, case, case.x))
    ways = [by_token(what, arrange) for what, arrange in arrangements(trial.implementation)]
    if trial.implementation.strided:
        ways += views_of_parameters()
        ways.append(Way("tokens whose branches return views", with_views))
        ways.append(by_token("a transposed view", lambda one: one.mT.contiguous().mT))
        ways += parameters_alone(1, case.params)
        own = case.with_(branches=tuple(rows_of(case.x) for _ in case.branches))
        calls.does_not_see(trial, calls.layers(trial, own, case.x), branch_outputs_alone(trial.implementation))
        does_not_see_copies(trial, calls.layers(trial, case, copied_streams(case.x).contiguous()))
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
