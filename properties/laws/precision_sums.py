"""Precision of long sums: over thousands of channels or tokens, in whatever chunks, the contract is float32 throughout.

Kernels split K = n C into chunks, and T tokens into launches, and store the partial sums; in the dtype of the state
they lose all but 8 bits. Worst-case bounds of a sum of K terms cannot tell: at K = 16384 gamma_K is half the unit of
bfloat16. In these sums few terms are not 0: float32 is exact to a few units in any order
(`properties.strategies.long_sums`).
"""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from mhc_ref import Mappings, Params
from properties.bounds import Approx
from properties.bounds.block import Coefficients
from properties.core.case import Case
from properties.core.family import end_of
from properties.core.implementation import Implementation
from properties.core.law import Schedule
from properties.core.norms import keeps_zeros
from properties.core.premises import differentiable, several_streams, where
from properties.core.reads import as_pre_takes
from properties.core.trial import Trial, wide
from properties.core.truth import present
from properties.laws import about, errors, pulls
from properties.laws.calls import flooded
from properties.laws.coefficients import agree
from properties.laws.gradient_mappings import NAMES
from properties.laws.mixing import possible
from properties.laws.premises import mixes_in_compute_dtype, reads_by_gates
from properties.strategies import Setting, noise, seeds, streams, width_among
from properties.strategies.long_sums import (
    block_long_sums,
    gathered,
    long_channel_sums,
    long_sums,
    long_token_sums,
)

FEW = Schedule(cost=3, by_streams=False)


@about.mappings(
    "precision.sums-over-channels-keep-the-compute-precision",
    "oracle",
    long_sums,
    where(reads_by_gates),
    blind=about.SYMMETRIC,
    schedule=FEW,
)
def sums_over_channels_keep_the_compute_precision(trial: Trial, case: Case) -> None:
    """Stage norm and matmul: sums over thousands of channels are kept in the compute dtype, their partial sums too.

    In any order and in any chunks float32 errs by as many units as there are terms that are not 0. A partial sum of
    logits or of squares that is stored in the dtype of the state loses a thousand times more. So do products of many
    tokens that read their factors in it: up to 130 tokens are made of the few.
    """
    x, params, _, _ = _gathered(trial, case)
    few, bound = trial.truth.mappings(x, params), errors.mappings(trial, case.x, case.params).parts()
    for count in _counts(case):
        got = trial.mappings(flooded(case.x, count), case.params)
        crowd = Coefficients(*(Approx(flooded(one.value, count), flooded(one.error, count)) for one in bound.values()))
        agree(trial, "(stage: norm and matmul)", got, Mappings(*(flooded(one, count) for one in few)), crowd)


@about.block(
    "precision.sums-over-channels-keep-the-compute-precision-in-a-block",
    "oracle",
    block_long_sums,
    several_streams,
    where(reads_by_gates),
    blind=("h-res-detached",),
    schedule=FEW,
)
def sums_over_channels_keep_the_compute_precision_in_a_block(trial: Trial, case: Case) -> None:
    """Stage norm and matmul inside a block: long sums leave the branch input where the declared formula has it.

    Two streams nearly cancel under the gates that the logits make of them, so that an error of a logit shows in the
    branch input though that is rounded to the dtype of the state.
    """
    x, params, keep, factor = _gathered(trial, case)
    y = case.branch(case.x[..., 0, :])
    exact = [factor * part for part in trial.truth.block(x, params, y[..., keep] / factor)]
    bounds = [one.error[..., keep] for one in errors.step(trial, case.x, case.params, y)[:2]]
    for count in _counts(case):
        out, seen = trial.block(flooded(case.x, count), case.params, case.branch)
        (u, after), (of_u, of_after) = ([flooded(one, count) for one in several] for several in (exact, bounds))
        trial.within("the branch input (stage: norm and matmul)", seen[0].u[..., keep], u, of_u)
        trial.within("the block (stage: norm and matmul)", out[..., keep], after, of_after)


def _counts(case: Case) -> tuple[int, int]:
    """The few tokens by themselves, and many that are made of them: products of many may go another way."""
    return len(case.x), case.count


def _gathered(trial: Trial, case: Case) -> tuple[Tensor, Params, Tensor, int]:
    return gathered(case, keeps_zeros(trial.dialect))


@st.composite
def cancelling_states(draw: DrawFn, setting: Setting) -> Tensor:
    """[tokens, n, C]: numbers of one sign whose sums have more bits than bfloat16 (and the dtype of the state), and one
    that takes them back but for those bits."""
    n, width = draw(streams(setting, 3)), draw(width_among(setting, 9))
    sizes = torch.tensor(noise(draw(seeds), n, width)).abs().clamp(max=0.99) + 1
    x = sizes.to(setting.dtype)
    sums = x[:-1].double().sum(0)
    x[-1] = -(sums.to(x) if x.dtype.itemsize == 2 else sums.bfloat16().to(x))
    turned = x.roll(draw(st.integers(0, n - 1)), 0).unsqueeze(0)
    return torch.tensor(setting.crowded(turned.double().numpy())).to(setting.dtype)


@st.composite
def collapsing_cases(draw: DrawFn, setting: Setting) -> Case:
    """Streams that nearly cancel where they end: under the gates of a head whose logits are long sums, or as they
    are."""
    if end_of(setting.dialect).HEAD:
        return draw(long_sums(setting, 2))
    return Case(x=draw(cancelling_states(setting)))


@about.collapse(
    "precision.collapsing-keeps-the-compute-precision",
    "oracle",
    collapsing_cases,
    several_streams,
    where(reads_by_gates),
    schedule=FEW,
)
def collapsing_keeps_the_compute_precision(trial: Trial, case: Case) -> None:
    """Stage collapse: the logits of a head, and the sum of the streams, are kept in the compute dtype.

    The streams nearly cancel, so that what is left shows a partial sum that was rounded to the dtype of the state.
    """
    if "params" not in case:
        got, bound = trial.collapse(case.x), errors.collapse(trial, case.x)
        trial.within("the collapsed state", got, trial.truth.collapse(case.x, None), bound.error)
        return
    x, head, keep, factor = _gathered(trial, case)
    exact, bound = factor * trial.truth.collapse(x, head), errors.collapse(trial, case.x, case.params).error[..., keep]
    for count in _counts(case):
        got = trial.collapse(flooded(case.x, count), case.params)
        trial.within("the collapsed state", got[..., keep], flooded(exact, count), flooded(bound, count))


@st.composite
def cancelling_streams(draw: DrawFn, setting: Setting) -> Case:
    """A state and weights of its streams, whose weighted sum nearly cancels."""
    x = draw(cancelling_states(setting))
    weights = 1 + 0.01 * torch.tensor(noise(draw(seeds), *x.shape[:2]))
    return Case(x=x, h_pre=as_pre_takes(weights.to(setting.parameter_dtype), x, setting.dialect))


@about.pre("precision.reading-keeps-the-compute-precision", "oracle", cancelling_streams, several_streams)
def reading_keeps_the_compute_precision(trial: Trial, case: Case) -> None:
    """Stage pre: streams that nearly cancel are weighed and summed in the compute dtype, with h_pre as it is.

    Only the sum is rounded to the dtype of the state; a rounded weight or partial sum errs relative to the terms.
    """
    got, bound = trial.pre(case.x, case.h_pre), errors.pre(trial, case.x, case.h_pre)
    trial.within("pre (stage: pre)", got, trial.truth.pre(case.x, case.h_pre), bound.error)


@about.mappings(
    "precision.sums-over-tokens-keep-the-compute-precision",
    "oracle",
    long_token_sums,
    differentiable,
    where(reads_by_gates),
    blind=about.SYMMETRIC,
    schedule=FEW,
)
def sums_over_tokens_keep_the_compute_precision(trial: Trial, case: Case) -> None:
    """Gradients of the parameters of the mappings are sums over thousands of tokens, kept in the compute dtype.

    A token without a cotangent adds an exact 0, so that float32 errs by as many units as there are others, in any order
    and in any chunks; a partial sum in bfloat16 loses a thousand times more.
    """
    emitted = [k for k, name in enumerate(Mappings._fields) if name in trial.implementation.emits]
    tokens = len(case.x)

    def run(target: Implementation, x: Tensor, *parts: Tensor) -> Any:
        found = target.mappings(x, Params(*parts))
        return tuple(found[k] for k in emitted)

    bars = [bar * (k in emitted) for k, bar in enumerate(case.bars)]
    given = [_among(tokens, case.live, bars[k]) for k in emitted]
    got = trial.pull("mappings", [case.x, *present(case.params)], given, run)
    used: Tensor = case.x[case.live]
    exact = trial.truth.mappings_vjp(used, case.params, [wide(bar) for bar in bars])
    _by_parameters(trial, got, exact, errors.mappings_gradient(trial, used, case.params, bars))


@about.block(
    "precision.sums-over-tokens-keep-the-compute-precision-in-a-block",
    "oracle",
    long_token_sums,
    differentiable,
    mixes_in_compute_dtype,
    schedule=FEW,
)
def sums_over_tokens_keep_the_compute_precision_in_a_block(trial: Trial, case: Case) -> None:
    """Gradients of a block by its parameters are sums over thousands of tokens, kept in the compute dtype.

    As for the mappings, for blocks whose parts cannot be called by themselves.
    """

    def run(target: Implementation, x: Tensor, *parts: Tensor) -> Any:
        return target.block(x, Params(*parts), case.branch)

    bar = _among(len(case.x), case.live, case.cotangent)
    got = trial.pull("block", [case.x, *present(case.params)], [bar], run)
    used: Tensor = case.x[case.live]
    exact = trial.truth.layers_vjp(used, [case.params], [case.branch], case.cotangent)
    _by_parameters(trial, got, exact, errors.block_gradient(trial, used, case.params, case.branch, case.cotangent))


def _among(tokens: int, live: Tensor, few: Tensor) -> Tensor:
    """A cotangent that is 0 but for a few tokens."""
    whole = torch.zeros(tokens, *few.shape[1:], dtype=few.dtype)
    whole[live] = few
    return whole


def _by_parameters(trial: Trial, got: list[Tensor], exact: list[Tensor], bound: Any) -> None:
    for name, one, value in list(zip(NAMES, got, exact, strict=False))[1:]:
        error: Tensor = getattr(bound, name).error
        trial.within(f"the gradient by {name}, a sum over tokens", one, value, error.reshape(value.shape))


@about.post(
    "precision.gradients-sum-over-channels-in-the-compute-precision",
    "oracle",
    long_channel_sums,
    differentiable,
    mixes_in_compute_dtype,
    blind=("one-iteration",),
    schedule=FEW,
)
def gradients_sum_over_channels_in_the_compute_precision(trial: Trial, case: Case) -> None:
    """Gradients of pre and post by the mappings are sums over thousands of channels, kept in the compute dtype.

    A channel without a cotangent adds an exact 0, so that float32 errs by as many units as there are others.
    """
    case = case.with_(h_res=possible(case.h_res, trial.dialect))
    few = case.with_(
        x=case.x[..., case.live],
        y=case.y[..., case.live],
        cotangents=tuple(bar[..., case.live] for bar in case.cotangents),
    )
    for pulled, less in zip(pulls.mixtures(trial, case), pulls.mixtures(trial, few), strict=True):
        method = pulled.method

        def run(target: Implementation, *parts: Tensor, pulled: pulls.Pulled = pulled) -> Any:
            return pulled.function(target, parts)

        got = trial.pull(method, pulled.inputs, pulled.cotangents, run)
        exact = getattr(trial.truth, f"{method}_vjp")(*less.inputs, *less.cotangents)
        for factor, one, value, error in zip(less.names, got, exact, less.errors(less.cotangents), strict=True):
            if factor.startswith("h_") and one.shape == value.shape:  # by weights of channels there is no sum
                trial.within(f"the gradient of {method} by {factor}, a sum over channels", one, value, error)
