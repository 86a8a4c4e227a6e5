"""Gradients of the mappings by state and parameters."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from mhc_ref import Mappings, Params
from properties import bounds
from properties.bounds import Approx
from properties.core.case import Case
from properties.core.implementation import Implementation
from properties.core.law import Schedule
from properties.core.premises import differentiable, several_streams
from properties.core.reads import mapping_shapes
from properties.core.trial import Trial, wide
from properties.core.truth import present
from properties.laws import about, errors
from properties.strategies import TAME, Setting, coefficient_cases, cotangent_for, far_beside, seeds, silenced

GENTLE = (1.0, 30.0, 1e-3, 1e-4, 1e6, 1e-12, 0.0)
"""Sizes of states: among them those at which an eps of 1e-6 is no longer negligible, where backward passes forget it,
those whose fourth power leaves the range of float32, and zero, where an eps alone makes a gradient."""

NAMES = ("x", *Params._fields)
"""What the mappings of a block, and a block, have gradients by; the last may be missing."""


@st.composite
def coefficient_pulls(draw: DrawFn, setting: Setting) -> Case:
    """x, params and a cotangent for each mapping; any of them may be zero (an output that is not used)."""
    small = setting.with_(streams=tuple(n for n in setting.streams if n <= 4) or setting.streams[:1])
    case = draw(coefficient_cases(small, most=2, scales=GENTLE, patterns=TAME))
    case = case.with_(x=draw(silenced(setting, case.x)))
    dtype = setting.parameter_dtype
    used = draw(st.sampled_from(((1, 1, 1), (1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0))))
    shapes = mapping_shapes(tuple(case.x.shape), setting.dialect)
    far = far_beside(dtype, case.x)
    pulls = tuple(draw(cotangent_for(shape, dtype, far)) * on for shape, on in zip(shapes, used, strict=True))
    return case.with_(cotangents=pulls)


def cotangents_of(trial: Trial, case: Case) -> list[Tensor]:
    """The cotangents of all mappings, zeros for those that are not emitted."""
    emits = trial.implementation.emits
    return [bar if name in emits else 0 * bar for name, bar in zip(Mappings._fields, case.cotangents, strict=True)]


def pull_coefficients(trial: Trial, case: Case) -> list[Tensor]:
    """The implementation's gradients by x and every parameter."""
    emitted = [k for k, name in enumerate(Mappings._fields) if name in trial.implementation.emits]

    def run(target: Implementation, x: Tensor, *parts: Tensor) -> Any:
        found = target.mappings(x, Params(*parts))
        return tuple(found[k] for k in emitted)

    return trial.pull("mappings", [case.x, *present(case.params)], [case.cotangents[k] for k in emitted], run)


@about.mappings(
    "gradient.mappings-pull-back-to-state-and-parameters",
    "oracle",
    coefficient_pulls,
    differentiable,
    schedule=Schedule(cost=1.5),
)
def mappings_pull_back_to_state_and_parameters(trial: Trial, case: Case) -> None:
    """The gradients of the mappings by x, phi, bias, alpha and norm weight are exact, whichever outputs are used.

    The chain rule through norm, projection, gates, sigmoids and the unrolled iteration; a detached stage, a constant
    rms or another eps in the backward pass moves them. Errors are composed stage by stage
    (`bounds.coefficients_gradient`).
    """
    trial.judge_exactly()
    got, bars = pull_coefficients(trial, case), cotangents_of(trial, case)
    bound = errors.mappings_gradient(trial, case.x, case.params, bars)
    exact = trial.truth.mappings_vjp(case.x, case.params, [wide(bar) for bar in bars])
    for name, one, value in zip(NAMES, got, exact, strict=False):
        trial.within(f"the gradient by {name}", one, value, getattr(bound, name).error.reshape(value.shape))


@about.mappings(
    "gradient.every-parameter-learns",
    "invariant",
    lambda s: learning_cases(s),
    differentiable,
    several_streams,
    blind=("h-res-transposed", "implicit-backward"),
)
def every_parameter_learns(trial: Trial, case: Case) -> None:
    """Unsaturated mappings of a generic state send a gradient to every entry of bias, to every gate and to phi.

    Each logit moves its mapping; a detached parameter, a mapping computed under no_grad, or a saturated start gets
    none. An entry is asked for where the exact gradient exceeds its bound.
    """
    got = pull_coefficients(trial, case)
    pre, post, res = (Approx.exact(bar) for bar in cotangents_of(trial, case))
    bound = bounds.coefficients_gradient(
        Approx.exact(case.x), case.params, pre, post, res, trial.dialect, trial.rounding
    )
    for name, one in zip(NAMES, got, strict=False):
        expected: Approx = getattr(bound, name)
        alive = expected.value.abs() > 2 * expected.error
        silent = (wide(one).reshape(alive.shape) == 0) & alive
        trial.holds(
            f"entries of the gradient by {name} that are 0",
            not bool(silent.any()),
            f"{int(silent.sum())} of {int(alive.sum())}",
            "none",
        )


@st.composite
def learning_cases(draw: DrawFn, setting: Setting) -> Case:
    """A generic state, or one of zeros, with small dense parameters."""
    small = setting.with_(streams=tuple(n for n in setting.streams if 2 <= n <= 4) or setting.streams[-1:])
    case = draw(
        coefficient_cases(
            small, most=2, scales=(1.0, 1.0, 0.0), patterns=("zero", "integers"), gates=(1.0, 0.5), least_phi=2
        )
    )
    seed = draw(seeds)
    dtype = setting.parameter_dtype
    generator = torch.Generator().manual_seed(seed)
    bars = tuple(
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        for shape in mapping_shapes(tuple(case.x.shape), setting.dialect)
    )
    return case.with_(cotangents=bars)
