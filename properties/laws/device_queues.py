"""Device: where the queue, the graph and the compiler are."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from torch import Tensor

from mhc_ref import Params
from mhc_ref.packing import params_shapes
from properties.core.case import Case, map_tensors
from properties.core.implementation import Implementation
from properties.core.law import Schedule
from properties.core.premises import HERE, OnDevice, compilable, differentiable, graph_capturable
from properties.core.pulling import pulled_back
from properties.core.trial import Trial, wide
from properties.laws import about, errors
from properties.laws.block import SIZES
from properties.laws.calls import FIXED, Place
from properties.laws.gradient_mappings import NAMES
from properties.laws.premises import mixes_in_compute_dtype
from properties.strategies import (
    Setting,
    block_cases,
    branch_of,
    noise,
    params_at_temperature,
    seeds,
    states_of,
    streams,
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
    """A block under torch.compile is the block, forwards and backwards, for the inputs it was compiled with and for
    others, for one shape and for any.

    Declared by `compilable`. Compilers fuse and reorder, which the bound admits; they also take other paths
    (`torch.compiler.is_compiling`), freeze Python numbers, and drop effects that a custom operator does not declare.
    """

    again = _of_another_count(case.x, trial.implementation.max_tokens)
    inputs = [(case.x, case.params), (case.other, others(case.params)), (again, case.params)]
    _compiles(trial, case, inputs, ("static", "dynamic"))


@about.block(
    "device.traced-blocks-pull-back-alike",
    "identity",
    lambda s: traced_cases(s),
    compilable,
    differentiable,
    mixes_in_compute_dtype,
    on=HERE,
    schedule=Schedule(cost=10, most=1, once="tracing takes a second or two"),
)
def traced_blocks_pull_back_alike(trial: Trial, case: Case) -> None:
    """A block that torch.compile has traced is the block, and its gradients are the block's.

    Declared by `compilable`. Where a path is taken under `torch.compiler.is_compiling` the tracer takes it; no compiler
    is needed to see what it computes (unsloth-zoo #859: half the gradient).
    """
    _compiles(trial, case, [(case.x, case.params)], ("traced",))


@st.composite
def traced_cases(draw: DrawFn, setting: Setting) -> Case:
    """A small block of open gates and full mantissas, so that one example is enough to show every gradient, and of
    eight channels: what is vectorised is taken for multiples of them, which every model has."""
    n, channels, seed = draw(streams(setting, 3, 4)), setting.width(8), draw(seeds)
    shapes = params_shapes(n, channels, setting.dialect)
    phi, bias = (
        torch.tensor(noise(seed + k, *shape)).to(setting.parameter_dtype) for k, shape in enumerate(shapes[:2])
    )
    weight = torch.tensor(1 + 0.5 * noise(seed + 3, *shapes.norm_weight)).to(phi) if setting.norm_weight else None
    params = Params(phi / (2 * shapes.phi[0] ** 0.5), bias / 2, torch.ones(shapes.alpha).to(phi), weight)
    return Case(
        x=torch.tensor(noise(seed + 4, min(2, setting.max_tokens), n, channels)).to(setting.dtype),
        params=params_at_temperature(params, n, setting.dialect),
        branch=draw(branch_of(setting, channels, ("constant",))),
    )


def _of_another_count(x: Tensor, most: int) -> Tensor:
    """Twice as many tokens, or the first one where a call does not take so many."""
    return torch.cat([x, x]) if 2 * len(x) <= most else x[:1]


@contextlib.contextmanager
def _silent_tracer() -> Generator[None]:
    """Without what a tracer says of graph breaks and caches on the way, which is no verdict: values tell."""
    loggers = [logging.getLogger(name) for name in ("torch._dynamo", "torch.__trace")]
    before = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        for one, level in zip(loggers, before, strict=True):
            one.setLevel(level)


def _compiles(trial: Trial, case: Case, inputs: Sequence[tuple[Tensor, Params]], ways: Sequence[str]) -> None:
    """Compare a block that is compiled, in each of these ways, with the block itself, forwards and backwards."""
    implementation = trial.implementation
    pulls = trial.differentiable and mixes_in_compute_dtype(implementation, trial.dtype) is None
    bars = [torch.tensor(noise(7 + k, *x.shape)).to(x.dtype) for k, (x, _) in enumerate(inputs)]

    def run(target: Implementation, place: Place) -> Any:
        branch = map_tensors(case.branch, place)

        def block(x: Tensor, *parts: Tensor) -> Tensor:
            return target.block(x, Params(*parts), branch)

        def of(call: Callable[..., Tensor], quiet: bool) -> tuple[Any, ...]:
            found: list[tuple[Tensor, ...]] = []
            for (x, params), bar in zip(inputs, bars, strict=True):
                given = map_tensors((place(x), *place(params)), lambda one: one.clone().requires_grad_(not quiet))
                out = call(*given)
                leaves = [one for one in given if one is not None]
                back = pulled_back([out], leaves, [place(bar)]) if pulls and not quiet else []
                found.append((out.detach().clone(), *back))
            return tuple(found)

        compiled: list[Any] = []
        with _silent_tracer():
            for way in ways:
                call = trial.here.compiled(block, dynamic=way == "dynamic", traced=way == "traced")
                with torch.no_grad():
                    quiet = of(call, True) if way != "traced" else ()
                compiled.append((quiet, of(call, False)))
        return of(block, False), tuple(compiled)

    eager, compiled = trial.observe("block", run)
    for k, (x, params) in enumerate(inputs):
        bounds = [errors.block(trial, x, params, case.branch(x[..., 0, :]))]
        if pulls:
            found = errors.block_gradient(trial, x, params, case.branch, bars[k])
            bounds += errors.by_parameters(found, x, params)
        names = ["the block", *(f"the gradient by {name}" for name in NAMES)]
        for way, (quiet, loud) in zip(ways, compiled, strict=True):
            for mode, every in ((" under no_grad", quiet), ("", loud)):
                for name, one, other, error in zip(names, every[k] if every else (), eager[k], bounds, strict=False):
                    trial.near(f"{name}, compiled ({way}){mode}, of input {k + 1}", one, wide(other), 2 * error)
