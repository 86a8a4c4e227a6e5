"""Gradient: what autograd may do to a backward pass must not matter, nor how many tokens share one.

Autograd hands over cotangents of any layout, calls backward twice where a graph is kept, asks for the gradients of some
inputs only, and runs other forward passes before. None of it moves values, and no reference is involved: two gradients
of one implementation are compared, within the bounds of both.
"""

from __future__ import annotations

from functools import partial

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from mhc_ref import Params
from mhc_ref.packing import logits_shape
from properties.core.case import Case
from properties.core.law import Schedule
from properties.core.premises import differentiable, where
from properties.core.reads import mapping_shapes
from properties.core.trial import Trial
from properties.laws import about, pulls, pulls_called
from properties.laws.gradient import projection_pulls
from properties.laws.gradient_block import mixing_pulls
from properties.laws.mixing import possible
from properties.laws.premises import depends_on_logits, mixes_in_compute_dtype
from properties.laws.pulls_of_parts import is_that_of_its_parts
from properties.strategies import TAME, Setting, branch_of, far_beside, noise, params_of, seeds, streams, width_among

project, mappings, block, post = (
    partial(one, blind=about.ALIKE, schedule=about.SELDOM)
    for one in (about.project, about.mappings, about.block, about.post)
)

# -- what autograd may do ---------------------------------------------------------------------------------------------


@project(
    "gradient.projection-pulls-back-however-it-is-called",
    "identity",
    lambda s: projection_pulls(s, least_n=2, patterns=("normal", "integers", "near permutation")),
    where(depends_on_logits),
    differentiable,
)
def projection_pulls_back_however_it_is_called(trial: Trial, case: Case) -> None:
    """The gradient of a projection is the same a second time, for any layout of its cotangent, and after other calls.

    It is a function of values. A backward pass that reads its cotangent as if it were contiguous is wrong for the
    gradient of every sum, which autograd expands from one number; one that writes to its cotangent or to what it saved
    corrupts other gradients, and one that saves outside the graph takes the values of the last call.
    """
    pulls_called.does_not_see_how_it_is_called(trial, pulls.projection(trial, case))


@mappings("gradient.mappings-pull-back-however-they-are-called", "identity", lambda s: few_states(s), differentiable)
def mappings_pull_back_however_they_are_called(trial: Trial, case: Case) -> None:
    """The gradients of the mappings are the same a second time, for any layout of the cotangents, for some of the
    outputs, by some of the inputs, and after other calls.

    As for projections. Frozen parameters are usual in fine-tuning (PaddleFleet #1793), and an output that nobody uses
    has no cotangent (Liger #1402).
    """
    pulls_called.does_not_see_how_it_is_called(trial, pulls.mappings(trial, case))
    if trial.implementation.strided:
        pulls_called.does_not_see_strides_of_zero(trial, pulls.mappings(trial, _even(case)))


def _even(case: Case) -> Case:
    """With the same bias for every logit, the same gate for all, and one stream in every place."""
    params: Params = case.params
    first = (params.bias[:1].expand_as(params.bias), params.alpha[:1].expand_as(params.alpha))
    even = params._replace(bias=first[0].clone(), alpha=first[1].clone())
    return case.with_(params=even, x=case.x[:, :1].expand_as(case.x).contiguous())


@block(
    "gradient.blocks-pull-back-however-they-are-called",
    "identity",
    lambda s: many_blocks(s, (2, 1)),
    differentiable,
    mixes_in_compute_dtype,
)
def blocks_pull_back_however_they_are_called(trial: Trial, case: Case) -> None:
    """The gradients of a block are the same a second time, for any layout of the cotangent, by some of the inputs, and
    after other calls.

    As for projections. The first streams are one, which a model expands without a copy.
    """
    pulls_called.does_not_see_how_it_is_called(trial, pulls.block(trial, case))
    if trial.implementation.strided:
        pulls_called.does_not_see_strides_of_zero(trial, pulls.block(trial, _even(case)))


@post(
    "gradient.pre-and-post-pull-back-however-they-are-called",
    "identity",
    mixing_pulls,
    differentiable,
    mixes_in_compute_dtype,
    schedule=Schedule(cost=4, by_streams=False),
)
def pre_and_post_pull_back_however_they_are_called(trial: Trial, case: Case) -> None:
    """The gradients of pre and post are the same a second time, for any layout of the cotangent, by some of the
    factors, and after other calls.

    As for projections.
    """
    for pulled in pulls.mixtures(trial, case):
        pulls_called.does_not_see_how_it_is_called(trial, pulled)


# -- many tokens ------------------------------------------------------------------------------------------------------

MANY = (1030, 66, 6, 34, 130, 10)
"""Numbers of tokens in a backward pass: off the sizes of tiles, and even, to lie on two axes."""

FEW_ENOUGH = 100
"""The most of them where n is above 4: bounds of gradients take their time."""

WIDTHS = (3, 35, 1, 67)
"""Numbers of channels likewise."""


def token_counts(n: int, counts: tuple[int, ...] = MANY) -> st.SearchStrategy[int]:
    """One of these numbers of tokens, of those that are few enough for n streams."""
    every = (*counts[:1], 2 * n, *counts[1:]) if len(counts) > 2 else counts  # [2, n, n, C], as many tokens as streams
    return st.sampled_from([count for count in every if n <= 4 or count <= FEW_ENOUGH])


@st.composite
def many_projections(draw: DrawFn, setting: Setting, counts: tuple[int, ...] = MANY) -> Case:
    """Many matrices of logits and a cotangent of h_res, of the second half far below that of the first, as where a loss
    weighs tokens."""
    n = draw(streams(setting, 2))
    count = setting.count(draw(token_counts(n, counts)))
    shape = logits_shape(n, setting.dialect)
    dtype, seed = setting.parameter_dtype, draw(seeds)
    logits = torch.tensor(noise(seed, count, *shape) * 2, dtype=dtype)
    bar = torch.tensor(noise(seed + 1, count, n, n), dtype=dtype)
    bar[(count + 1) // 2 :] *= 2.0 ** -min(30, far_beside(dtype))
    return Case(logits=logits, cotangent=bar)


@st.composite
def many_states(draw: DrawFn, setting: Setting, counts: tuple[int, ...] = MANY) -> Case:
    """x of many tokens, dense parameters and open gates, a cotangent for each mapping."""
    n = draw(streams(setting, 1))
    channels = draw(width_among(setting, *WIDTHS))
    count = setting.count(draw(token_counts(n, counts)))
    params = draw(params_of(setting, n, channels, gates=(1.0, 0.5), patterns=TAME, least_phi=2))
    seed, dtype = draw(seeds), setting.parameter_dtype
    pulls = mapping_shapes((count, n, channels), setting.dialect)
    bars = tuple(torch.tensor(noise(seed + 1 + k, *shape), dtype=dtype) for k, shape in enumerate(pulls))
    x = torch.tensor(noise(seed, count, n, channels)).to(setting.dtype)
    return Case(x=x, params=params, cotangents=bars)


@st.composite
def few_states(draw: DrawFn, setting: Setting) -> Case:
    """x of one or two tokens, and cotangents of which some are zero: those of outputs that nobody uses."""
    case = draw(many_states(setting, (2, 1)))
    used = draw(st.sampled_from(((1, 1, 1), (1, 1, 0), (0, 1, 1), (1, 0, 0))))
    return case.with_(cotangents=tuple(bar * on for bar, on in zip(case.cotangents, used, strict=True)))


@st.composite
def many_blocks(
    draw: DrawFn,
    setting: Setting,
    counts: tuple[int, ...] = MANY,
    kinds: tuple[str, ...] = ("scale", "constant", "identity"),
) -> Case:
    """x of many tokens, dense parameters, a branch, and a cotangent of what a block makes of them."""
    case = draw(many_states(setting, counts))
    branch = draw(branch_of(setting, case.x.shape[-1], kinds))
    bar = torch.tensor(noise(draw(seeds), *case.x.shape)).to(setting.dtype)
    return Case(x=case.x, params=case.params, branch=branch, cotangent=bar)


@st.composite
def many_mixtures(draw: DrawFn, setting: Setting) -> Case:
    """Any h_post, h_res, state and branch output for many tokens, and cotangents of post and of pre."""
    n, channels = draw(streams(setting)), draw(width_among(setting, *WIDTHS))
    count = setting.count(draw(token_counts(n)))
    seed, dtype = draw(seeds), setting.parameter_dtype
    shapes = ((n, channels), (channels,), (n,), (n, n), (n, channels), (channels,))
    x, y, h_post, h_res, *bars = (torch.tensor(noise(seed + k, count, *shape)) for k, shape in enumerate(shapes))
    x, y, *bars = (one.to(setting.dtype) for one in (x, y, *bars))
    h_res = possible(h_res.to(dtype), setting.dialect)
    return Case(x=x, y=y, h_post=h_post.to(dtype), h_res=h_res, cotangents=tuple(bars))


@project("gradient.every-matrix-pulls-back", "identity", many_projections, where(depends_on_logits), differentiable)
def every_matrix_pulls_back(trial: Trial, case: Case) -> None:
    """The gradient of many matrices is that of each half of them, and of none, on one axis or on two.

    Matrices are independent backwards too: tails and tiles of a backward pass are not those of the forward one
    (Megatron #7524), and an exponent that all of them share loses those of small cotangents.
    """
    is_that_of_its_parts(trial, pulls.projection(trial, case))


@mappings("gradient.every-token-pulls-back-through-the-mappings", "identity", many_states, differentiable)
def every_token_pulls_back_through_the_mappings(trial: Trial, case: Case) -> None:
    """The gradients of the mappings of many tokens are those of each half of them, the parameters' being their sum.

    A parameter's gradient is a sum over all tokens, on however many axes they lie; over no token it is 0. A reduction
    over one axis, over full tiles or over the first few tokens is another.
    """
    is_that_of_its_parts(trial, pulls.mappings(trial, case))


@block(
    "gradient.every-token-pulls-back-through-a-block", "identity", many_blocks, differentiable, mixes_in_compute_dtype
)
def every_token_pulls_back_through_a_block(trial: Trial, case: Case) -> None:
    """The gradients of a block of many tokens are those of each half of them, the parameters' being their sum.

    As for mappings.
    """
    is_that_of_its_parts(trial, pulls.block(trial, case))


@post(
    "gradient.every-token-pulls-back-through-pre-and-post",
    "identity",
    many_mixtures,
    differentiable,
    mixes_in_compute_dtype,
)
def every_token_pulls_back_through_pre_and_post(trial: Trial, case: Case) -> None:
    """The gradients of pre and post of many tokens are those of each half of them, on one axis or on two.

    As for projections.
    """
    for pulled in pulls.mixtures(trial, case):
        is_that_of_its_parts(trial, pulled)
