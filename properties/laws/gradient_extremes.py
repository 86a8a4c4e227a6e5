"""Gradient: at saturated gates, beside streams of zeros, at starved lines, and of cotangents that are no number.

A value may be right where its derivative is 0 times infinity: of 1 / (1 + exp(-z)) below -88.7, of a root at 0, of a
branch of `where` that was not taken. And a value of 0 may be right whose derivative is not.
"""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from properties import bounds
from properties.bounds import Approx
from properties.core.case import Case
from properties.core.law import Schedule
from properties.core.premises import differentiable, full_range, several_streams, where
from properties.core.reads import mapping_shapes
from properties.core.rounding import Rounding
from properties.core.trial import Trial
from properties.laws import about
from properties.laws.gradient import projection_pulls, pulled
from properties.laws.gradient_block import block_pulls_back_to_state_and_parameters, cotangent_of
from properties.laws.gradient_mappings import mappings_pull_back_to_state_and_parameters
from properties.laws.manifold import unbounded_range
from properties.laws.premises import mixes_in_compute_dtype, normalised
from properties.strategies import (
    TAME,
    Setting,
    among,
    branch_of,
    cotangent_for,
    far_beside,
    noise,
    params_of,
    projected_width,
    saturating,
    seeds,
    states_of,
    streams,
)

FAR = (95.0, -95.0, 200.0, -200.0)
"""How far gates are moved: there sigmoid is 0 or 1 to the last bit, and exp(-z) lies beyond float32, or at 0."""

RARE = Schedule(cost=3, by_streams=False)
"""A third of the examples, over every n together: what happens there happens nearly everywhere there."""


@st.composite
def extreme_states(draw: DrawFn, setting: Setting) -> Case:
    """A state of one or two tokens, some streams of which are zero, and parameters at which every gate saturates."""
    n = draw(streams(setting, 1, 4))
    x = draw(states_of(setting, n, draw(projected_width(setting, n)), most=2, scales=(1.0, 30.0)))
    x[..., : draw(st.integers(0, n - 1)), :] = 0  # as padded ones are
    params = draw(params_of(setting, n, x.shape[-1], gates=(1.0, 0.5), patterns=TAME))
    far = draw(among(*FAR)) * setting.stretch
    return Case(x=x, params=saturating(params, n, far, alike=draw(st.booleans())))


@st.composite
def extreme_mappings(draw: DrawFn, setting: Setting) -> Case:
    """Such a state, and a cotangent of any size for each mapping."""
    case = draw(extreme_states(setting))
    dtype = setting.parameter_dtype
    far = far_beside(dtype, case.x)
    shapes = mapping_shapes(tuple(case.x.shape), setting.dialect)
    bars = tuple(draw(cotangent_for(shape, dtype, far)) for shape in shapes)
    return case.with_(cotangents=bars)


@about.mappings(
    "gradient.saturated-mappings-pull-back",
    "oracle",
    extreme_mappings,
    differentiable,
    blind=about.SYMMETRIC,
    schedule=RARE,
)
def saturated_mappings_pull_back(trial: Trial, case: Case) -> None:
    """The gradients of the mappings are exact where gates are 0 or 1 to the last bit, and beside streams of zeros.

    The derivative of a sigmoid is s (1 - s), which is 0 there. A formula whose parts overflow makes 0 * infinity of it,
    which is NaN for every parameter of the model, though the value is right.
    """
    mappings_pull_back_to_state_and_parameters.judge(trial, case)


@st.composite
def extreme_blocks(draw: DrawFn, setting: Setting) -> Case:
    """Such a state, a branch whose derivative is known, and a cotangent of any size."""
    case = draw(extreme_states(setting))
    branch = draw(branch_of(setting, case.x.shape[-1], ("zero", "identity", "scale", "constant")))
    return case.with_(branch=branch, cotangent=draw(cotangent_of(setting, case.x)))


@about.block(
    "gradient.saturated-blocks-pull-back",
    "oracle",
    extreme_blocks,
    differentiable,
    mixes_in_compute_dtype,
    schedule=RARE,
)
def saturated_blocks_pull_back(trial: Trial, case: Case) -> None:
    """The gradients of a block are exact where its gates are 0 or 1 to the last bit, and beside streams of zeros.

    As for mappings.
    """
    block_pulls_back_to_state_and_parameters.judge(trial, case)


# -- lines that starve ------------------------------------------------------------------------------------------------


@st.composite
def starved_pulls(draw: DrawFn, setting: Setting) -> Case:
    """Logits of which a row, and then a column, lies so far below the others that its exponentials underflow, and
    cotangents.

    They go to 0 at a gap of 104 of float32. From 92 to 103 they are subnormal numbers: a value may still be right, and
    the reciprocals that a backward pass multiplies by are infinite.
    """
    case = draw(projection_pulls(setting, least_n=2, patterns=TAME))
    logits = case.logits[:1].repeat(2, 1, 1)
    gap = draw(among(96.0, 120.0, 80.0, 104.0)) * setting.stretch
    line = draw(st.integers(0, logits.shape[-1] - 1))
    logits[0, line] -= gap
    logits[1, :, line] -= gap
    if setting.max_tokens < 2:
        logits = logits[[draw(st.integers(0, 1))]]
    logits = torch.tensor(setting.crowded(logits.numpy()))
    return Case(logits=logits, cotangent=torch.tensor(noise(draw(seeds), *logits.shape)).to(logits.dtype))


@about.project(
    "gradient.starved-lines-pull-back",
    "oracle",
    starved_pulls,
    where(normalised),
    differentiable,
    full_range,
    several_streams,
    schedule=RARE,
)
def starved_lines_pull_back(trial: Trial, case: Case) -> None:
    """The gradient by logits of which a line lies beyond the range of exp is that of exact arithmetic.

    The derivative of `manifold.starved-lines-lose-no-mass`: weights of a line are shares of it, however small the line
    is, and shares are what a backward pass multiplies by. What underflows there is below the smallest normal number,
    and stays so: shares are at most 1.
    """
    trial.judge_exactly()
    got = pulled(trial, case.logits, case.cotangent)
    logits, bar = Approx.exact(case.logits), Approx.exact(case.cotangent)
    bound = bounds.projection_gradient(logits, bar, trial.dialect, unbounded_range(trial.rounding))
    lost = case.logits[0].numel() ** 2 * 2**10 * Rounding.of(trial.dtype).tiny
    exact = trial.truth.project_vjp(case.logits, case.cotangent)
    trial.within("the gradient by starved logits", got, exact, bound.error + lost)


# -- parameters as they are initialised --------------------------------------------------------------------------------


@st.composite
def initial_states(draw: DrawFn, setting: Setting) -> Case:
    """A state, and parameters of which some are as they are initialised: gates, phi or biases of 0, a weight of ones;
    cotangents of the mappings, and of a block with its branch."""
    n = draw(streams(setting, 1, 4))
    x = torch.tensor(noise(draw(seeds), setting.count(2), n, draw(projected_width(setting, n))))
    params = draw(params_of(setting, n, x.shape[-1], gates=(1.0, 0.5), patterns=TAME, least_phi=2))
    shut, dead, still = draw(among(*INITIAL))
    params = params._replace(
        alpha=params.alpha * (0 if shut else 1),
        phi=params.phi * (0 if dead else 1),
        bias=params.bias * (0 if still else 1),
        norm_weight=None if params.norm_weight is None else torch.ones_like(params.norm_weight),
    )
    seed, dtype = draw(seeds), setting.parameter_dtype
    shapes = mapping_shapes(tuple(x.shape), setting.dialect)
    bars = tuple(torch.tensor(noise(seed + k, *shape), dtype=dtype) for k, shape in enumerate(shapes))
    branch = draw(branch_of(setting, x.shape[-1], ("scale", "identity", "constant")))
    cotangent = torch.tensor(noise(seed + 3, *x.shape)).to(setting.dtype)
    return Case(x=x.to(setting.dtype), params=params, branch=branch, cotangent=cotangent, cotangents=bars)


INITIAL = ((True, False, False), (False, True, False), (True, False, True), (False, True, True), (True, True, True))
"""Which of gates, phi and biases are 0."""


@about.mappings(
    "gradient.initial-mappings-learn",
    "oracle",
    initial_states,
    differentiable,
    blind=about.SYMMETRIC,
    schedule=Schedule(cost=2, by_streams=False),
)
def initial_mappings_learn(trial: Trial, case: Case) -> None:
    """The gradients of the mappings are exact where gates, phi or biases are 0, as they are initialised.

    What multiplies a 0 has a derivative that is none: x^ phi for a gate of 0, alpha x^ for a phi of 0. Who skips the
    products while their factor is 0 computes the right values, and the parameter stays 0 for ever.
    """
    mappings_pull_back_to_state_and_parameters.judge(trial, case)


@about.block(
    "gradient.initial-blocks-learn",
    "oracle",
    initial_states,
    differentiable,
    mixes_in_compute_dtype,
    schedule=Schedule(cost=2, by_streams=False),
)
def initial_blocks_learn(trial: Trial, case: Case) -> None:
    """The gradients of a block are exact where gates, phi or biases are 0, as they are initialised.

    As for mappings.
    """
    block_pulls_back_to_state_and_parameters.judge(trial, case)
