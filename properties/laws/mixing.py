"""Mixing: what applying h_pre, h_post and h_res to a state must satisfy, norm preservation among it."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from mhc_ref import Dialect
from properties.core.case import Case
from properties.core.family import DIM, guarantees_of
from properties.core.implementation import parameter_dtype
from properties.core.premises import several_streams, where
from properties.core.reads import as_pre_takes
from properties.core.rounding import known, noted
from properties.core.trial import Trial, magnitude, wide
from properties.laws import about, errors
from properties.laws.premises import alternating, exact_axis, mixes, normalised, stochastic
from properties.strategies import (
    MODERATE,
    Setting,
    channel_count,
    logits_of,
    noise,
    permutations_of,
    projection_cases,
    seeds,
    states_of,
    streams,
)


def still(x: Tensor, trial: Trial) -> tuple[Tensor, Tensor]:
    """A branch output of zeros and an h_post of zeros: only the residual path is left."""
    dtype = parameter_dtype(trial.dtype)
    return x.new_zeros(*x.shape[:-2], x.shape[-1]), torch.zeros(*x.shape[:-1], dtype=dtype)


def carried(line: Tensor, x: Tensor) -> Tensor:
    """What an error of the sum of each line [tokens, n] makes of the streams that it weighs: of a line that is lost to
    underflow nothing is known, not even that it leaves a 0 as it was."""
    return known(noted(line).unsqueeze(-1) * wide(x).abs())


@st.composite
def mixing_cases(draw: DrawFn, setting: Setting, *, least_n: int = 1, patterns: tuple[str, ...] = MODERATE) -> Case:
    """logits [1 or tokens, n, n] and a state [tokens, n, C]."""
    n = draw(streams(setting, least_n))
    x = draw(states_of(setting, n, draw(channel_count(setting, 9)), most=4))
    logits = draw(logits_of(setting, n, least=x.shape[0], most=x.shape[0], patterns=patterns))
    return Case(logits=logits, x=x)


def possible(h_res: Tensor, dialect: Dialect) -> Tensor:
    """Matrices that `post` may be given: any, but the identity alone where h_res is the identity by declaration.

    A plain residual stream adds the branch to x and reads no matrix.
    """
    if not guarantees_of(dialect).identity:
        return h_res
    return torch.eye(h_res.shape[-1], dtype=h_res.dtype).expand(h_res.shape).clone()


STATES = (1.0, 30.0, 1e-3, 1e6)
"""Sizes of states that are mixed, the last beyond float16."""


@st.composite
def matrix_cases(draw: DrawFn, setting: Setting, *, least_n: int = 1) -> Case:
    """Any h_post and h_res, signed, with a state and a branch output: post is bilinear and owes nothing to a
    manifold."""
    n = draw(streams(setting, least_n))
    channels = draw(channel_count(setting))
    x = draw(states_of(setting, n, channels, most=4, scales=STATES))
    tokens, seed, dtype = x.shape[0], draw(seeds), setting.parameter_dtype
    y = torch.tensor(noise(seed, tokens, channels)).to(setting.dtype) * draw(st.sampled_from((1.0, 0.0, 4.0)))
    h_post = torch.tensor(noise(seed + 1, tokens, n), dtype=dtype) * draw(st.sampled_from((1.0, 0.0, 2.0)))
    h_res = torch.tensor(noise(seed + 2, tokens, n, n), dtype=dtype)
    if draw(st.booleans()):
        h_res = torch.eye(n, dtype=dtype).roll(draw(st.integers(0, n - 1)), -1).expand(tokens, n, n).clone()
    return Case(x=x, y=y, h_post=h_post, h_res=possible(h_res, setting.dialect))


@about.post("mixing.post-is-the-declared-combination", "oracle", matrix_cases)
def post_is_the_declared_combination(trial: Trial, case: Case) -> None:
    """post(x, y, h_post, h_res) is A x + h_post^T y, with A = h_res or its transpose as declared.

    Its definition; rounding can only explain gamma_{n+3} of the sum of magnitudes and one rounding into the state's
    dtype.
    """
    trial.judge_exactly()
    bound = errors.post(trial, case.x, case.h_res, case.y, case.h_post)
    given = (case.x, case.y, case.h_post, case.h_res)
    trial.within("post", trial.post(*given), trial.truth.post(*given), bound.error)


@about.post("mixing.post-is-the-sum-of-its-parts", "identity", matrix_cases, blind=("one-iteration",))
def post_is_the_sum_of_its_parts(trial: Trial, case: Case) -> None:
    """post of a state is the sum of what it makes of each stream by itself and of the branch's output by itself.

    It is linear in (x, y). Setting all but one of them to zero is exact, so the parts owe nothing to a rounding of
    their inputs; each has its own bound, and so has the whole.
    """
    x, y, h_post, h_res = case.x, case.y, case.h_post, case.h_res
    whole = trial.post(x, y, h_post, h_res)
    slack = errors.post(trial, x, h_res, y, h_post).error
    total = torch.zeros_like(wide(x))
    nothing = torch.zeros_like(y)
    for j in (*range(x.shape[-2]), None):
        part = torch.zeros_like(x)
        if j is not None:
            part[..., j, :] = x[..., j, :]
        output = nothing if j is not None else y
        total = total + wide(trial.post(part, output, h_post, h_res))
        slack = slack + errors.post(trial, part, h_res, output, h_post).error
    trial.within("post less the sum of its parts", wide(whole) - total, torch.zeros_like(total), slack)


@about.post(
    "mixing.permutations-carry-streams",
    "identity",
    lambda s: permuted_state(s),
    where(mixes),
    blind=("post-scale-one",),
)
def permutations_carry_streams(trial: Trial, case: Case) -> None:
    """A permutation matrix as h_res carries stream j to the place that the declared orientation says, unchanged.

    One product with 1 and n - 1 with 0; only the orientation decides where a stream goes (n >= 3).
    """
    n = case.x.shape[-2]
    matrix = torch.eye(n)[torch.tensor(case.order)].to(parameter_dtype(trial.dtype))
    y, h_post = still(case.x, trial)
    got = trial.post(case.x, y, h_post, matrix.expand(*case.x.shape[:-2], n, n).contiguous())
    order = list(case.order)
    if trial.dialect.transposed:
        order = [order.index(i) for i in range(n)]
    expected = wide(case.x)[..., order, :]
    r = trial.rounding
    unit = r.product + 2 * r.unit * (1 + r.product)  # the stream may be read by a matrix product; 1 is exact in all
    trial.within("a carried stream", got, expected, unit * expected.abs() + r.tiny)


@st.composite
def permuted_state(draw: DrawFn, setting: Setting) -> Case:
    """A state of distinct streams and a permutation."""
    n = draw(streams(setting, 2))
    x = draw(states_of(setting, n, draw(channel_count(setting, 9)), most=2))
    return Case(x=x, order=draw(permutations_of(n)))


@st.composite
def pre_cases(draw: DrawFn, setting: Setting) -> Case:
    """A state and any h_pre."""
    n = draw(streams(setting))
    x = draw(states_of(setting, n, draw(channel_count(setting)), most=4))
    h_pre = torch.tensor(noise(draw(seeds), x.shape[0], n), dtype=setting.parameter_dtype)
    if draw(st.booleans()):
        h_pre = h_pre.abs()
    return Case(x=x, h_pre=as_pre_takes(h_pre, x, setting.dialect))


@about.pre("mixing.pre-is-the-weighted-sum", "oracle", pre_cases)
def pre_is_the_weighted_sum(trial: Trial, case: Case) -> None:
    """pre(x, h_pre) is the sum of the streams weighted by h_pre, in the dtype of the state.

    Its definition, within gamma_n of the sum of magnitudes and one rounding.
    """
    trial.judge_exactly()
    bound = errors.pre(trial, case.x, case.h_pre)
    trial.within("pre", trial.pre(case.x, case.h_pre), trial.truth.pre(case.x, case.h_pre), bound.error)


@about.mixing(
    "mixing.exact-side-is-conserved",
    "identity",
    lambda s: mixing_cases(s, least_n=2),
    where(alternating),
    several_streams,
)
def exact_side_is_conserved(trial: Trial, case: Case) -> None:
    """Identical streams stay what they are where rows of A are exact; the sum over streams stays where columns are.

    A 1 = 1, or 1^T A = 1^T, for the axis that is divided last (with an eps: times s / (s + eps)). The other of the two
    fails by what the iteration leaves, so the pair tells the orientation.
    """
    axis = exact_axis(trial.dialect)
    x = case.x
    if axis == -1:
        x = x[..., :1, :].expand(x.shape).contiguous()
    h_res = trial.project(case.logits)
    y, h_post = still(x, trial)
    out = wide(trial.post(x, y, h_post, h_res.to(parameter_dtype(trial.dtype))))
    bound = errors.projection(trial, case.logits)
    emitted_axis = axis if not trial.dialect.transposed else -3 - axis
    sums = trial.truth.project(case.logits).sum(emitted_axis)  # of the exact axis, one for each line
    rounding = errors.post(trial, x, h_res).error
    line = bound.line if trial.dialect.iterations else bound.error.sum(emitted_axis)
    if axis == -1:
        expected = sums.unsqueeze(-1) * wide(x)
        trial.within("a stream of identical ones", out, expected, rounding + carried(line, x))
    else:
        expected = (sums.unsqueeze(-1) * wide(x)).sum(-2)
        slack = rounding.sum(-2) + carried(line, x).sum(-2)
        trial.within(
            "the sum over streams", out.sum(-2), expected, slack + 4 * x.shape[-2] * 2.0**-52 * magnitude(out).sum(-2)
        )


@about.mixing("mixing.mixing-does-not-expand", "invariant", mixing_cases, where(stochastic, normalised))
def mixing_does_not_expand(trial: Trial, case: Case) -> None:
    """Where rows of A are exact no channel leaves the range of its streams; where columns are, no channel's absolute
    sum grows.

    A with non-negative rows that sum to at most 1 takes averages: ||A||_inf <= 1 and max - min cannot grow
    (docs/mathematics.md, Norms); with such columns ||A||_1 <= 1. The Frobenius dispersion may grow at finite iterations
    and is not asserted.
    """
    h_res = trial.project(case.logits).to(parameter_dtype(trial.dtype))
    y, h_post = still(case.x, trial)
    out, x = wide(trial.post(case.x, y, h_post, h_res)), wide(case.x)
    rounding = errors.post(trial, case.x, h_res).error
    line = errors.projection(trial, case.logits).line
    if exact_axis(trial.dialect) == -1:
        reach = rounding + carried(line, x.abs().amax(-2, keepdim=True))
        shrunk = trial.truth.project(case.logits).sum(-1 if not trial.dialect.transposed else -2).unsqueeze(-1)
        trial.at_most("a channel above the largest of its streams", out, shrunk * x.amax(-2, keepdim=True), reach)
        trial.at_most("a channel below the smallest of its streams", -out, -shrunk * x.amin(-2, keepdim=True), reach)
    else:
        grown, before = out.abs().sum(-2), x.abs().sum(-2)
        trial.at_most(
            "the absolute sum of a channel",
            grown,
            before,
            rounding.sum(-2) + carried(line, x).sum(-2) + 2.0**-50 * before,
        )


@about.project(
    "mixing.spectral-norm-within-its-certificate",
    "invariant",
    lambda s: projection_cases(s, patterns=MODERATE),
    where(stochastic, normalised),
    blind=("emitted-transposed",),
)
def spectral_norm_within_its_certificate(trial: Trial, case: Case) -> None:
    """||h_res||_2 is at most sqrt(1 + e), e the excess of the largest sum along the axis that is not exact.

    ||A||_2^2 <= ||A||_1 ||A||_inf (Riesz-Thorin), and one of the two is 1; the other is what this number of
    iterations leaves.
    """
    got, bound = wide(trial.project(case.logits)), errors.projection(trial, case.logits)
    exact = trial.truth.project(case.logits)
    limit = (exact.sum(-1).amax(-1) * exact.sum(-2).amax(-1)).sqrt()
    slack = bound.error.flatten(-2).norm(dim=-1) + 2.0**-45 * limit
    finite = torch.isfinite(got).all(-1).all(-1)
    norm = torch.linalg.matrix_norm(torch.where(finite[..., None, None], got, 0.0), 2)
    trial.at_most("the spectral norm", torch.where(finite, norm, torch.nan), limit, slack)


@st.composite
def deep_cases(draw: DrawFn, setting: Setting) -> Case:
    """A sequence of logits, repeated to a depth of up to 128 layers."""
    n = draw(streams(setting, 2))
    logits = draw(logits_of(setting, n, least=1, most=4, patterns=MODERATE))
    return Case(logits=logits, depth=draw(st.sampled_from((1, 2, 3, 8, 32, 128))))


@about.project(
    "mixing.composites-keep-their-caps", "invariant", deep_cases, where(normalised), blind=("one-iteration",)
)
def composites_keep_their_caps(trial: Trial, case: Case) -> None:
    """At every depth the composite's exact side stays at most 1 and its other side at most n.

    Products of stochastic matrices are stochastic: sums along the exact axis stay 1 (or shrink with an eps), entries
    stay at most 1, so no other sum exceeds n (docs/mathematics.md, Caps). Unconstrained mixing has no such cap: the
    product is the explosion.
    """
    got, bound = wide(trial.project(case.logits)), errors.projection(trial, case.logits)
    axis = DIM[guarantees_of(trial.dialect).last]
    n = got.shape[-1]
    composite = torch.eye(n, dtype=torch.float64)
    growth = 1.0
    for layer in range(case.depth):
        token = layer % got.shape[0]
        composite = got[token] @ composite if axis == -1 else composite @ got[token]
        growth *= 1 + bound.line[token].max().item() + 2 * n * 2.0**-53
    sums = composite.sum(axis)
    slack = torch.full_like(sums, growth - 1 + 4 * n * 2.0**-53)
    trial.at_most("a sum of the composite along the exact axis", sums, torch.ones_like(sums), slack)
    other = composite.sum(-3 - axis)
    trial.at_most("a sum of the composite along the other axis", other, torch.full_like(other, float(n)), n * slack)
