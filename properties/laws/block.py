"""Block: x' = A x + h_post^T F(h_pre x), one residual path and one branch."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from mhc_ref import Dialect, Params
from mhc_ref.packing import params_shapes
from properties.bounds import Approx
from properties.bounds.block import Coefficients, combined, mixed
from properties.core.case import BranchSpec, Case
from properties.core.family import guarantees_of, mix_of
from properties.core.implementation import parameter_dtype
from properties.core.law import law
from properties.core.premises import emits_res, several_streams, where
from properties.core.trial import Seen, Trial, wide
from properties.laws import about, errors
from properties.laws.premises import carries_permutations, takes_streams
from properties.strategies import (
    Setting,
    block_cases,
    channel_count,
    extreme_params,
    permutations_of,
    states_of,
    streams,
)

SIZES = (1.0, 30.0, 1e-3)
"""Sizes of states for whole blocks: the norm's extremes have laws of their own."""

ANY_SIZE = (*SIZES, 1e6, 1e-9, 0.0)


def judged(bound: Coefficients, trial: Trial, x: Tensor, params: Params) -> Coefficients:
    """The same errors around the values of the truth, which is mpmath where float64 or a failure is judged."""
    pre, post, res = trial.truth.mappings(x, params)
    return Coefficients(Approx(pre, bound.pre.error), Approx(post, bound.post.error), Approx(res, bound.res.error))


def one_call(trial: Trial, seen: list[Seen], count: int = 1) -> None:
    """Every branch is called exactly once."""
    trial.contract("the number of branch calls", len(seen) == count, str(len(seen)), str(count))


def what_was_read_stays(trial: Trial, seen: list[Seen]) -> None:
    """What each branch has read is not changed by the rest of the call."""
    changed = [k for k, one in enumerate(seen) if not one.stays()]
    what = "what a branch has read, once the call is over"
    trial.contract(what, not changed, "changed", "as it was handed over")


@st.composite
def any_block(draw: DrawFn, setting: Setting) -> Case:
    """A block on a state of any size, zero among them; every other time with logits far beyond the range of exp."""
    case = draw(block_cases(setting, most=2, scales=ANY_SIZE, tails=True))
    if draw(st.booleans()):
        n, channels = case.x.shape[-2:]
        case = case.with_(params=draw(extreme_params(setting, n, channels)))
    return case


@about.block("block.agrees-with-oracle", "oracle", any_block, schedule=about.MORE)
def agrees_with_oracle(trial: Trial, case: Case) -> None:
    """The branch sees h_pre x, and the block returns A x + h_post^T y for what the branch gave back.

    mHC eq. (3). The output is judged with the y that was really returned, so any branch will do and its errors do not
    count.
    """
    trial.judge_exactly()
    out, seen = trial.block(case.x, case.params, case.branch)
    one_call(trial, seen)
    u, after = trial.truth.block(case.x, case.params, seen[0].y)
    read, left, _ = errors.step(trial, case.x, case.params, seen[0].y)
    trial.within("the branch input", seen[0].u, u, read.error)
    trial.within("the block", out, after, left.error)


@law(
    "block.silent-branch-leaves-the-mixing",
    "identity",
    lambda s: block_cases(s, most=2, scales=SIZES, kinds=("zero",)),
    emits_res,
    needs=("block", "mappings", "post"),
    blind=("emitted-transposed", "one-iteration"),
)
def silent_branch_leaves_the_mixing(trial: Trial, case: Case) -> None:
    """With F = 0 the block is A x, and A is what `mappings` emitted and `post` applies.

    Only the residual path is left; the parts of an implementation agree with its whole.
    """
    out, _ = trial.block(case.x, case.params, case.branch)
    got = trial.mappings(case.x, case.params)
    y = case.x.new_zeros(*case.x.shape[:-2], case.x.shape[-1])
    h_post = got.post if got.post.numel() else torch.zeros(case.x.shape[:-1], dtype=got.res.dtype)
    expected = trial.post(case.x, y, h_post, got.res)
    h_res = errors.mappings(trial, case.x, case.params).res
    slack = 2 * mixed(case.x, h_res, trial.dialect, trial.rounding).error
    trial.near("the block with F = 0", out, wide(expected), slack)


@st.composite
def routed_cases(draw: DrawFn, setting: Setting) -> Case:
    """Distinct streams, and residual logits so extreme that h_res is a permutation."""
    n = draw(streams(setting, 2))
    channels = draw(channel_count(setting, 9))
    x = draw(states_of(setting, n, channels, most=2, scales=SIZES))
    return Case(x=x, order=draw(permutations_of(n)))


def permutation_params(order: tuple[int, ...], channels: int, dialect: Dialect, dtype: torch.dtype) -> Params:
    """phi 0 and a bias whose h_res is the permutation matrix P_i,order[i] as nearly as the dialect has it."""
    n = len(order)
    matrix = torch.eye(n)[torch.tensor(order)]
    logits = mix_of(dialect).carrying(matrix, dialect)
    if logits is None:
        raise ValueError(f"residual={dialect.residual!r} has no logits for a permutation")
    shapes = params_shapes(n, channels, dialect)
    bias = torch.cat([torch.zeros(2 * n), logits.flatten()]).to(dtype)
    return Params(torch.zeros(shapes.phi, dtype=dtype), bias, torch.ones(shapes.alpha, dtype=dtype))


def destination(order: tuple[int, ...], dialect: Dialect) -> list[int]:
    """out[i] = x[destination[i]] when h_res is P_i,order[i]."""
    return [order.index(i) for i in range(len(order))] if dialect.transposed else list(order)


@about.block(
    "block.permutation-limit-carries-streams",
    "identity",
    routed_cases,
    where(carries_permutations),
    several_streams,
    blind=("post-scale-one",),
)
def permutation_limit_carries_streams(trial: Trial, case: Case) -> None:
    """Where h_res is a permutation and F = 0, stream j arrives where the declared orientation sends it.

    Logits of 60 on a permutation leave e^-60 elsewhere (with an eps: what the truth says); the orientation alone
    decides between P and its transpose, which differ for n >= 3.
    """
    params = permutation_params(case.order, case.x.shape[-1], trial.dialect, parameter_dtype(trial.dtype))
    params = trial.stored(params)
    out, _ = trial.block(case.x, params, BranchSpec("zero"))
    _, exact = trial.truth.block(case.x, params, torch.zeros_like(case.x[..., 0, :]))
    target = wide(case.x)[..., destination(case.order, trial.dialect), :]
    h_res = errors.mappings(trial, case.x, params).res
    rounding = mixed(case.x, h_res, trial.dialect, trial.rounding).error
    trial.within("a carried stream", out, target, rounding, (exact - target).abs())


@about.block(
    "block.branch-enters-through-h-post-alone",
    "identity",
    lambda s: block_cases(s, most=2, scales=SIZES, kinds=("constant",)),
    blind=("h-res-transposed", "one-iteration", "branch-reads-mean"),
)
def branch_enters_through_h_post_alone(trial: Trial, case: Case) -> None:
    """Doubling what the branch returns adds h_post^T y once more, and nothing else.

    The block is affine in y: block(2y) - block(y) = block(y) - block(0). One branch, one residual path.
    """
    twice = BranchSpec("constant", 2 * case.branch.weight)
    none, _ = trial.block(case.x, case.params, BranchSpec("zero"))
    once, seen = trial.block(case.x, case.params, case.branch)
    double, again = trial.block(case.x, case.params, twice)
    h, r = errors.mappings(trial, case.x, case.params), trial.rounding
    operator = h.operator(trial.dialect)
    slack = combined(case.x, operator, r).error
    slack = slack + 2 * combined(case.x, operator, r, seen[0].y, h.post).error
    slack = slack + combined(case.x, operator, r, again[0].y, h.post).error
    trial.within(
        "block(2y) - 2 block(y) + block(0)",
        wide(double) - 2 * wide(once) + wide(none),
        torch.zeros_like(wide(once)),
        slack,
    )


@about.block(
    "block.one-stream-is-a-gated-residual",
    "identity",
    lambda s: block_cases(s.with_(streams=(1,)), most=2, scales=SIZES),
    takes_streams(1),
    blind=about.SYMMETRIC,
)
def one_stream_is_a_gated_residual(trial: Trial, case: Case) -> None:
    """For n = 1 the block is a x + h_post F(h_pre x) with a = 1 (with an eps: what its iteration makes of one entry).

    The only 1 x 1 doubly stochastic matrix is 1: hyper-connections are the plain residual there.
    """
    out, seen = trial.block(case.x, case.params, case.branch)
    h = judged(errors.mappings(trial, case.x, case.params), trial, case.x, case.params)
    plain = guarantees_of(trial.dialect).sums
    keep = torch.ones_like(h.res.value) if plain else h.res.value
    result = combined(case.x, Approx(keep, h.res.error), trial.rounding, seen[0].y, h.post)
    trial.within("the block of one stream", out, result.value, result.error)


@about.block(
    "block.inputs-reach-the-branch-once",
    "contract",
    lambda s: block_cases(s, most=2, scales=SIZES, kinds=("identity", "scale")),
)
def inputs_reach_the_branch_once(trial: Trial, case: Case) -> None:
    """A block calls its branch once, with [..., C] in the dtype of the state.

    x' = A x + h_post^T F(h_pre x) has one F; a second call would update its caches and its dropout twice.
    """
    _, seen = trial.block(case.x, case.params, case.branch)
    one_call(trial, seen)
