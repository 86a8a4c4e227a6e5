"""Device: what the place of computation must not change: how many tokens share a launch, what the memory held before,
where the queue, the graph, the compiler and the other device are, and where the last element lies."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from mhc_ref import Mappings, Params
from properties.bounds import Approx
from properties.case import BranchSpec, Case, map_tensors
from properties.implementation import Implementation
from properties.law import law
from properties.laws.block import SIZES, judged
from properties.laws.coefficients import Coefficients, agree, bound_of
from properties.laws.execution import FIXED, block_error, projection_error, same_bits
from properties.laws.mixing import applied, combined
from properties.laws.premises import depends_on_logits
from properties.strategies import (
    MODERATE,
    Setting,
    arrangeable,
    block_cases,
    channel_count,
    coefficient_cases,
    logits_of,
    noise,
    on_two_axes,
    params_of,
    projection_cases,
    seeds,
    states,
    streams,
)
from properties.trial import Trial, wide

Place = Callable[[Any], Any]

# -- many tokens -------------------------------------------------------------------------------------------------------

DISTINCT = (7, 13, 31)
"""Numbers of different tokens in a flood: primes, so that a repeated token meets every position in a tile."""


@st.composite
def floods(draw: DrawFn, setting: Setting) -> Case:
    """A few different tokens, their parameters, and how many tokens are made of them on the device.

    A bound costs O(n^4) a token and a transfer its bytes; both are paid for the different tokens alone.
    """
    n = draw(streams(setting, 1, 4))
    channels = draw(st.sampled_from((1, 3, 9)))
    count = min(draw(st.sampled_from(setting.flood)), setting.max_tokens)
    distinct = min(draw(st.sampled_from(DISTINCT)), count)
    x = torch.tensor(noise(draw(seeds), distinct, n, channels)).to(setting.dtype)
    return Case(x=x, params=draw(params_of(setting, n, channels)), count=count)


def flooded(tokens: Tensor, count: int) -> Tensor:
    """The tokens over and over on their device, `count` altogether."""
    return tokens[torch.arange(count, device=tokens.device) % tokens.shape[0]]


def constant(x: Tensor) -> BranchSpec:
    """A branch that gives ones."""
    return BranchSpec("constant", torch.ones(x.shape[-1], dtype=x.dtype))


@law(
    kind="oracle",
    stage="state",
    needs=("block",),
    cases=floods,
    blind=("tokens-above-64-unwritten",),
    by_streams=False,
    cost=7,
)
def every_token_of_a_flood_is_computed(trial: Trial, case: Case) -> None:
    """Every one of many hundreds of tokens (on a GPU up to 131101) passes the block as the reference has it.

    Grids end, indices wrap and tails are floored at sizes that small tests never reach: 1024 threads, 65535 blocks.
    """
    branch = constant(case.x)

    def run(target: Implementation, place: Place) -> Any:
        return target.block(flooded(place(case.x), case.count), place(case.params), map_tensors(branch, place))

    out: Tensor = trial.observe("block", run)
    shape = (case.count, *case.x.shape[1:])
    trial.holds("the shape of the block", tuple(out.shape) == shape, str(tuple(out.shape)), str(shape))
    h = judged(bound_of(trial, case.x, case.params), trial, case.x, case.params)
    operator = Approx(applied(h.res.value, trial.dialect), applied(h.res.error, trial.dialect))
    expected = combined(case.x, operator, trial, branch(case.x[..., 0, :]), h.post)
    trial.within("the block", out, flooded(expected.value, case.count), flooded(expected.error, case.count))


@law(
    kind="contract",
    stage="state",
    needs=("block",),
    cases=floods,
    capability="deterministic",
    blind=("h-res-transposed", "one-iteration"),
    by_streams=False,
    cost=7,
)
def launches_repeat_bit_for_bit(trial: Trial, case: Case) -> None:
    """Five launches on the same many tokens, one right after the other, give the same bits.

    Declared by `deterministic`. What races, or adds atomically, does so once there is more work than one multiprocessor
    has room for.
    """
    branch = constant(case.x)

    def run(target: Implementation, place: Place) -> Any:
        x, params, one = flooded(place(case.x), case.count), place(case.params), map_tensors(branch, place)
        outs = [target.block(x, params, one).detach() for _ in range(5)]
        first = outs[0]
        # Judged there: five results of a hundred thousand tokens are not worth moving.
        return tuple(same_bits(first, other) for other in outs[1:])

    same = trial.observe("block", run)
    trial.holds("the same launch again", all(same), "other bits", "the same bits")


@law(
    kind="identity",
    stage="state",
    needs=("block",),
    cases=floods,
    capability="batch_invariant",
    blind=("h-res-transposed", "one-iteration"),
    by_streams=False,
    cost=7,
)
def batches_do_not_change_bits(trial: Trial, case: Case) -> None:
    """A token has the same bits alone, among a few, and anywhere in a large batch.

    Declared by `batch_invariant`: the order of every sum is fixed for a token, whatever is computed beside it.
    """
    branch = constant(case.x)

    def run(target: Implementation, place: Place) -> Any:
        x, params, one = place(case.x), place(case.params), map_tensors(branch, place)
        few = target.block(x.clone(), params, one).detach()
        alone = target.block(x[:1].clone(), params, one).detach()
        many = target.block(flooded(x, case.count), params, one).detach()
        return alone, few, many

    alone, few, many = trial.observe("block", run)
    trial.holds("the first token among others", same_bits(few[:1], alone), "other bits than alone", "the same bits")
    trial.holds(
        "the tokens of a large batch", same_bits(many, flooded(few, case.count)), "other bits than in a small one",
        "the same bits",
    )  # fmt: skip


# -- memory ------------------------------------------------------------------------------------------------------------


@st.composite
def arranged_cases(draw: DrawFn, setting: Setting) -> Case:
    """Six tokens, or as many as a call takes, on two or three axes, and by how many elements their storage is off its
    alignment."""
    n = draw(streams(setting, 1, 5))
    channels = draw(channel_count(9))
    x = torch.tensor(noise(draw(seeds), arrangeable(setting), n, channels)).to(setting.dtype)
    return Case(x=x, params=draw(params_of(setting, n, channels)), offset=draw(st.sampled_from((1, 3, 7))))


@law(
    kind="identity",
    stage="state",
    needs=("block",),
    cases=arranged_cases,
    capability="strided",
    blind=("h-res-transposed", "one-iteration"),
    by_streams=False,
    cost=7,
)
def memory_formats_do_not_matter(trial: Trial, case: Case) -> None:
    """channels_last, channels_last_3d and storages off their alignment hold the same state.

    A tensor is its values. With two token axes a state has four dims and with three five, so that torch's own formats
    apply; a vectorised load from an address that is no multiple of 16 bytes faults, or reads the neighbours.
    """
    x: Tensor = case.x
    branch, axes = constant(x), on_two_axes(x.shape[0])

    def run(target: Implementation, place: Place) -> Any:
        params, one, plain = place(case.params), map_tensors(branch, place), place(x)
        four, five = plain.reshape(*axes, *x.shape[1:]), plain.reshape(1, *axes, *x.shape[1:])
        storage = plain.new_full((case.offset + plain.numel(),), 7.0)
        unaligned = storage[case.offset :].view(plain.shape)
        unaligned.copy_(plain)
        arranged = (
            plain.clone(),
            four.contiguous(memory_format=torch.channels_last),
            five.contiguous(memory_format=torch.channels_last_3d),
            unaligned,
        )
        return tuple(target.block(one_of, params, one).reshape(plain.shape) for one_of in arranged)

    plain, *others = trial.observe("block", run)
    slack = 2 * block_error(trial, x, case.params, branch(x[..., 0, :]))
    for name, got in zip(("channels_last", "channels_last_3d", "an unaligned storage"), others, strict=True):
        trial.within(f"a block on {name}", got, wide(plain), slack)


@st.composite
def written_cases(draw: DrawFn, setting: Setting) -> Case:
    """Tokens in numbers that are no multiple of a tile, channels likewise."""
    n = draw(streams(setting, 1, 4))
    channels = draw(channel_count(17))
    tokens = min(draw(st.sampled_from((1, 3, 5, 7, 31))), setting.max_tokens)
    x = torch.tensor(noise(draw(seeds), tokens, n, channels)).to(setting.dtype)
    return Case(x=x, params=draw(params_of(setting, n, channels)))


@law(
    kind="identity",
    stage="state",
    needs=("block",),
    cases=written_cases,
    in_process=True,
    blind=("h-res-transposed", "one-iteration"),
    by_streams=False,
    cost=7,
)
def every_output_is_written(trial: Trial, case: Case) -> None:
    """With all free memory full of NaN a block is what it was before.

    An element that no thread writes, or a scratch buffer that is read before it is written, holds what was there: the
    right answer of the previous call, in a test that calls twice.
    """
    x: Tensor = case.x
    branch = constant(x)

    def run(target: Implementation, place: Place) -> Any:
        state, params, one = place(x), place(case.params), map_tensors(branch, place)
        plain = target.block(state, params, one).detach().clone()
        kept = [state.nbytes, params.phi.nbytes, 4 * x.shape[0] * x.shape[-2] ** 2, plain.nbytes]
        with trial.here.poisoned(plain.device, kept):
            poisoned = target.block(state, params, one).detach().clone()
        return plain, poisoned

    plain, poisoned = trial.observe("block", run)
    slack = 2 * block_error(trial, x, case.params, branch(x[..., 0, :]))
    trial.within("a block in poisoned memory", poisoned, wide(plain), slack)


@law(
    kind="identity",
    stage="logits",
    needs=("project",),
    cases=lambda s: projection_cases(s, patterns=MODERATE, most=5),
    cost=2,
    in_process=True,
    blind=("h-res-transposed", "one-iteration"),
)
def every_entry_is_written(trial: Trial, case: Case) -> None:
    """With all free memory full of NaN a projection is what it was before.

    As for blocks.
    """

    def run(target: Implementation, place: Place) -> Any:
        logits = place(case.logits)
        plain = target.project(logits).detach().clone()
        with trial.here.poisoned(plain.device, [logits.nbytes, plain.nbytes]):
            poisoned = target.project(logits).detach().clone()
        return plain, poisoned

    plain, poisoned = trial.observe("project", run)
    trial.within("h_res in poisoned memory", poisoned, wide(plain), 2 * projection_error(trial, case.logits))


@st.composite
def far_cases(draw: DrawFn, setting: Setting) -> Case:
    """Three tokens, to be laid so far apart that the last one lies beyond the reach of 32 bits."""
    n = draw(streams(setting, 1, 4))
    channels = draw(st.sampled_from((3, 9)))
    x = torch.tensor(noise(draw(seeds), min(3, setting.max_tokens), n, channels)).to(setting.dtype)
    return Case(x=x, params=draw(params_of(setting, n, channels)))


@law(
    kind="identity",
    stage="state",
    needs=("block",),
    cases=far_cases,
    capability="strided",
    most=2,
    in_process=True,
    feature="giants",
    giants=2,
    blind=("h-res-transposed", "one-iteration"),
)
def distant_tokens_are_read_where_they_lie(trial: Trial, case: Case) -> None:
    """Tokens whose elements lie beyond 2^31 in their storage pass a block like contiguous copies.

    An offset is token * stride, and the product must not be computed in 32 bits (b12x #120).
    """
    x: Tensor = case.x
    branch = constant(x)
    apart = trial.here.giant // max(1, x.shape[0] - 1) + 1

    def run(target: Implementation, place: Place) -> Any:
        params, one, plain = place(case.params), map_tensors(branch, place), place(x)
        storage = plain.new_empty(apart * (x.shape[0] - 1) + plain[0].numel())
        far = storage.as_strided(plain.shape, (apart, plain.shape[-1], 1))
        storage[: plain[0].numel() * 4] = 7.0  # where an offset that wraps would read
        far.copy_(plain)
        return target.block(plain.clone(), params, one).detach(), target.block(far, params, one).detach()

    plain, far = trial.observe("block", run)
    slack = 2 * block_error(trial, x, case.params, branch(x[..., 0, :]))
    trial.within("a block on distant tokens", far, wide(plain), slack)


@st.composite
def giant_projections(draw: DrawFn, setting: Setting) -> Case:
    """Some different matrices, of which more than 2^31 entries are made on the device."""
    n = draw(streams(setting, 2, 4))
    return Case(logits=draw(logits_of(setting, n, least=5, most=5, patterns=MODERATE)))


@law(
    kind="identity",
    stage="logits",
    needs=("project",),
    cases=giant_projections,
    applies=depends_on_logits,
    most=1,
    in_process=True,
    feature="giants",
    giants=8,
    blind=("h-res-transposed", "one-iteration"),
)
def distant_matrices_are_written_where_they_lie(trial: Trial, case: Case) -> None:
    """Of a batch whose entries number more than 2^31, the last matrices are projected like the first.

    The offset of an output is token * n * n, and the product must not be computed in 32 bits.
    """
    logits: Tensor = case.logits
    smallest = min(logits.shape[1:].numel(), case.logits.shape[-1] ** 2)
    count = trial.here.giant // smallest + 2 * logits.shape[0]

    def run(target: Implementation, place: Place) -> Any:
        few = place(logits)
        plain = target.project(few.clone()).detach()
        with torch.no_grad():
            many = target.project(flooded(few, count))
        last = torch.arange(count - 2 * few.shape[0], count, device=few.device)
        return plain, many[last].clone(), last % few.shape[0]

    plain, last, which = trial.observe("project", run)
    slack = 2 * projection_error(trial, logits)
    trial.within("h_res of the last matrices", last, wide(plain)[which], slack[which])


# -- queues, graphs, compilers ----------------------------------------------------------------------------------------


@st.composite
def replayed_cases(draw: DrawFn, setting: Setting) -> Case:
    """A block with a fixed branch, and other values for its state and its parameters."""
    case = draw(block_cases(setting, most=3, scales=SIZES, kinds=FIXED))
    other = draw(states(setting, *case.x.shape[1:], least=case.x.shape[0], most=case.x.shape[0], scales=SIZES))
    return case.with_(other=other)


def others(params: Params) -> Params:
    """Other parameters of the same shapes: the same numbers in other places."""
    return map_tensors(params, lambda part: part.roll(1, 0).contiguous())


@law(
    kind="identity",
    stage="state",
    needs=("block",),
    cases=replayed_cases,
    capability="graph_capturable",
    most=6,
    in_process=True,
    feature="graphs",
    blind=("h-res-transposed", "one-iteration"),
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
    trial.within(
        "a replayed block on the inputs of the capture", first, wide(eager),
        2 * block_error(trial, case.x, case.params, y),
    )  # fmt: skip
    slack = 2 * block_error(trial, case.other, others(case.params), z)
    trial.within("a replayed block on new inputs", second, wide(expected), slack)


@law(
    kind="identity",
    stage="state",
    needs=("block",),
    cases=lambda s: block_cases(s, most=3, scales=SIZES, kinds=FIXED),
    most=6,
    in_process=True,
    feature="streams",
    blind=("h-res-transposed", "one-iteration"),
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
    slack = 2 * block_error(trial, case.x, case.params, case.branch(case.x[..., 0, :]))
    trial.within("a block on a stream of its own", beside, wide(plain), slack)


@law(
    kind="identity",
    stage="state",
    needs=("block",),
    cases=replayed_cases,
    capability="compilable",
    most=4,
    in_process=True,
    thorough="a compilation takes a second",
    blind=("h-res-transposed", "one-iteration"),
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
    trial.within("a compiled block", compiled, wide(eager), 2 * block_error(trial, case.x, case.params, y))
    slack = 2 * block_error(trial, case.other, others(case.params), z)
    trial.within("a compiled block on other inputs", second, wide(other), slack)


@law(
    kind="oracle",
    stage="state",
    needs=("mappings",),
    cases=lambda s: coefficient_cases(s, most=2, scales=SIZES),
    capability="autocast_safe",
    cost=2,
    in_process=True,
    feature="autocast",
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
    agree(trial, "under autocast", got, trial.truth.mappings(case.x, case.params), bound_of(trial, case.x, case.params))


# -- the other device -------------------------------------------------------------------------------------------------


@law(
    kind="identity",
    stage="state",
    needs=("mappings",),
    cases=lambda s: coefficient_cases(s, most=4),
    feature="accelerator",
    blind=("h-res-transposed", "one-iteration"),
)
def mappings_agree_with_those_of_the_cpu(trial: Trial, case: Case) -> None:
    """The mappings on the device and on the CPU differ by what the bounds of the two allow together.

    Both are roundings of the same exact mappings; nobody promises the same bits.
    """

    def run(target: Implementation, place: Place) -> Any:
        here, there = (target.mappings(*map(put, (case.x, case.params))) for put in (place, _copied))
        return tuple(
            tuple(torch.empty(0) if part is None else part.detach() for part in found)  # pyright: ignore[reportUnnecessaryComparison]  # what is not emitted
            for found in (here, there)
        )

    here, there = (Mappings(*found) for found in trial.observe("mappings", run))
    slack: Coefficients = bound_of(trial, case.x, case.params)
    agree(trial, "here and on the CPU", here, there, slack, double=True)


@law(
    kind="identity",
    stage="state",
    needs=("block",),
    cases=lambda s: block_cases(s, most=4, scales=SIZES, kinds=FIXED),
    feature="accelerator",
    blind=("h-res-transposed", "one-iteration"),
)
def blocks_agree_with_those_of_the_cpu(trial: Trial, case: Case) -> None:
    """A block on the device and on the CPU differ by what the bounds of the two allow together.

    As for mappings.
    """

    def run(target: Implementation, place: Place) -> Any:
        arguments = (case.x, case.params, case.branch)
        return tuple(target.block(*map(put, arguments)).detach() for put in (partial(_placed, place), _copied))

    here, there = trial.observe("block", run)
    slack = 2 * block_error(trial, case.x, case.params, case.branch(case.x[..., 0, :]))
    trial.within("a block here and on the CPU", here, wide(there), slack)


def _placed(place: Place, value: Any) -> Any:
    return map_tensors(value, place)


def _copied(value: Any) -> Any:
    return map_tensors(value, torch.clone)
