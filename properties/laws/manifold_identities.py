"""Manifold: what scaling the lines of a matrix leaves exactly as it was, at every number of iterations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from properties import bounds
from properties.bounds import Approx
from properties.core.case import Case
from properties.core.family import guarantees_of
from properties.core.implementation import Implementation, parameter_dtype
from properties.core.law import Schedule
from properties.core.premises import several_streams, where
from properties.core.trial import Trial, magnitude, wide
from properties.laws import about, errors
from properties.laws.premises import (
    DIM,
    alternating,
    free_matrix,
    normalised,
    scaled,
    shift_dim,
    shifts_exactly,
    takes_streams,
    tunes,
    without_eps,
)
from properties.strategies import (
    MODERATE,
    Setting,
    eighths,
    permutations_of,
    projection_cases,
    streams,
)


def started_logarithms(trial: Trial, logits: Tensor) -> Tensor:
    """log of the matrix before the first scaling, up to scalings of its lines; float64."""
    z = wide(logits) / guarantees_of(trial.dialect).temperature
    if not trial.dialect.entry_eps:
        return z
    if trial.dialect.start == "softmax":
        started = z.log_softmax(DIM[trial.dialect.start_axis])
    elif trial.dialect.iterations:
        started = z - z.amax(DIM[trial.dialect.first_axis], keepdim=True)
    else:
        started = z
    return torch.logaddexp(started, torch.full_like(started, math.log(trial.dialect.entry_eps)))


def odds(matrix: Tensor) -> Tensor:
    """m_ij + m_kl - m_il - m_kj for neighbouring lines, k = i + 1 and l = j + 1 cyclically."""
    down = matrix.roll(-1, -2)
    return matrix - matrix.roll(-1, -1) + down.roll(-1, -1) - down


@about.project(
    "manifold.odds-ratios",
    "identity",
    lambda s: projection_cases(s, least_n=2),
    where(scaled),
    several_streams,
    blind=("one-iteration-fewer",),
)
def odds_ratios(trial: Trial, case: Case) -> None:
    """log M_ij + log M_kl - log M_il - log M_kj equals the same combination of the started matrix, after any iteration.

    Scaling rows and columns cancels in every odds ratio (docs/mathematics.md); with entry_eps the started matrix is its
    start + eps, and with a temperature it starts from Z / temperature.
    """
    got, bound = wide(trial.project(case.logits)), errors.projection(trial, case.logits)
    started = started_logarithms(trial, case.logits)
    logarithm = got.clamp_min(5e-324).log()
    relative = torch.where(bound.entry < 0.5, -(-bound.entry.clamp(max=0.5)).log1p(), math.inf)
    # An entry below the smallest normal number has lost digits that no iteration gives back.
    relative = torch.where(bound.value * 2.0**-10 < trial.rounding.tiny, math.inf, relative)
    reading = 4 * torch.finfo(torch.float64).eps * (magnitude(logarithm) + started.abs())
    each = relative + reading
    slack = each + each.roll(-1, -1) + each.roll(-1, -2) + each.roll((-1, -1), (-1, -2))
    trial.within("the logarithm of an odds ratio", odds(logarithm), odds(started), slack)


@st.composite
def shifted_cases(draw: DrawFn, setting: Setting) -> Case:
    """logits and a shift for every line of the axis in which the dialect is exactly invariant."""
    case = draw(projection_cases(setting, least_n=2, most=3, patterns=MODERATE))
    one = case.logits[0]
    lines = 1 if one.ndim == 1 else one.select(shift_dim(setting.dialect), 0).numel()
    shifts = eighths | st.sampled_from((30.0, -30.0, 200.0, -200.0, 1000.0, -1000.0))
    values = draw(st.lists(shifts, min_size=lines, max_size=lines))
    return case.with_(shift=torch.tensor(values, dtype=torch.float64))


@about.project(
    "manifold.exact-shift-invariance",
    "identity",
    shifted_cases,
    where(shifts_exactly),
    several_streams,
    blind=about.SYMMETRIC,
)
def exact_shift_invariance(trial: Trial, case: Case) -> None:
    """A constant added to a line of the axis that is normalised first changes nothing, at every number of iterations.

    The first normalisation (the softmax, or the subtracted maximum and the first division) divides it out again. Along
    the other axis it only fades as the iteration converges, so this tells the order of the two axes.
    """
    dialect = trial.dialect
    axis = shift_dim(dialect)
    shift = case.shift.unsqueeze(-1) if axis == -1 else case.shift
    exact = wide(case.logits) + shift
    moved = exact.to(case.logits.dtype)
    rounded = (wide(moved) - exact).abs() + torch.finfo(torch.float64).eps * exact.abs()
    before, after = trial.project(case.logits), trial.project(moved)
    slack = (
        errors.projection(trial, case.logits).error
        + bounds.projection(Approx(wide(moved), rounded), dialect, trial.rounding).error
    )
    trial.near("h_res of shifted logits", after, wide(before), slack)


@st.composite
def permuted_cases(draw: DrawFn, setting: Setting) -> Case:
    """logits and one permutation for rows, one for columns."""
    case = draw(projection_cases(setting, least_n=2, most=3))
    n = case.logits.shape[-1]
    return case.with_(rows=draw(permutations_of(n)), columns=draw(permutations_of(n)))


@about.project(
    "manifold.permutation-equivariance",
    "identity",
    permuted_cases,
    where(free_matrix),
    several_streams,
    blind=about.SYMMETRIC,
)
def permutation_equivariance(trial: Trial, case: Case) -> None:
    """h_res of permuted logits P Z Q is P h_res Q, at every number of iterations.

    Sums and exponentials do not know the order of lines.
    """
    rows, columns = list(case.rows), list(case.columns)
    permuted = case.logits[..., rows, :][..., columns]
    plain, moved = trial.project(case.logits), trial.project(permuted)
    error = errors.projection(trial, case.logits).error
    slack = 2 * error[..., rows, :][..., columns]
    trial.near("h_res of permuted logits", moved, wide(plain)[..., rows, :][..., columns], slack)


@st.composite
def circulant_cases(draw: DrawFn, setting: Setting) -> Case:
    """A circulant doubly stochastic matrix with dyadic entries, so that its sums are exactly 1."""
    n = draw(streams(setting, 2))
    parts = draw(st.lists(st.integers(1, 12), min_size=n, max_size=n))
    powers = 2 ** math.ceil(math.log2(sum(parts) + 1))
    parts[0] += powers - sum(parts)
    row = torch.tensor(parts, dtype=torch.float64) / powers
    matrix = torch.stack([row.roll(k) for k in range(n)])[list(draw(permutations_of(n)))]
    return Case(matrix=torch.tensor(setting.crowded(matrix.unsqueeze(0).numpy())))


@about.project(
    "manifold.doubly-stochastic-fixed-point",
    "identity",
    circulant_cases,
    where(alternating, without_eps),
    several_streams,
    blind=("one-iteration", "axes-swapped"),
)
def doubly_stochastic_fixed_point(trial: Trial, case: Case) -> None:
    """The logarithm of a doubly stochastic matrix, times the temperature, is projected onto the matrix itself, at every
    number of iterations.

    All its sums are 1, so every division divides by 1.
    """
    exact = case.matrix.log() * guarantees_of(trial.dialect).temperature
    logits = exact.to(parameter_dtype(trial.dtype))
    rounded = (wide(logits) - exact).abs() + torch.finfo(torch.float64).eps * exact.abs()
    bound = bounds.projection(Approx(exact, rounded), trial.dialect, trial.rounding)
    trial.within("h_res of log P", trial.project(logits), case.matrix, bound.error)


@st.composite
def composed_cases(draw: DrawFn, setting: Setting) -> Case:
    """Logits and two numbers of iterations, one after the other."""
    case = draw(projection_cases(setting, least_n=2, most=3, patterns=MODERATE))
    return case.with_(first=draw(st.sampled_from((1, 2, 3, 7))), then=draw(st.sampled_from((1, 2, 5))))


@about.project(
    "manifold.iterations-compose",
    "identity",
    composed_cases,
    where(normalised, without_eps, alternating),
    several_streams,
    tunes("iterations"),
    blind=about.SYMMETRIC,
)
def iterations_compose(trial: Trial, case: Case) -> None:
    """s iterations on the logarithm of what t iterations left, times the temperature, are s + t iterations on the
    logits.

    exp(log M - max over the first axis), or a softmax, is M with its lines scaled along an axis that the next division
    divides by, so the iteration goes on where it stopped (docs/mathematics.md). An error e of log M enters as that of a
    logit.
    """
    logits, first, then = case.logits, case.first, case.then
    temperature = guarantees_of(trial.dialect).temperature

    def run(target: Implementation, place: Callable[[Any], Any]) -> Any:
        begun = target.tuned(iterations=first).project(place(logits))
        # Logits come in the dtype of parameters, although h_res may be wider.
        again = target.tuned(iterations=then).project((begun.log() * temperature).to(logits.dtype))
        return again, target.tuned(iterations=first + then).project(place(logits))

    def bound(z: Approx, iterations: int) -> bounds.Projection:
        return bounds.projection(z, trial.dialect.with_(iterations=iterations), trial.rounding)

    again, whole = trial.observe("project", run)
    begun = bound(Approx.exact(logits), first)
    relative = begun.error / begun.value
    # The logarithm of an entry that rounding may bring down to nothing is not a logit.
    known = ((begun.value * 2.0**-10 > trial.rounding.tiny) & (relative < 0.5)).all(-1, keepdim=True)
    known = known.all(-2, keepdim=True)
    between = torch.where(known, begun.value, 1.0).log() * temperature
    moved = -(-relative.clamp(max=0.5)).log1p() * temperature + 6 * trial.rounding.unit * between.abs()
    moved = torch.where(known, moved, 0.0)
    slack = bound(Approx(between, moved), then).error + bound(Approx.exact(logits), first + then).error
    trial.near("h_res of s + t iterations", again, wide(whole), torch.where(known, slack, math.inf))


@st.composite
def uniform_cases(draw: DrawFn, setting: Setting) -> Case:
    """Constant logits."""
    n = draw(streams(setting))
    value = draw(eighths | st.sampled_from((20.0, -20.0)))
    return Case(logits=torch.full((setting.count(1), n, n), value, dtype=setting.parameter_dtype))


@about.project(
    "manifold.constant-logits-mix-uniformly",
    "identity",
    uniform_cases,
    where(normalised, without_eps, alternating),
    blind=("h-res-transposed", "one-iteration", "axes-swapped"),
)
def constant_logits_mix_uniformly(trial: Trial, case: Case) -> None:
    """Constant logits give 1/n everywhere, and n = 1 gives 1.

    Every line is constant from the start and stays so.
    """
    n = case.logits.shape[-1]
    got = trial.project(case.logits)
    trial.within(
        "h_res of constant logits", got, torch.full_like(wide(got), 1 / n), errors.projection(trial, case.logits).error
    )


@st.composite
def triangular_cases(draw: DrawFn, setting: Setting) -> Case:
    """n = 2, one entry that is as good as zero."""
    depth = -60.0 if setting.parameter_dtype == torch.float32 else -600.0
    return Case(corner=draw(st.sampled_from((depth, depth / 1.5))))


@about.project(
    "manifold.triangular-closed-form",
    "identity",
    triangular_cases,
    where(normalised, without_eps, alternating),
    several_streams,
    takes_streams(2),
    schedule=Schedule(cost=4),
)
def triangular_closed_form(trial: Trial, case: Case) -> None:
    """[[1, 1], [0, 1]] has first-axis sums 2t/(2t+1) and (2t+2)/(2t+1) after exactly t iterations.

    Support without total support converges like 1/t: with columns first and rows last the ratio of the two entries of
    the full row is (2t-1)/(2t) after t column steps, by induction. It counts iterations in O(1) sizes. The entry that
    stands for 0 is e^corner, which moves the sums by less than (4t)^2 e^corner.
    """
    t = trial.dialect.iterations
    rows_last = trial.dialect.last_axis == "row"
    matrix = torch.zeros(1, 2, 2, dtype=torch.float64)
    matrix[0, 1, 0] = case.corner * guarantees_of(trial.dialect).temperature
    if not rows_last:
        matrix = matrix.transpose(-1, -2).contiguous()
    logits = matrix.to(parameter_dtype(trial.dtype))
    axis = DIM[trial.dialect.first_axis]
    expected = torch.tensor([[2 * t / (2 * t + 1), (2 * t + 2) / (2 * t + 1)]], dtype=torch.float64)
    if trial.dialect.start == "softmax" and not trial.dialect.softmax_is_first_half_step:
        expected = trial.truth.project(logits).sum(axis)
    slack = errors.projection(trial, logits).error.sum(axis) + 8 * trial.rounding.unit
    gap = torch.full_like(expected, (4 * t) ** 2 * math.exp(case.corner))
    trial.within("a sum along the first axis", wide(trial.project(logits)).sum(axis), expected, slack, gap)
