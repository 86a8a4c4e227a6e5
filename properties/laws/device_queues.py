"""Device: where the queue, the graph and the compiler are."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from torch import Tensor

from mhc_ref import Mappings, Params
from properties.core.case import Case, map_tensors
from properties.core.implementation import Implementation
from properties.core.law import Schedule
from properties.core.premises import HERE, OnDevice, autocast_safe, compilable, graph_capturable
from properties.core.trial import Trial, wide
from properties.laws import about, errors
from properties.laws.block import SIZES
from properties.laws.calls import FIXED, Place
from properties.laws.coefficients import agree
from properties.strategies import (
    Setting,
    block_cases,
    coefficient_cases,
    states_of,
)


@st.composite
def replayed_cases(draw: DrawFn, setting: Setting) -> Case:
    """A block with a fixed branch, and other values for its state and its parameters."""
    case = draw(block_cases(setting, most=3, scales=SIZES, kinds=FIXED))
    other = draw(states_of(setting, *case.x.shape[1:], least=case.x.shape[0], most=case.x.shape[0], scales=SIZES))
    return case.with_(other=other)


def compiled_cases(setting: Setting) -> SearchStrategy[Case]:
    """Such a block, with a norm weight where there may be one: of two examples neither is left to chance."""
    return replayed_cases(setting).filter(lambda case: not setting.norm_weight or case.params.norm_weight is not None)


def others(params: Params) -> Params:
    """Other parameters of the same shapes: the same numbers in other places."""
    return map_tensors(params, lambda part: part.roll(1, 0).contiguous())


@about.block(
    "device.graphs-replay-new-inputs",
    "identity",
    replayed_cases,
    graph_capturable,
    on=OnDevice("graphs", in_process=True),
    schedule=Schedule(most=6),
)
def graphs_replay_new_inputs(trial: Trial, case: Case) -> None:
    """A block that was captured once is, when it is replayed, the block of what its inputs hold by then.

    Declared by `graph_capturable`. A capture records kernels and addresses: a number that went through the host is
    frozen, a synchronisation is forbidden, and memory that was freed in between belongs to somebody else.
    """

    def run(target: Implementation, place: Place) -> Any:
        branch = map_tensors(case.branch, place)
        x, params = place(case.x).clone(), map_tensors(place(case.params), torch.clone)
        later, changed = place(case.other), map_tensors(others(case.params), place)
        with torch.no_grad():
            eager = target.block(place(case.x).clone(), map_tensors(place(case.params), torch.clone), branch).clone()
            expected = target.block(later.clone(), map_tensors(changed, torch.clone), branch).clone()
            graph = trial.here.capture(lambda: target.block(x, params, branch))
            graph.replay()
            first = graph.outputs.clone()
            x.copy_(later)
            for part, new in zip(params, changed, strict=True):
                if part is not None:
                    part.copy_(new)
            graph.replay()
            second = graph.outputs.clone()
        return eager, expected, first, second

    eager, expected, first, second = trial.observe("block", run)
    y, z = case.branch(case.x[..., 0, :]), case.branch(case.other[..., 0, :])
    trial.near(
        "a replayed block on the inputs of the capture", first, wide(eager),
        2 * errors.block(trial, case.x, case.params, y),
    )  # fmt: skip
    slack = 2 * errors.block(trial, case.other, others(case.params), z)
    trial.near("a replayed block on new inputs", second, wide(expected), slack)


@about.block(
    "device.work-is-queued-on-the-current-stream",
    "identity",
    lambda s: block_cases(s, most=3, scales=SIZES, kinds=FIXED),
    on=OnDevice("streams", in_process=True),
    schedule=Schedule(most=6),
)
def work_is_queued_on_the_current_stream(trial: Trial, case: Case) -> None:
    """On a stream of its own, a block waits for inputs that are written there just before.

    torch queues everything on the current stream; a kernel that is launched on another one, and does not wait, reads
    what the inputs held before: NaN here.
    """

    def run(target: Implementation, place: Place) -> Any:
        x, params, branch = place(case.x), place(case.params), map_tensors(case.branch, place)
        plain = target.block(x, params, branch).detach().clone()
        late = torch.full_like(x, float("nan"))
        later = map_tensors(params, lambda part: torch.full_like(part, float("nan")))
        trial.here.synchronise()
        with trial.here.side_stream():
            late.copy_(x)
            for part, value in zip(later, params, strict=True):
                if part is not None:
                    part.copy_(value)
            beside = target.block(late, later, branch).detach().clone()
        trial.here.synchronise()
        return plain, beside

    plain, beside = trial.observe("block", run)
    slack = 2 * errors.block(trial, case.x, case.params, case.branch(case.x[..., 0, :]))
    trial.near("a block on a stream of its own", beside, wide(plain), slack)


@about.block(
    "device.compiled-blocks-are-the-same",
    "identity",
    compiled_cases,
    compilable,
    on=HERE,
    schedule=Schedule(most=2, thorough="a compilation takes a second"),
)
def compiled_blocks_are_the_same(trial: Trial, case: Case) -> None:
    """A block under torch.compile is the block, for the inputs it was compiled with and for others.

    Declared by `compilable`. Compilers fuse and reorder, which the bound admits; they also take other paths
    (`torch.compiler.is_compiling`), freeze Python numbers, and drop effects that a custom operator does not declare.
    """

    def run(target: Implementation, place: Place) -> Any:
        branch = map_tensors(case.branch, place)
        pairs = ((place(case.x), place(case.params)), (place(case.other), map_tensors(others(case.params), place)))

        def block(x: Tensor, *parts: Tensor) -> Tensor:
            return target.block(x, Params(*parts), branch)

        compiled = trial.here.compiled(block)
        with torch.no_grad():
            return tuple(one(x.clone(), *params).clone() for one in (block, compiled) for x, params in pairs)

    eager, other, compiled, second = trial.observe("block", run)
    y, z = case.branch(case.x[..., 0, :]), case.branch(case.other[..., 0, :])
    trial.near("a compiled block", compiled, wide(eager), 2 * errors.block(trial, case.x, case.params, y))
    slack = 2 * errors.block(trial, case.other, others(case.params), z)
    trial.near("a compiled block on other inputs", second, wide(other), slack)


@about.mappings(
    "device.mappings-keep-their-precision-under-autocast",
    "oracle",
    lambda s: coefficient_cases(s, most=2, scales=SIZES),
    autocast_safe,
    on=OnDevice("autocast", in_process=True),
    schedule=about.HALF,
)
def mappings_keep_their_precision_under_autocast(trial: Trial, case: Case) -> None:
    """Under torch.autocast to bfloat16 the mappings keep the declared precision.

    Declared by `autocast_safe`. Training runs under autocast, which reads the operands of every matrix product in
    bfloat16; logits of 2^-9 of their size are what mHC computes its mappings in float32 to avoid.
    """

    def run(target: Implementation, place: Place) -> Any:
        with torch.autocast(trial.device.type, dtype=torch.bfloat16):
            found = target.mappings(place(case.x), place(case.params))
        return tuple(torch.empty(0) if part is None else part.detach() for part in found)  # pyright: ignore[reportUnnecessaryComparison]  # what is not emitted

    got = Mappings(*trial.observe("mappings", run))
    agree(
        trial,
        "under autocast",
        got,
        trial.truth.mappings(case.x, case.params),
        errors.mappings(trial, case.x, case.params),
    )
