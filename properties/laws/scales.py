"""States whose squares leave the range of the compute dtype, of whoever promises them (`full_scale`).

With no eps that counts the mappings do not depend on the size of a state, and a block of a linear branch is as large as
it: f(c x; eps) is f(x; eps / c^2), or c times that. So a state c x, c a power of two, is judged at x, which is of order
1, where neither the truth nor a bound meets a number that is too large.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from mhc_ref import Dialect, Mappings, Params
from properties import bounds
from properties.bounds import Approx
from properties.core.case import Case
from properties.core.implementation import Implementation
from properties.core.law import Schedule
from properties.core.premises import as_far_as_float32, differentiable, full_scale, where
from properties.core.reads import mapping_shapes
from properties.core.rounding import Rounding
from properties.core.trial import Trial, wide
from properties.core.truth import present
from properties.laws import about, errors
from properties.laws.block import one_call
from properties.laws.gradient_mappings import NAMES, cotangents_of, pull_coefficients
from properties.laws.premises import divides_by_rms, mixes_in_compute_dtype, reads_by_gates
from properties.strategies import TAME, Setting, among, branch_of, noise, params_of, seeds, streams, width_among

LARGE = (64, 76)
"""Powers of two of a state whose squares overflow in float32, eight times as far in float64: 1.8e19, 7.6e22."""
SMALL, TINY = (-66, -76), (-66, -100)
"""And of one whose squares are 0 or subnormal: for what is as large as the state, and for what is not: 7.9e-31."""
LINEAR = ("zero", "identity", "scale")
"""Branches that give c times as much of c times as much."""
AMPLIFIED = 2.0**6
"""How much parameters of order 1 may make of a number below the normal ones on its way, at most."""

FEW = Schedule(cost=3, by_streams=False)


@st.composite
def sized_states(draw: DrawFn, setting: Setting, small: tuple[int, ...]) -> Case:
    """A state of order 1 times a power of two whose square is beyond the compute dtype; small ones where no eps is
    added to them and none are declared to be left out."""
    n, channels, seed = draw(streams(setting, 1, 4)), draw(width_among(setting, 3, 5)), draw(seeds)
    far = 8 if setting.parameter_dtype == torch.float64 else 1
    below = () if setting.dialect.rms_eps else tuple(k for k in small if 2.0 ** (far * k) >= setting.least_scale)
    factor = 2.0 ** (far * draw(among(*LARGE, *below)))
    params = draw(params_of(setting, n, channels, gates=(1.0, 0.5), patterns=TAME, least_phi=2))
    x = torch.tensor(noise(seed, setting.count(2), n, channels)).to(setting.dtype)
    return Case(x=x * factor, params=params, factor=factor)


@st.composite
def sized_pulls(draw: DrawFn, setting: Setting) -> Case:
    """Such a state, and a cotangent of each mapping."""
    case, seed, dtype = draw(sized_states(setting, TINY)), draw(seeds), setting.parameter_dtype
    shapes = mapping_shapes(tuple(case.x.shape), setting.dialect)
    return case.with_(cotangents=tuple(torch.tensor(noise(seed + k, *s)).to(dtype) for k, s in enumerate(shapes)))


@st.composite
def sized_blocks(draw: DrawFn, setting: Setting) -> Case:
    """Such a state, a linear branch, and a cotangent of the next state."""
    case = draw(sized_states(setting, SMALL))
    bar = torch.tensor(noise(draw(seeds), *case.x.shape)).to(setting.dtype)
    return case.with_(branch=draw(branch_of(setting, case.x.shape[-1], LINEAR)), cotangent=bar)


def scaled_down(dialect: Dialect, factor: float) -> Dialect:
    """The dialect whose mappings of x are those of `dialect` of factor x."""
    once, squared = dialect.rms_eps / factor, dialect.rms_eps_inside and dialect.rms_eps_by == "add"
    return dialect.with_(rms_eps=once / factor if squared else once)


def at_order_1(trial: Trial, case: Case) -> tuple[Trial, Tensor, Approx]:
    """The bench of the dialect that is scaled down, the state of order 1, and that state as whoever divides by its
    largest entry has it, with one rounding more."""
    bench = trial.beside(scaled_down(trial.dialect, case.factor))
    bench.judge_exactly()
    x = (wide(case.x) / case.factor).to(case.x.dtype)
    return bench, x, Approx(wide(x), trial.rounding.unit * wide(x).abs())


def flushed(trial: Trial, case: Case, size: float) -> float:
    """What may be lost below the smallest normal number of something that is `size` times what is judged.

    A sum has at most n C products by each of m logits, of which each may be flushed to 0.
    """
    return AMPLIFIED * case.x[0].numel() * case.params.phi.numel() * Rounding.of(trial.dtype).tiny / min(size, 1.0)


@about.mappings(
    "coefficients.states-may-be-of-any-size",
    "oracle",
    lambda s: sized_states(s, TINY),
    full_scale,
    as_far_as_float32,
    where(divides_by_rms, reads_by_gates),
    schedule=FEW,
)
def states_may_be_of_any_size(trial: Trial, case: Case) -> None:
    """The mappings of a state whose squares overflow or vanish are those of exact arithmetic.

    A root mean square does not leave the range in which its numbers lie, and its square does. Divided by its largest
    entry first, a state has squares that are numbers (as hypot and the 2-norm of LAPACK do it).
    """
    bench, x, state = at_order_1(trial, case)
    exact = bench.truth.mappings(x, case.params)
    trial.truth.asked += bench.truth.asked
    got, bound = trial.mappings(case.x, case.params), errors.mappings(bench, state, case.params).parts()
    for name, one, value in zip(Mappings._fields, got, exact, strict=True):
        if name in trial.implementation.emits:
            trial.within(f"h_{name}", one, value, bound[name].error)


@about.block(
    "block.states-may-be-of-any-size",
    "oracle",
    sized_blocks,
    full_scale,
    as_far_as_float32,
    where(divides_by_rms, reads_by_gates),
    schedule=FEW,
)
def states_of_blocks_may_be_of_any_size(trial: Trial, case: Case) -> None:
    """A block of a state whose squares overflow or vanish is that of exact arithmetic.

    As for mappings: its streams are within range, and so is what it leaves of them.
    """
    bench, x, state = at_order_1(trial, case)
    out, seen = trial.block(case.x, case.params, case.branch)
    one_call(trial, seen)
    y = wide(seen[0].y) / case.factor
    u, after = bench.truth.block(x, case.params, y)
    trial.truth.asked += bench.truth.asked
    read, left, _ = errors.step(bench, state, case.params, y)
    lost = flushed(trial, case, case.factor)
    trial.within("the branch input over the factor", wide(seen[0].u) / case.factor, u, read.error + lost)
    trial.within("the block over the factor", wide(out) / case.factor, after, left.error + lost)


@about.mappings(
    "gradient.mappings-of-states-of-any-size-pull-back",
    "oracle",
    sized_pulls,
    full_scale,
    as_far_as_float32,
    where(divides_by_rms, reads_by_gates),
    differentiable,
    schedule=FEW,
)
def mappings_of_states_of_any_size_pull_back(trial: Trial, case: Case) -> None:
    """The gradients of the mappings are exact where the squares of a state overflow or vanish.

    That by the state is as small as the state is large; a backward pass has squares and cubes of its own.
    """
    bench, x, state = at_order_1(trial, case)
    got, bars = pull_coefficients(trial, case), cotangents_of(trial, case)
    exact = bench.truth.mappings_vjp(x, case.params, [wide(bar) for bar in bars])
    trial.truth.asked += bench.truth.asked
    pre, post, res = (Approx.exact(bar) for bar in bars)
    bound = bounds.coefficients_gradient(state, case.params, pre, post, res, bench.dialect, bench.rounding)
    bound = bound._replace(x=bounds.stored(bound.x, bench.rounding))
    _judged(trial, case, got, exact, bound, (case.factor, 1.0))


@about.block(
    "gradient.blocks-of-states-of-any-size-pull-back",
    "oracle",
    sized_blocks,
    full_scale,
    as_far_as_float32,
    where(divides_by_rms, reads_by_gates),
    differentiable,
    mixes_in_compute_dtype,
    schedule=FEW,
)
def blocks_of_states_of_any_size_pull_back(trial: Trial, case: Case) -> None:
    """The gradients of a block are exact where the squares of a state overflow or vanish.

    The gradient by h_res is as large as the state, and a norm multiplies it by the state again before it divides:
    infinity times 0 is NaN, for every parameter of the model, where the values of the block are still right.
    """

    def run(target: Implementation, x: Tensor, *parts: Tensor) -> Any:
        return target.block(x, Params(*parts), case.branch)

    bench, x, state = at_order_1(trial, case)
    got = trial.pull("block", [case.x, *present(case.params)], [case.cotangent], run)
    exact = bench.truth.layers_vjp(x, [case.params], [case.branch], case.cotangent)
    trial.truth.asked += bench.truth.asked
    g = Approx.exact(case.cotangent)
    bound = bounds.pullback.block(state, case.params, case.branch, g, bench.dialect, bench.rounding)
    _judged(trial, case, got, exact, bound, (1.0, 1 / case.factor))


def _judged(
    trial: Trial, case: Case, got: list[Tensor], exact: list[Tensor], bound: Any, scales: tuple[float, float]
) -> None:
    """Gradients by the state and by the parameters, each times its scale, against those at order 1."""
    for name, one, value in zip(NAMES, got, exact, strict=False):
        scale = scales[name != "x"]
        told = f"the gradient by {name}" + ("" if scale == 1 else " over its size")
        error = getattr(bound, name).error.reshape(value.shape) + flushed(trial, case, 1 / scale)
        trial.within(told, _times(wide(one), scale), value, error)


def _times(value: Tensor, scale: float) -> Tensor:
    """The product in two steps of half as far, of which none leaves float64."""
    half = 2.0 ** math.floor(math.log2(scale) / 2)
    return value * half * (scale / half)
