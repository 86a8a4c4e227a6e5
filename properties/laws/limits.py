"""Where what is declared ends: a count of no iterations or of many, and lines of logits as low as masks are."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from mhc_ref.packing import logit_sizes, logits_shape
from properties.core.case import Case
from properties.core.implementation import Absent, Implementation
from properties.core.law import Schedule
from properties.core.premises import where
from properties.core.pulling import pulled_back
from properties.core.reads import mapping_shapes
from properties.core.rounding import INF
from properties.core.trial import Trial, same_numbers
from properties.laws import about, errors, pulls
from properties.laws.calls import Place, kept
from properties.laws.premises import depends_on_logits, scaled, shift_dim, shifts_exactly, tunes
from properties.laws.pulls import Pulled
from properties.strategies import TAME, Setting, among, at_temperature, noise, params_of, seeds, streams, width_among
from properties.strategies.patterns import PATTERNS

FEW = Schedule(cost=4, most=4)
ONCE = Schedule(cost=8, most=2)
"""An example makes twenty calls, of which values decide little."""

# -- a count of no iterations -----------------------------------------------------------------------------------------


def counted(setting: Setting, count: int) -> Setting:
    """The frame of so many iterations."""
    return setting.with_(dialect=setting.dialect.with_(iterations=count))


@st.composite
def counted_logits(draw: DrawFn, setting: Setting) -> Case:
    """A dialect of no iteration or of one, dense logits and a cotangent."""
    frame = counted(setting, draw(among(0, 1)))
    n, seed = draw(streams(frame, 2, 4)), draw(seeds)
    shape, dtype = (setting.count(2), n, n), setting.parameter_dtype
    logits, bar = at_temperature(2 * noise(seed, *shape), frame.dialect), noise(seed + 1, *shape)
    return Case(dialect=frame.dialect, logits=torch.tensor(logits, dtype=dtype), cotangent=torch.tensor(bar).to(dtype))


@st.composite
def counted_states(draw: DrawFn, setting: Setting) -> Case:
    """A dialect of no iteration or of one, a state of order 1, dense parameters, and a cotangent of each mapping."""
    frame = counted(setting, draw(among(0, 1)))
    n, channels, seed = draw(streams(frame, 2, 4)), draw(width_among(setting, 3, 5)), draw(seeds)
    params = draw(params_of(frame, n, channels, gates=(1.0, 0.5), patterns=TAME, least_phi=2))
    x = torch.tensor(noise(seed, setting.count(2), n, channels)).to(setting.dtype)
    bars = tuple(
        torch.tensor(noise(seed + 1 + k, *shape)).to(setting.parameter_dtype)
        for k, shape in enumerate(mapping_shapes(tuple(x.shape), frame.dialect))
    )
    return Case(dialect=frame.dialect, x=x, params=params, cotangents=bars)


def judged_at_its_count(trial: Trial, bench: Trial, pulled: Pulled, exact: list[Any], gradients: list[Any]) -> None:
    """Hold what the implementation is when it is tuned to the iterations of `bench` to that dialect.

    It is called without gradients and with them, since what is kept for a backward pass is laid out by the count. A
    count that `tuned` refuses by raising `Absent` is not offered: nothing is claimed of it.
    """
    count, learns = bench.dialect.iterations, trial.differentiable

    def run(target: Implementation, place: Place) -> Any:
        given = [place(one).clone() for one in pulled.inputs]
        try:
            tuned = target.tuned(iterations=count)
        except Absent:
            return None
        plain = kept(pulled.function(tuned, given))
        if not learns:
            return plain, (), ()
        leaves = [one.clone().requires_grad_() for one in given]
        outputs = pulled.function(tuned, leaves)
        values = kept(outputs)
        return plain, values, tuple(pulled_back(outputs, leaves, [place(bar).clone() for bar in pulled.cotangents]))

    answer = trial.observe(pulled.method, run)
    if answer is None:
        return
    plain, values, found = answer
    bounds, told = pulled.call.errors(), f"tuned(iterations={count})"
    for circumstance, got in (("", plain), (", with gradients asked for", values)):
        for name, one, value, error in zip(pulled.call.gives, got, exact, bounds, strict=False):
            trial.within(f"{name} of {told}{circumstance}", one, value, error)
    if found:
        slack = pulled.errors(pulled.cotangents)
        for name, one, value, error in zip(pulled.names, found, gradients, slack, strict=True):
            trial.within(f"the gradient of {pulled.method} of {told} by {name}", one, value, error)


def judge_projections(trial: Trial, case: Case) -> None:
    """Projections at the count of iterations of the case, and their gradients."""
    bench = trial.beside(case.dialect)
    bench.judge_exactly()
    exact, gradients = [bench.truth.project(case.logits)], [bench.truth.project_vjp(case.logits, case.cotangent)]
    trial.truth.asked += bench.truth.asked
    judged_at_its_count(trial, bench, pulls.projection(bench, case), exact, gradients)


def judge_mappings(trial: Trial, case: Case) -> None:
    """Mappings at the count of iterations of the case, and their gradients."""
    bench = trial.beside(case.dialect)
    bench.judge_exactly()
    pulled = pulls.mappings(bench, case)
    found = bench.truth.mappings(case.x, case.params)
    bars = [bar if k in pulled.call.parts else 0 * bar for k, bar in enumerate(case.cotangents)]
    gradients = bench.truth.mappings_vjp(case.x, case.params, bars)
    trial.truth.asked += bench.truth.asked
    judged_at_its_count(trial, bench, pulled, [found[k] for k in pulled.call.parts], gradients)


@about.project(
    "manifold.a-count-of-iterations-may-be-zero",
    "oracle",
    counted_logits,
    where(scaled),
    tunes("iterations"),
    schedule=FEW,
)
def a_count_of_iterations_may_be_zero(trial: Trial, case: Case) -> None:
    """Tuned to no iteration, project gives what the iteration starts from, and to one, one iteration, backwards too.

    A loop that peels its first iteration off runs it for a count of 0 as well, and a history that is allocated for as
    many iterates as there are iterations has no place for the first.
    """
    judge_projections(trial, case)


@about.mappings(
    "coefficients.a-count-of-iterations-may-be-zero",
    "oracle",
    counted_states,
    where(scaled),
    tunes("iterations"),
    schedule=FEW,
)
def a_count_of_iterations_of_mappings_may_be_zero(trial: Trial, case: Case) -> None:
    """Tuned to no iteration, the h_res of mappings is what the iteration starts from, and to one, one iteration,
    backwards too.

    As for projections: a fused kernel has a loop and a history of its own.
    """
    judge_mappings(trial, case)


# -- a count of many iterations ---------------------------------------------------------------------------------------

MANY = (129, 65, 33, 48, 100, 24)
"""Counts of iterations beyond what loops and tables are made for, 16, 20, 32, 64 and 128, the most telling first."""
SEVERAL = Schedule(cost=2, most=8)
"""An example takes a few hundred divisions of small matrices."""


def slow_logits(setting: Setting, n: int, seed: int) -> Any:
    """The logits of a token on which an iteration is seen however many went before it: a triangle, whose other entries
    vanish like one over the count. Of a mix that takes no matrix, noise."""
    shape = logits_shape(n, setting.dialect)
    if shape != (n, n):
        return noise(seed, *shape) * 3
    triangle = PATTERNS["triangular"](n, seed, seed % 2, 1.0)
    return at_temperature(triangle.T.copy() if seed // 2 % 2 else triangle, setting.dialect)


@st.composite
def many_counted_logits(draw: DrawFn, setting: Setting) -> Case:
    """A dialect of many iterations, logits on which they converge slowly, and a cotangent."""
    frame = counted(setting, draw(among(*MANY)))
    n, seed = draw(streams(frame, 2, 4)), draw(seeds)
    each = [slow_logits(frame, n, seed + k) for k in range(setting.count(2))]
    bar = torch.stack([torch.tensor(noise(seed + 2 + k, n, n)) for k in range(len(each))])
    dtype = setting.parameter_dtype
    logits = torch.stack([torch.tensor(one) for one in each]).to(dtype)
    return Case(dialect=frame.dialect, logits=logits, cotangent=bar.to(dtype))


@st.composite
def many_counted_states(draw: DrawFn, setting: Setting) -> Case:
    """A dialect of many iterations, a state of one token, or of a crowd, and biases on which they converge slowly."""
    frame = counted(setting, draw(among(*MANY)))
    n, channels, seed = draw(streams(frame, 2, 4)), draw(width_among(setting, 3, 5)), draw(seeds)
    params = draw(params_of(frame, n, channels, gates=(0.25,), patterns=TAME, least_phi=2))
    pre, post, size = logit_sizes(n, frame.dialect)
    slow = torch.tensor(slow_logits(frame, n, seed)).reshape(size).to(params.bias)
    params = setting.stored(params._replace(bias=torch.cat([params.bias[: pre + post], slow])))
    x = torch.tensor(noise(seed, setting.count(1), n, channels)).to(setting.dtype)
    bars = tuple(
        torch.tensor(noise(seed + 1 + k, *shape)).to(setting.parameter_dtype)
        for k, shape in enumerate(mapping_shapes(tuple(x.shape), frame.dialect))
    )
    return Case(dialect=frame.dialect, x=x, params=params, cotangents=bars)


@about.project(
    "manifold.a-count-of-iterations-may-be-large",
    "oracle",
    many_counted_logits,
    where(scaled),
    tunes("iterations"),
    schedule=SEVERAL,
)
def a_count_of_iterations_may_be_large(trial: Trial, case: Case) -> None:
    """Tuned to 24 to 129 iterations, project makes as many, backwards too.

    A loop that is unrolled, and a table of line sums that is kept for the backward pass, have an end, at 32 or 64
    perhaps. On logits that have support and no total support the iteration converges like one over its count, so that
    the last ones are seen.
    """
    judge_projections(trial, case)


@about.mappings(
    "coefficients.a-count-of-iterations-may-be-large",
    "oracle",
    many_counted_states,
    where(scaled),
    tunes("iterations"),
    schedule=SEVERAL,
)
def a_count_of_iterations_of_mappings_may_be_large(trial: Trial, case: Case) -> None:
    """Tuned to 24 to 129 iterations, the h_res of mappings has gone through as many, backwards too.

    As for projections: a fused kernel has a loop and a table of its own.
    """
    judge_mappings(trial, case)


# -- lines as low as masks --------------------------------------------------------------------------------------------

LOW = (-2e9, -2e10, -2e20, -2e30)
"""Just below what padding is filled up with, and what a running maximum begins at: -1e9, -1e10, -1e20 and -1e30."""
NEAR = (1.0, 0.89, 0.73, 0.61)
"""One size is exact by chance where rounding is about a unit; so many are not."""
HARMLESS = tuple(2.0**20 + 58979.125 * k for k in range(16))
"""Common shifts of a line whose entries are multiples of 1/8 within 2^16 of 0: in float32 each is taken off exactly."""


@st.composite
def masked_lines(draw: DrawFn, setting: Setting) -> Case:
    """Dense logits in multiples of 1/8, and which of the lines that are normalised first is to lie low."""
    n = draw(streams(setting, 2, 5))
    shape = logits_shape(n, setting.dialect)
    count = setting.count(1)
    logits = torch.tensor((noise(draw(seeds), count, *shape) * 16).round() / 8, dtype=setting.parameter_dtype)
    lines = 1 if len(shape) == 1 else shape[0]
    chosen = torch.zeros(lines, dtype=torch.float64)
    chosen[draw(st.integers(0, lines - 1))] = 1.0
    return Case(logits=logits, shift=chosen)


def _least_that_changes(exact: Callable[[float], bool], unchanged: float, changed: float) -> float:
    """A size that is not exact, no more than four times one that is, between one of either kind."""
    while changed / unchanged > 4:
        middle = -math.sqrt(unchanged * changed)
        unchanged, changed = (middle, changed) if exact(middle) else (unchanged, middle)
    return changed


@about.project(
    "manifold.lines-may-lie-as-low-as-masks",
    "oracle",
    masked_lines,
    where(shifts_exactly, depends_on_logits),
    blind=about.SYMMETRIC,
    schedule=ONCE,
)
def lines_may_lie_as_low_as_masks(trial: Trial, case: Case) -> None:
    """A whole line of logits below -1e10 or -1e30 is projected like one of zeros, by whoever takes off what is common
    to a line to the last bit.

    In exact arithmetic a constant is divided out of a line of the axis that is normalised first. At 1e10 rounding
    explains that it is not, of potentials that are stored as logarithms, or of exp2(z log2 e - max log2 e): so it is
    asked first whether 16 shifts of about 2^20 change a single bit of h_res. Where none does the maximum is subtracted
    exactly, and then the size of what is subtracted does not matter either, unless a maximum is taken over padding
    too, or begins at a number that was thought to be small enough. Whoever is not so exact is asked nothing more. In
    float64 potentials of 1e9 are exact to some units of float32, and larger ones are not: so it is asked before each
    size but the first whether any bit changes at a quarter of it, which lies above the mask that the size itself lies
    below. Where one does, either a mask lies between this size and the one before, or rounding has grown: the last
    thing that is asked is four times a size that changes nothing, at which a mask shows and rounding does not yet.
    """
    trial.judge_exactly()
    axis = shift_dim(trial.dialect)
    chosen = (case.shift.unsqueeze(-1) if axis == -1 else case.shift) * torch.ones_like(case.logits) != 0

    def run(target: Implementation, place: Place) -> Any:
        given, low = place(case.logits), place(chosen)

        def once(logits: torch.Tensor) -> torch.Tensor:
            return kept([target.project(logits)])[0]

        def at(value: float) -> torch.Tensor:
            return once(given.masked_fill(low, value))

        def exact(value: float) -> bool:
            return all(same_numbers(at(value * part), even) for part in NEAR)

        plain = once(given.clone())
        if not all(same_numbers(once(torch.where(low, given - shift, given)), plain) for shift in HARMLESS):
            return plain, ()
        even = at(0.0)
        found = [(LOW[0], at(LOW[0]))]
        for before, value in itertools.pairwise(LOW):
            if not exact(value / 4):
                if exact(before):
                    least = _least_that_changes(exact, before, value / 4)
                    found.append((least, at(least)))
                break
            found.append((value, at(value)))
        return plain, tuple(found)

    level = case.logits.masked_fill(chosen, 0.0)
    plain, found = trial.observe("project", run)
    exact, error = trial.truth.project(level), errors.projection(trial, level).error
    for value, one in found:
        trial.within(f"h_res with a line of logits at {value:g}", one, exact, error)
    if not found:  # counted as a number of which nothing is claimed
        unclaimed = torch.full_like(error, INF)
        trial.within("h_res with a line of logits far below", plain, trial.truth.project(case.logits), unclaimed)
