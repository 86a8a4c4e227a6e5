"""Execution: batch shapes and numbers of tokens do not matter, and every token is computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from mhc_ref.packing import logits_shape
from properties.core.case import BranchSpec, Case, map_tensors
from properties.core.implementation import Implementation
from properties.core.law import Schedule
from properties.core.premises import where, zero_tokens
from properties.core.trial import Trial, wide
from properties.laws import about, calls, errors
from properties.laws.calls import by_token, constant
from properties.laws.coefficients import agree
from properties.laws.mixing import possible
from properties.laws.premises import depends_on_logits
from properties.strategies import (
    MODERATE,
    TAME,
    Setting,
    agreeing_params,
    agreeing_state,
    at_temperature,
    channel_count,
    logits_of,
    noise,
    on_two_axes,
    params_at_temperature,
    params_of,
    seeds,
    sequenced,
    streams,
    width_among,
)


def on_axes(*shape: int) -> calls.Way:
    """The tokens on as many axes."""
    return by_token(f"a batch {shape}", lambda one: one.reshape(*shape, *one.shape[1:]))


def arranged(count: int) -> list[calls.Way]:
    """The tokens on two to four axes, some of them of one token: a step of decoding has [B, 1, n, C], and frames of a
    video, or of several, lie on four."""
    first, second = on_two_axes(count)
    height = next((k for k in range(2, second) if second % k == 0), 1)
    shapes = (first, second), (count, 1), (1, count), (second, 1, first), (1, second, 1, first)
    shapes = (*shapes, (first, height, 1, second // height))
    return [on_axes(*shape) for shape in shapes]


ALONE = (
    by_token("the first token without an axis", lambda one: one[0]),
    by_token("the last token without an axis", lambda one: one[-1]),
)


@st.composite
def batched_cases(draw: DrawFn, setting: Setting) -> Case:
    """A state of six tokens, of two sequences of n, or of as many as a call takes, to be arranged in several batch
    shapes."""
    n = draw(streams(setting, 1, 5))
    channels = draw(channel_count(setting, 9))
    params = draw(params_of(setting, n, channels))
    x = torch.tensor(noise(draw(seeds), draw(sequenced(setting, n)), n, channels)).to(setting.dtype)
    return Case(x=x, params=params)


@about.block("execution.batch-shape-is-free", "identity", batched_cases, blind=about.ALIKE)
def batch_shape_is_free(trial: Trial, case: Case) -> None:
    """Any number of token axes, none included, gives every token the same result.

    Tokens are independent: [6, n, C], [2, 3, n, C], [1, 6, 1, n, C] and six single calls hold the same tokens; and
    [6, 1, n, C], a step of decoding, and [1, 6, n, C], which have kernels of their own. In [2, n, n, C] the axis of
    the tokens is as long as that of the streams.
    """
    count = case.x.shape[0]
    ways = (
        *arranged(count),
        on_axes(1, count, 1),
        *ALONE,
    )
    calls.does_not_see(trial, calls.block(trial, case.x, case.params, constant(case.x)), ways)


@about.mappings("execution.mappings-take-any-batch-shape", "identity", batched_cases, blind=about.ALIKE)
def mappings_take_any_batch_shape(trial: Trial, case: Case) -> None:
    """The mappings of tokens on one, two or three axes, and of one token without an axis, are those of the same tokens
    on one.

    Tokens are independent, whatever their arrangement.
    """
    count = case.x.shape[0]
    calls.does_not_see(trial, calls.mappings(trial, case.x, case.params), (*arranged(count), *ALONE))


@st.composite
def batched_logits(draw: DrawFn, setting: Setting) -> Case:
    """Six matrices, two sequences of n, or as many as a call takes, to be arranged in several batch shapes."""
    n = draw(streams(setting, 1, 5))
    count = draw(sequenced(setting, n))
    return Case(logits=draw(logits_of(setting, n, least=count, most=count, patterns=MODERATE)))


@about.project("execution.projection-takes-any-batch-shape", "identity", batched_logits, blind=about.ALIKE)
def projection_takes_any_batch_shape(trial: Trial, case: Case) -> None:
    """Matrices on one, two or three axes, and on axes in another order, are projected as on one.

    Matrices are independent, whatever their arrangement.
    """
    count = case.logits.shape[0]
    first, second = on_two_axes(count)

    def turned(one: Tensor) -> Tensor:
        return one.reshape(first, second, *one.shape[1:]).transpose(0, 1).contiguous()

    ways = (
        *arranged(count),
        by_token("matrices on axes in another order", turned),
        by_token("one matrix without a batch axis", lambda one: one[0]),
    )
    calls.does_not_see(trial, calls.projection(trial, case.logits), ways)


COUNTS = (1, 2, 3, 5, 7, 31, 65, 130)
"""Numbers of tokens around the sizes of tiles, none a multiple of one."""


@st.composite
def counted_cases(draw: DrawFn, setting: Setting) -> Case:
    """Many tokens, in numbers that are no multiple of any tile, or few of them with many channels."""
    n = draw(streams(setting, 1, 4))
    tokens = counted(draw, n, setting)
    channels = draw(width_among(setting, 1, 3, 33, *((67, 259, 1031) if tokens <= 7 else ())))
    x = torch.tensor(noise(draw(seeds), tokens, n, channels)).to(setting.dtype)
    return Case(x=x, params=draw(params_of(setting, n, channels, least_phi=2)))


@st.composite
def batches(draw: DrawFn, setting: Setting) -> Case:
    """Several tokens, as one is its own half and its own last, where the bound of a block is far below what it gives:
    gates and logits are of order one, and the terms of long sums have one sign."""
    n = draw(streams(setting, 1, 4))
    tokens = counted(draw, n, setting, COUNTS[1:])
    channels, seed = draw(width_among(setting, 1, 3, 33, *((67, 259, 1031) if tokens <= 7 else ()))), draw(seeds)
    if channels <= 64:
        params = draw(params_of(setting, n, channels, gates=(1.0, 0.5), patterns=TAME, least_phi=2))
        return Case(x=torch.tensor(noise(seed, tokens, n, channels)).to(setting.dtype), params=params)
    params = agreeing_params(
        seed, n, channels, setting.dialect, setting.parameter_dtype, weighted=setting.norm_weight and bool(seed % 2)
    )
    x = agreeing_state(seed, tokens, n, channels, setting.dtype)
    return Case(x=x, params=params_at_temperature(params, n, setting.dialect))


def counted(draw: DrawFn, n: int, setting: Setting, counts: tuple[int, ...] = COUNTS) -> int:
    """A number of tokens around the size of a tile; a bound is O(n^4) a token."""
    return setting.count(draw(st.sampled_from(counts if n <= 4 else counts[:-1])))


@about.block("execution.every-token-is-computed", "oracle", counted_cases, schedule=Schedule(cost=3))
def every_token_is_computed(trial: Trial, case: Case) -> None:
    """Every token of 1, 2, 7, 31, 65 or 130 is computed, and every channel of up to 1031, the last ones included.

    Grids that floor the number of tiles leave a tail unwritten, and loops that stop early a tail unread; the block is
    compared with the reference for every token.
    """
    branch = constant(case.x)
    out, seen = trial.block(case.x, case.params, branch)
    exact = trial.truth.block(case.x, case.params, seen[0].y)[1]
    trial.within("the block", out, exact, errors.block(trial, case.x, case.params, seen[0].y))


@about.block(
    "execution.parts-of-a-batch-agree-with-the-whole",
    "identity",
    batches,
    blind=about.ALIKE,
    schedule=Schedule(cost=3),
)
def parts_of_a_batch_agree_with_the_whole(trial: Trial, case: Case) -> None:
    """A block of many tokens is the same block of its halves, and of its last token alone.

    Tokens are independent; a tail, a tile or an index that wraps around belongs to the whole only. No reference is
    involved.
    """
    branch = constant(case.x)
    agree_in_parts(trial, case, branch, errors.block(trial, case.x, case.params, branch(case.x[..., 0, :])))


def agree_in_parts(trial: Trial, case: Case, branch: BranchSpec, error: Tensor) -> None:
    """A block of all tokens, whose error that is, is the same as that of its halves, and of its last token alone."""
    x: Tensor = case.x
    middle = (x.shape[0] + 1) // 2

    def run(target: Implementation, place: Callable[[Any], Any]) -> Any:
        params, one, state = place(case.params), map_tensors(branch, place), place(x)
        whole = target.block(state.clone(), params, one)
        halves = [target.block(part.clone(), params, one) for part in (state[:middle], state[middle:]) if len(part)]
        return whole, torch.cat(halves), target.block(state[-1:].clone(), params, one)

    whole, halves, last = trial.observe("block", run)
    slack = 2 * error
    trial.contract("the shape of the whole", whole.shape == x.shape, str(tuple(whole.shape)), str(tuple(x.shape)))
    trial.near("the whole batch, against its halves", whole, wide(halves), slack)
    trial.near("the last token of the whole batch, against itself alone", whole[-1:], wide(last), slack[-1:])


@about.mappings("execution.every-token-has-its-mappings", "oracle", counted_cases, schedule=Schedule(cost=3))
def every_token_has_its_mappings(trial: Trial, case: Case) -> None:
    """The mappings of 1, 2, 7, 31, 65 or 130 tokens are all computed, and those of no token are empty.

    As for blocks, for implementations that offer the mappings alone.
    """
    expected = trial.truth.mappings(case.x, case.params)
    agree(trial, "", trial.mappings(case.x, case.params), expected, errors.mappings(trial, case.x, case.params))
    for axes in no_tokens(trial):
        trial.mappings(case.x.new_zeros(*axes, *case.x.shape[1:]), case.params)


@st.composite
def counted_mixtures(draw: DrawFn, setting: Setting) -> Case:
    """Any h_post, h_res, state and branch output for many tokens."""
    n, channels = draw(streams(setting)), draw(channel_count(setting))
    tokens = setting.count(draw(st.sampled_from((6, 2 * n, *COUNTS))))
    seed, dtype = draw(seeds), setting.parameter_dtype
    shapes = ((n, channels), (channels,), (n,), (n, n))
    x, y, h_post, h_res = (torch.tensor(noise(seed + k, tokens, *shape)) for k, shape in enumerate(shapes))
    h_res = possible(h_res.to(dtype), setting.dialect)
    return Case(x=x.to(setting.dtype), y=y.to(setting.dtype), h_post=h_post.to(dtype), h_res=h_res)


@about.post("execution.every-token-is-read-and-mixed", "oracle", counted_mixtures, schedule=about.HALF)
def every_token_is_read_and_mixed(trial: Trial, case: Case) -> None:
    """pre and post compute every token of many, on any number of token axes, and of no token nothing.

    As for blocks, for implementations that offer the parts alone.
    """
    tokens = case.x.shape[0]
    for call in calls.mixtures(trial, case):
        method = getattr(trial, call.method)
        exact, bound = getattr(trial.truth, call.method)(*call.given), call.errors()[0]
        got = method(*call.given)
        trial.within(call.method, got, exact, bound)
        pair = (2, tokens // 2) if tokens % 2 == 0 else (1, tokens)
        for axes, shape in (("two", pair), ("two", (tokens, 1)), ("three", (pair[1], 1, pair[0]))):
            paired = method(*(one.reshape(*shape, *one.shape[1:]) for one in call.given))
            trial.within(f"{call.method} on {axes} token axes", paired.reshape(got.shape), exact, bound)
        alone = method(*(one[-1] for one in call.given))
        trial.within(f"{call.method} of one token", alone, exact[-1], bound[-1])
        for axes in no_tokens(trial):
            method(*(one.new_zeros(*axes, *one.shape[1:]) for one in call.given))


@st.composite
def counted_logits(draw: DrawFn, setting: Setting) -> Case:
    """Many matrices."""
    n = draw(streams(setting, 1, 4))
    tokens = counted(draw, n, setting)
    if logits_shape(n, setting.dialect) != (n, n):
        few = draw(logits_of(setting, n, least=1, most=2))
        return Case(logits=few.repeat(tokens, *[1] * (few.ndim - 1))[:tokens])
    drawn = at_temperature(noise(draw(seeds), tokens, n, n) * 2, setting.dialect)
    return Case(logits=torch.tensor(drawn, dtype=setting.parameter_dtype))


@about.project(
    "execution.every-matrix-is-projected", "oracle", counted_logits, where(depends_on_logits), schedule=Schedule(cost=3)
)
def every_matrix_is_projected(trial: Trial, case: Case) -> None:
    """Every matrix of a batch of 1, 2, 7, 31, 65 or 130 is projected, and by itself.

    As for tokens: tails, tiles, and stopping rules that look at a whole batch.
    """
    trial.within(
        "h_res", trial.project(case.logits), trial.truth.project(case.logits), errors.projected(trial, case.logits)
    )


def no_tokens(trial: Trial) -> tuple[tuple[int, ...], ...]:
    """The axes of no token, where a call takes so few."""
    return ((0,), (2, 0), (0, 2)) if trial.implementation.zero_tokens else ()


@st.composite
def empty_cases(draw: DrawFn, setting: Setting) -> Case:
    """No token at all."""
    n = draw(streams(setting, 1, 4))
    channels = draw(channel_count(setting, 9))
    return Case(x=torch.zeros(0, n, channels, dtype=setting.dtype), params=draw(params_of(setting, n, channels)))


@about.block("execution.no-token-is-a-legal-batch", "contract", empty_cases, zero_tokens, schedule=Schedule(cost=4))
def no_token_is_a_legal_batch(trial: Trial, case: Case) -> None:
    """A batch without tokens gives an output without tokens, on the axes that it has.

    Experts and ranks run out of tokens; a grid of size 0 must not crash (sglang #38952), and of [2, 0, n, C] comes as
    much.
    """
    for axes in no_tokens(trial):
        trial.block(case.x.reshape(*axes, *case.x.shape[1:]), case.params, BranchSpec("identity"))


@about.project(
    "execution.no-matrix-is-a-legal-batch",
    "contract",
    lambda s: empty_logits(s),
    zero_tokens,
    schedule=Schedule(cost=4),
)
def no_matrix_is_a_legal_batch(trial: Trial, case: Case) -> None:
    """A batch without matrices gives an output without matrices.

    As for tokens.
    """
    for axes in no_tokens(trial):
        trial.project(case.logits.reshape(*axes, *case.logits.shape[1:]))


@st.composite
def empty_logits(draw: DrawFn, setting: Setting) -> Case:
    """A batch of no matrices."""
    n = draw(streams(setting, 1, 4))
    return Case(logits=draw(logits_of(setting, n, least=1, most=1))[:0])
