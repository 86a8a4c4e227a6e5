"""Manifold: ranges, sums and values of what logits are projected to; identities are in `manifold_identities`."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from properties import bounds
from properties.bounds import Approx, Rounding
from properties.core.case import Case
from properties.core.family import DIM, guarantees_of
from properties.core.premises import full_range, several_streams, where
from properties.core.trial import Trial, wide
from properties.laws import about, errors
from properties.laws.premises import (
    alternating,
    depends_on_logits,
    normalised,
    without_eps,
)
from properties.strategies import (
    MODERATE,
    Setting,
    at_temperature,
    logits_of,
    projection_cases,
    seeds,
    streams,
)


@about.project(
    "manifold.entries-between-zero-and-one", "invariant", projection_cases, where(normalised), blind=about.ALIKE
)
def entries_between_zero_and_one(trial: Trial, case: Case) -> None:
    """Every entry of h_res lies between 0 and 1.

    Exponentials are positive and a share of a line's sum is at most the whole.
    """
    got, bound = trial.project(case.logits), errors.projection(trial, case.logits)
    trial.at_most("an entry of h_res is negative", -got, torch.zeros_like(got), bound.error)
    trial.at_most("an entry of h_res is above 1", got, torch.ones_like(got), bound.error)


@about.project("manifold.last-axis-sums", "invariant", projection_cases, where(normalised), blind=about.SYMMETRIC)
def last_axis_sums(trial: Trial, case: Case) -> None:
    """The lines of the last-normalised axis of h_res sum to s / (s + eps), which is 1 without an eps.

    The last division is by their own sums s, so nothing that came before can spoil it.
    """
    axis = DIM[guarantees_of(trial.dialect).last]
    got, bound = trial.project(case.logits), errors.projection(trial, case.logits)
    expected = trial.truth.project(case.logits).sum(axis)
    evaluated = got.shape[-1] * 2 * trial.rounding.unit * expected
    trial.within(f"a sum of h_res over dim {axis}", wide(got).sum(axis), expected, bound.line + evaluated)


@about.project("manifold.other-axis-sums", "oracle", projection_cases, where(alternating))
def other_axis_sums(trial: Trial, case: Case) -> None:
    """The lines of the first-normalised axis sum to what this number of iterations leaves, not to 1.

    They converge to 1 like sigma_2^2 an iteration (Knight 2008); the finite iteration is compared with its exact value.
    """
    axis = DIM[trial.dialect.first_axis]
    trial.judge_exactly()
    got, bound = trial.project(case.logits), errors.projection(trial, case.logits)
    expected = trial.truth.project(case.logits).sum(axis)
    evaluated = got.shape[-1] * trial.rounding.unit * expected
    trial.within(f"a sum of h_res over dim {axis}", wide(got).sum(axis), expected, bound.error.sum(axis) + evaluated)


def half_step_certificate(logits: Tensor, axis: int, iterations: int) -> Tensor:
    """The largest |sum - 1| along the first axis that `iterations` of eps-free Sinkhorn can leave, [tokens].

    A half-step contracts Hilbert's metric by lambda = tanh(log(eta) / 4), eta the largest cross-ratio of exp(Z)
    (Birkhoff; Franklin and Lorenz 1989). With c_t the sums of the first axis after t iterations and R the largest range
    of Z along it, spread(log c_t) <= lambda^(2t-1) R: M'^T 1 = 1 lets 1 be replaced by M'^T 1 in d(M'^T (1/r), 1) <=
    lambda d(1/r, 1), and the first sums have spread at most R. Their mean is 1, so none is further from 1 than
    exp(spread) - 1.
    """
    z = wide(logits)
    ranges = (z.amax(axis) - z.amin(axis)).amax(-1)
    rows = z.unsqueeze(-2) - z.unsqueeze(-3)  # [T, i, k, j]: Z_ij - Z_kj
    eta = (rows.amax(-1) - rows.amin(-1)).amax((-1, -2))
    contraction = (eta / 4).tanh()
    return (contraction ** (2 * iterations - 1) * ranges).clamp(max=700).expm1()


@about.project(
    "manifold.half-step-convergence",
    "invariant",
    lambda s: projection_cases(s, least_n=2, patterns=("zero", "integers", "normal")),
    where(normalised, without_eps, alternating),
    several_streams,
    blind=("h-res-transposed", "sigmoid-for-exp"),
)
def half_step_convergence(trial: Trial, case: Case) -> None:
    """After t iterations the first axis sums to 1 within exp(lambda^(2t-1) R) - 1.

    Birkhoff contraction, half-step by half-step; derived in `half_step_certificate`. No reference is involved.
    """
    axis = DIM[trial.dialect.first_axis]
    logits = case.logits
    started = wide(logits) / guarantees_of(trial.dialect).temperature
    if trial.dialect.start == "softmax":
        started = started.log_softmax(DIM[trial.dialect.start_axis])
    got, bound = trial.project(logits), errors.projection(trial, logits)
    limit = half_step_certificate(started, axis, trial.dialect.iterations).unsqueeze(-1)
    slack = bound.error.sum(axis) + got.shape[-1] * 4 * trial.rounding.unit * (1 + limit)
    trial.at_most("|sum - 1| along the first axis", (wide(got).sum(axis) - 1).abs(), limit, slack, size=1.0)


@about.project(
    "manifold.agrees-with-oracle",
    "oracle",
    lambda s: projection_cases(s, most=3),
    where(depends_on_logits),
    schedule=about.MORE,
)
def agrees_with_oracle(trial: Trial, case: Case) -> None:
    """h_res is the exact h_res of the declared dialect, entry by entry, within what rounding explains.

    The bound is derived for this very matrix (`bounds.projection`); float64 results are judged by mpmath directly.
    """
    trial.judge_exactly()
    got = trial.project(case.logits)
    trial.within("h_res", got, trial.truth.project(case.logits), errors.projection(trial, case.logits).error)


@st.composite
def extreme_cases(draw: DrawFn, setting: Setting) -> Case:
    """Logits whose differences leave the range of exp in the compute dtype."""
    n = draw(streams(setting, 2))
    base = draw(logits_of(setting, n, most=2, patterns=MODERATE))
    line = draw(st.integers(0, n - 1))
    depth = at_temperature(draw(st.sampled_from((-120.0, -200.0, -1000.0, -5000.0))), setting.dialect)
    along = draw(st.booleans())
    moved = base.clone()
    if along:
        moved[:, line, :] += depth
    else:
        moved[:, :, line] += depth
    return Case(logits=moved, seed=draw(seeds))


def unbounded_range(rounding: Rounding) -> Rounding:
    """The same arithmetic without underflow: that of logarithms."""
    return replace(rounding, tiny=0.0)


@about.project(
    "manifold.starved-lines-lose-no-mass", "oracle", extreme_cases, where(normalised), full_range, several_streams
)
def starved_lines_lose_no_mass(trial: Trial, case: Case) -> None:
    """A row or column of logits beyond the range of exp is projected as exact arithmetic would.

    In exact arithmetic only differences count: the first division lifts a starved line to where the others are. An
    implementation in the log domain promises that (`full_range`); in the linear domain such a line is lost to
    underflow.
    """
    trial.judge_exactly()
    rounding = unbounded_range(trial.rounding)
    bound = bounds.projection(Approx.exact(case.logits), trial.dialect, rounding)
    tiny = Rounding.of(trial.dtype).tiny
    trial.within(
        "h_res of starved logits", trial.project(case.logits), trial.truth.project(case.logits), bound.error + tiny
    )
