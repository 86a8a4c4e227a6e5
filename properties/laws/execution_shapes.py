"""Execution: strides, batch shapes and numbers of tokens do not matter, and every token is computed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from mhc_ref import Mappings, Params
from properties.core.case import BranchSpec, Case, map_tensors
from properties.core.implementation import Implementation, offers
from properties.core.law import Schedule
from properties.core.premises import strided, where, zero_tokens
from properties.core.trial import Trial, wide
from properties.laws import about, errors
from properties.laws.block import SIZES
from properties.laws.coefficients import agree
from properties.laws.execution import COUNTS, FIXED, mixture_bound, mixtures
from properties.laws.mixing import matrix_cases, possible
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
    streams,
    width_among,
)

TURNED = "token axes in the other order"


def in_turn(values: Tensor, most: int) -> Tensor:
    """[tokens, 2, ...] with the given values first, whose token axes lie in memory in the other order.

    No single stride leads from token to token. Where a call takes `most` tokens, it is given no more.
    """
    few = values[: max(1, most // 2)]
    return torch.stack([few, few - 1][:most]).transpose(0, 1)


def taken(what: str, got: Tensor, plain: Tensor) -> int:
    """How many of the tokens were in a call: all, but for `in_turn` where a call takes few."""
    return got.shape[0] if what == TURNED else plain.shape[0]


def scattered(params: Params) -> Params:
    """The same parameters as views: columns of a wider phi, and every second entry of wider vectors."""
    phi = torch.cat([params.phi, params.phi + 1], 1)[:, : params.phi.shape[1]]
    bias = torch.stack([params.bias, params.bias - 1], 1)[:, 0]
    alpha = torch.stack([params.alpha, params.alpha - 1], 1)[:, 0]
    weight = params.norm_weight
    return Params(phi, bias, alpha, None if weight is None else torch.stack([weight, weight - 1], 1)[:, 0])


@about.project(
    "execution.projection-does-not-see-strides",
    "identity",
    lambda s: projection_cases(s, patterns=MODERATE, most=4),
    where(depends_on_logits),
    strided,
    blind=about.SYMMETRIC,
)
def projection_does_not_see_strides(trial: Trial, case: Case) -> None:
    """Transposed, sliced and expanded views of logits are projected like contiguous copies.

    A tensor is its values; a kernel that reads its storage as if it were contiguous reads others.
    """
    logits: Tensor = case.logits

    def run(target: Implementation, place: Callable[[Any], Any]) -> Any:
        plain = place(logits)
        turned = plain.transpose(-1, -2).contiguous().transpose(-1, -2)
        wider = torch.cat([plain, plain + 1], -1)[..., : plain.shape[-1]]
        spaced = torch.stack([plain, plain - 1], 1)[:, 0]
        expanded = plain[:1].expand(plain.shape)
        found = tuple(target.project(view) for view in (plain.clone(), turned, wider, spaced, expanded))
        return (*found, target.project(in_turn(plain, target.max_tokens))[:, 0])

    plain, *views = trial.observe("project", run)
    error = errors.projected(trial, logits)
    for name, got in zip(
        ("a transposed view", "a slice of a wider tensor", "every second matrix", "an expanded view", TURNED),
        views,
        strict=True,
    ):
        if name == "an expanded view":
            trial.near(f"h_res of {name}", got, wide(plain)[:1].expand(got.shape), 2 * error[:1].expand(got.shape))
        else:
            few = taken(name, got, plain)
            trial.near(f"h_res of {name}", got, wide(plain)[:few], 2 * error[:few])


@about.block(
    "execution.blocks-do-not-see-strides",
    "identity",
    lambda s: block_cases(s, most=3, scales=SIZES, kinds=FIXED),
    strided,
    blind=about.ALIKE,
)
def blocks_do_not_see_strides(trial: Trial, case: Case) -> None:
    """Sliced and transposed views of a state, of the parameters and of a branch's output pass a block like contiguous
    copies.

    States come as slices of batches and of wider tensors (aiter #5292, #4432), parameters as slices of packed weights,
    and what a branch returns as a transposed view.
    """
    x: Tensor = case.x

    def run(target: Implementation, place: Callable[[Any], Any]) -> Any:
        params, branch, plain = place(case.params), map_tensors(case.branch, place), place(x)
        swapped = plain.transpose(-1, -2).contiguous().transpose(-1, -2)
        wider = torch.cat([plain, plain + 1], -1)[..., : plain.shape[-1]]
        spaced = torch.stack([plain, plain - 1], 1)[:, 0]
        tokens_last = plain.permute(1, 2, 0).contiguous().permute(2, 0, 1)
        found = [target.block(view, params, branch) for view in (plain.clone(), swapped, wider, spaced, tokens_last)]
        turned = target.block(in_turn(plain, target.max_tokens), params, branch)[:, 0]
        found += [turned, target.block(plain, scattered(params), branch)]

        def spread(u: Tensor) -> Tensor:
            y = branch(u)
            return torch.stack([y, y - 1], -1)[..., 0]

        return (*found, target.block(plain, params, spread))

    plain, *views = trial.observe("block", run)
    slack = 2 * errors.block(trial, x, case.params, case.branch(x[..., 0, :]))
    names = ("a transposed view", "a slice of wider channels", "every second token", "tokens innermost", TURNED)
    for name, got in zip((*names, "parameters that are views", "a branch output that is a view"), views, strict=True):
        few = taken(name, got, plain)
        shape = plain[:few].shape
        trial.holds(f"the shape for {name}", got.shape == shape, str(tuple(got.shape)), str(tuple(shape)))
        trial.near(f"a block on {name}", got, wide(plain)[:few], slack[:few])


@about.mappings(
    "execution.mappings-do-not-see-strides",
    "identity",
    lambda s: coefficient_cases(s, most=3, scales=SIZES),
    strided,
    blind=about.ALIKE,
)
def mappings_do_not_see_strides(trial: Trial, case: Case) -> None:
    """Sliced and transposed views of state and parameters give the mappings of contiguous copies.

    phi is often a slice of a larger weight, or the transpose of a stored one, and biases and gates are slices of packed
    vectors.
    """
    x: Tensor = case.x

    def run(target: Implementation, place: Callable[[Any], Any]) -> Any:
        plain, params = place(x), place(case.params)
        turned, apart = params._replace(phi=params.phi.t().contiguous().t()), scattered(params)
        swapped = plain.transpose(-1, -2).contiguous().transpose(-1, -2)
        spaced = torch.stack([plain, plain - 1], 1)[:, 0]
        calls = ((plain.clone(), params), (swapped, params), (spaced, params), (plain, turned), (plain, apart))
        emitted = [k for k, name in enumerate(Mappings._fields) if name in target.emits]
        found = tuple(tuple(target.mappings(*call)[k] for k in emitted) for call in calls)
        both = target.mappings(in_turn(plain, target.max_tokens), params)
        return (*found, tuple(both[k][:, 0] for k in emitted))

    plain, *views = trial.observe("mappings", run)
    bound = errors.mappings(trial, x, case.params)
    names = [name for name in Mappings._fields if name in trial.implementation.emits]
    views_of = ("a transposed view", "every second token", "a transposed phi", "parameters that are views", TURNED)
    for what, got in zip(views_of, views, strict=True):
        for name, one, other in zip(names, got, plain, strict=True):
            few = taken(what, one, other)
            trial.near(f"h_{name} of {what}", one, wide(other)[:few], 2 * bound.parts()[name].error[:few])


@about.post("execution.post-does-not-see-strides", "identity", matrix_cases, strided, blind=about.ALIKE)
def post_does_not_see_strides(trial: Trial, case: Case) -> None:
    """Transposed and sliced views of h_res, h_post, h_pre, y and x are combined like contiguous copies.

    The coefficients of one kernel are views into its output (aiter #5292 ignored their strides).
    """

    def run(target: Implementation, place: Callable[[Any], Any]) -> Any:
        x, y, h_post, h_res = (place(one) for one in (case.x, case.y, case.h_post, case.h_res))
        turned = h_res.transpose(-1, -2).contiguous().transpose(-1, -2)
        packed = torch.cat([h_post, h_post + 1, h_res.flatten(-2)], -1)
        n = x.shape[-2]
        sliced, matrix = packed[..., :n], packed[..., 2 * n :].unflatten(-1, (n, n))
        spaced = torch.stack([y, y - 1], -1)[..., 0]
        swapped = x.transpose(-1, -2).contiguous().transpose(-1, -2)
        calls = (
            (x, y, h_post, h_res),
            (x, y, h_post, turned),
            (x, y, sliced, matrix),
            (swapped, spaced, h_post, h_res),
        )
        two_x, two_y, two_h = (in_turn(one, target.max_tokens) for one in (x, y, h_post))
        matrices = h_res[: two_x.shape[0]].unsqueeze(1).expand(-1, two_x.shape[1], -1, -1)
        posts = (*(target.post(*call) for call in calls), target.post(two_x, two_y, two_h, matrices)[:, 0])
        if not reads:
            return posts, ()
        both = target.pre(two_x, two_h)[:, 0]
        return posts, (target.pre(x, h_post), target.pre(swapped, sliced), both)

    reads = "pre" in offers(trial.implementation)
    (plain, *views), read = trial.observe("post", run)
    slack = 2 * errors.post(trial, case.x, case.h_res, case.y, case.h_post).error
    names = ("a transposed h_res", "slices of one packed tensor", "views of x and y", TURNED)
    for what, got in zip(names, views, strict=True):
        few = taken(what, got, plain)
        trial.near(f"post of {what}", got, wide(plain)[:few], slack[:few])
    for what, got in zip(("slices of one packed tensor", TURNED), read[1:], strict=False):
        few = taken(what, got, read[0])
        trial.near(f"pre of {what}", got, wide(read[0])[:few], 2 * mixture_bound(trial, case, "pre").error[:few])


@st.composite
def batched_cases(draw: DrawFn, setting: Setting) -> Case:
    """Logits and state for six tokens, or as many as a call takes, to be arranged in several batch shapes."""
    n = draw(streams(setting, 1, 5))
    channels = draw(channel_count(setting, 9))
    params = draw(params_of(setting, n, channels))
    x = torch.tensor(noise(draw(seeds), arrangeable(setting), n, channels)).to(setting.dtype)
    return Case(x=x, params=params)


@about.block("execution.batch-shape-is-free", "identity", batched_cases, blind=about.ALIKE)
def batch_shape_is_free(trial: Trial, case: Case) -> None:
    """Any number of token axes, none included, gives every token the same result.

    Tokens are independent: [6, n, C], [2, 3, n, C], [1, 6, 1, n, C] and six single calls hold the same tokens.
    """
    x: Tensor = case.x
    branch = BranchSpec("constant", torch.ones(x.shape[-1], dtype=x.dtype))
    count, few = x.shape[0], min(2, x.shape[0])
    shapes = ((count,), on_two_axes(count), (1, count, 1))

    def run(target: Implementation, place: Callable[[Any], Any]) -> Any:
        params, one = place(case.params), map_tensors(branch, place)
        found = [target.block(place(x).reshape(*shape, *x.shape[1:]), params, one) for shape in shapes]
        return (*found, torch.stack([target.block(token, params, one) for token in place(x)[:few]]))

    plain, *others = trial.observe("block", run)
    slack = 2 * errors.block(trial, x, case.params, branch(x[..., 0, :]))
    for got, shape in zip(others, (*shapes[1:], (few,)), strict=True):
        expected = (*shape, *x.shape[1:])
        trial.holds(
            f"the shape of a block of {shape} tokens",
            tuple(got.shape) == expected,
            str(tuple(got.shape)),
            str(expected),
        )
        tokens = math.prod(shape)
        trial.near(f"a block of {shape} tokens", got.reshape(-1, *x.shape[1:]), wide(plain)[:tokens], slack[:tokens])


@about.mappings("execution.mappings-take-any-batch-shape", "identity", batched_cases, blind=about.ALIKE)
def mappings_take_any_batch_shape(trial: Trial, case: Case) -> None:
    """The mappings of tokens on one, two or three axes are those of the same tokens on one.

    Tokens are independent, whatever their arrangement.
    """
    x: Tensor = case.x
    first, second = on_two_axes(x.shape[0])
    shapes = ((x.shape[0],), (first, second), (1, second, first))

    def run(target: Implementation, place: Callable[[Any], Any]) -> Any:
        params = place(case.params)
        emitted = [k for k, name in enumerate(Mappings._fields) if name in target.emits]
        found = [target.mappings(place(x).reshape(*shape, *x.shape[1:]), params) for shape in shapes]
        return tuple(tuple(one[k] for k in emitted) for one in found)

    plain, *others = trial.observe("mappings", run)
    bound = errors.mappings(trial, x, case.params)
    names = [name for name in Mappings._fields if name in trial.implementation.emits]
    for got, shape in zip(others, shapes[1:], strict=True):
        for name, one, other in zip(names, got, plain, strict=True):
            expected = (*shape, *other.shape[1:])
            trial.holds(f"the shape of h_{name}", tuple(one.shape) == expected, str(tuple(one.shape)), str(expected))
            trial.near(
                f"h_{name} of {shape} tokens", one.reshape(other.shape), wide(other), 2 * bound.parts()[name].error
            )


@st.composite
def batched_logits(draw: DrawFn, setting: Setting) -> Case:
    """Six matrices, or as many as a call takes, to be arranged in several batch shapes."""
    n, count = draw(streams(setting, 1, 5)), arrangeable(setting)
    return Case(logits=draw(logits_of(setting, n, least=count, most=count, patterns=MODERATE)))


@about.project("execution.projection-takes-any-batch-shape", "identity", batched_logits, blind=about.ALIKE)
def projection_takes_any_batch_shape(trial: Trial, case: Case) -> None:
    """Matrices on one, two or three axes, and on axes in another order, are projected as on one.

    Matrices are independent, whatever their arrangement.
    """
    logits: Tensor = case.logits
    rest = logits.shape[1:]
    first, second = on_two_axes(logits.shape[0])
    shapes = ((first, second), (1, second, first), (second, first))

    def run(target: Implementation, place: Callable[[Any], Any]) -> Any:
        plain = place(logits)
        turned = plain.reshape(first, second, *rest).transpose(0, 1).contiguous()
        shaped = (plain, plain.reshape(*shapes[0], *rest), plain.reshape(*shapes[1], *rest), turned)
        return (*(target.project(one) for one in shaped), target.project(plain[0]))

    plain, *others, alone = trial.observe("project", run)
    error = errors.projected(trial, logits)
    matrix = plain.shape[1:]
    for got, shape in zip(others, shapes, strict=True):
        trial.holds(
            f"the shape for a batch {shape}",
            tuple(got.shape) == (*shape, *matrix),
            str(tuple(got.shape)),
            str((*shape, *matrix)),
        )
    back = (
        others[0].reshape(plain.shape),
        others[1].reshape(plain.shape),
        others[2].transpose(0, 1).reshape(plain.shape),
    )
    for got, shape in zip(back, shapes, strict=True):
        trial.near(f"h_res of a batch {shape}", got, wide(plain), 2 * error)
    trial.near("h_res of one matrix without a batch axis", alone, wide(plain)[0], 2 * error[0])


@st.composite
def counted_cases(draw: DrawFn, setting: Setting) -> Case:
    """Many tokens, in numbers that are no multiple of any tile, or few of them with many channels."""
    n = draw(streams(setting, 1, 4))
    tokens = counted(draw, n, setting)
    channels = draw(width_among(setting, 1, 3, 33, *((67, 259, 1031) if tokens <= 7 else ())))
    x = torch.tensor(noise(draw(seeds), tokens, n, channels)).to(setting.dtype)
    return Case(x=x, params=draw(params_of(setting, n, channels, least_phi=2)))


def counted(draw: DrawFn, n: int, setting: Setting) -> int:
    """A number of tokens around the size of a tile; a bound is O(n^4) a token."""
    return min(draw(st.sampled_from(COUNTS if n <= 4 else COUNTS[:-1])), setting.max_tokens)


@about.block("execution.every-token-is-computed", "oracle", counted_cases, schedule=Schedule(cost=3))
def every_token_is_computed(trial: Trial, case: Case) -> None:
    """Every token of 1, 2, 7, 31, 65 or 130 is computed, and every channel of up to 1031, the last ones included.

    Grids that floor the number of tiles leave a tail unwritten, and loops that stop early a tail unread; the block is
    compared with the reference for every token.
    """
    branch = BranchSpec("constant", torch.ones(case.x.shape[-1], dtype=case.x.dtype))
    out, seen = trial.block(case.x, case.params, branch)
    exact = trial.truth.block(case.x, case.params, seen[0].y)[1]
    trial.within("the block", out, exact, errors.block(trial, case.x, case.params, seen[0].y))


@about.block(
    "execution.parts-of-a-batch-agree-with-the-whole",
    "identity",
    counted_cases,
    blind=about.ALIKE,
    schedule=Schedule(cost=3),
)
def parts_of_a_batch_agree_with_the_whole(trial: Trial, case: Case) -> None:
    """A block of many tokens is the same block of its halves, and of its last token alone.

    Tokens are independent; a tail, a tile or an index that wraps around belongs to the whole only. No reference is
    involved.
    """
    x: Tensor = case.x
    branch = BranchSpec("constant", torch.ones(x.shape[-1], dtype=x.dtype))
    middle = (x.shape[0] + 1) // 2

    def run(target: Implementation, place: Callable[[Any], Any]) -> Any:
        params, one, state = place(case.params), map_tensors(branch, place), place(x)
        whole = target.block(state.clone(), params, one)
        halves = [target.block(part.clone(), params, one) for part in (state[:middle], state[middle:]) if len(part)]
        return whole, torch.cat(halves), target.block(state[-1:].clone(), params, one)

    whole, halves, last = trial.observe("block", run)
    slack = 2 * errors.block(trial, x, case.params, branch(x[..., 0, :]))
    trial.holds("the shape of the whole", whole.shape == x.shape, str(tuple(whole.shape)), str(tuple(x.shape)))
    trial.near("the whole batch, against its halves", whole, wide(halves), slack)
    trial.near("the last token of the whole batch, against itself alone", whole[-1:], wide(last), slack[-1:])


@about.mappings("execution.every-token-has-its-mappings", "oracle", counted_cases, schedule=Schedule(cost=3))
def every_token_has_its_mappings(trial: Trial, case: Case) -> None:
    """The mappings of 1, 2, 7, 31, 65 or 130 tokens are all computed, and those of no token are empty.

    As for blocks, for implementations that offer the mappings alone.
    """
    expected = trial.truth.mappings(case.x, case.params)
    agree(trial, "", trial.mappings(case.x, case.params), expected, errors.mappings(trial, case.x, case.params))
    if trial.implementation.zero_tokens:
        trial.mappings(case.x[:0], case.params)


@st.composite
def counted_mixtures(draw: DrawFn, setting: Setting) -> Case:
    """Any h_post, h_res, state and branch output for many tokens."""
    n, channels = draw(streams(setting)), draw(channel_count(setting))
    tokens = min(draw(st.sampled_from((6, *COUNTS))), setting.max_tokens)
    seed, dtype = draw(seeds), setting.parameter_dtype
    shapes = ((n, channels), (channels,), (n,), (n, n))
    x, y, h_post, h_res = (torch.tensor(noise(seed + k, tokens, *shape)) for k, shape in enumerate(shapes))
    h_res = possible(h_res.to(dtype), setting.dialect)
    return Case(x=x.to(setting.dtype), y=y.to(setting.dtype), h_post=h_post.to(dtype), h_res=h_res)


@about.post("execution.every-token-is-read-and-mixed", "oracle", counted_mixtures, schedule=Schedule(cost=2))
def every_token_is_read_and_mixed(trial: Trial, case: Case) -> None:
    """pre and post compute every token of many, on one token axis, on two and on none, and of no token nothing.

    As for blocks, for implementations that offer the parts alone.
    """
    tokens = case.x.shape[0]
    for method, given in mixtures(trial, case):
        exact, bound = getattr(trial.truth, method)(*given), mixture_bound(trial, case, method).error
        got = getattr(trial, method)(*given)
        trial.within(method, got, exact, bound)
        shape = (2, tokens // 2) if tokens % 2 == 0 else (1, tokens)
        paired = getattr(trial, method)(*(one.reshape(*shape, *one.shape[1:]) for one in given))
        trial.within(f"{method} on two token axes", paired.reshape(got.shape), exact, bound)
        alone = getattr(trial, method)(*(one[-1] for one in given))
        trial.within(f"{method} of one token", alone, exact[-1], bound[-1])
        if trial.implementation.zero_tokens:
            getattr(trial, method)(*(one[:0] for one in given))


@st.composite
def counted_logits(draw: DrawFn, setting: Setting) -> Case:
    """Many matrices."""
    n = draw(streams(setting, 1, 4))
    tokens = counted(draw, n, setting)
    if setting.dialect.residual == "permutations":
        return Case(logits=draw(logits_of(setting, n, least=1, most=2)).repeat(tokens, 1)[:tokens])
    return Case(logits=torch.tensor(noise(draw(seeds), tokens, n, n) * 2, dtype=setting.parameter_dtype))


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


@st.composite
def empty_cases(draw: DrawFn, setting: Setting) -> Case:
    """No token at all."""
    n = draw(streams(setting, 1, 4))
    channels = draw(channel_count(setting, 9))
    return Case(x=torch.zeros(0, n, channels, dtype=setting.dtype), params=draw(params_of(setting, n, channels)))


@about.block("execution.no-token-is-a-legal-batch", "contract", empty_cases, zero_tokens, schedule=Schedule(cost=4))
def no_token_is_a_legal_batch(trial: Trial, case: Case) -> None:
    """A batch without tokens gives an output without tokens.

    Experts and ranks run out of tokens; a grid of size 0 must not crash (sglang #38952).
    """
    trial.block(case.x, case.params, BranchSpec("identity"))


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
    trial.project(case.logits)


@st.composite
def empty_logits(draw: DrawFn, setting: Setting) -> Case:
    """A batch of no matrices."""
    n = draw(streams(setting, 1, 4))
    return Case(logits=draw(logits_of(setting, n, least=1, most=1))[:0])
