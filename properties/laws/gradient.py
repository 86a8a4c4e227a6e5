"""Gradient: vector-Jacobian products against exact derivatives of the unrolled iteration, and their symmetries."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from properties import bounds
from properties.bounds import Approx
from properties.core.case import Case
from properties.core.implementation import Implementation
from properties.core.premises import differentiable, several_streams, where
from properties.core.trial import Trial, magnitude, wide
from properties.laws import about, errors
from properties.laws.premises import (
    alternating,
    depends_on_logits,
    divided_before_any_eps,
    normalised,
    shift_dim,
    shifts_exactly,
)
from properties.strategies import (
    MODERATE,
    PATTERNS,
    TAME,
    Setting,
    cotangent_for,
    far_beside,
    logits_of,
    streams,
)


@st.composite
def projection_pulls(draw: DrawFn, setting: Setting, *, least_n: int = 1, patterns: tuple[str, ...] = MODERATE) -> Case:
    """logits [tokens, n, n] and a cotangent of h_res."""
    n = draw(streams(setting, least_n, 5))
    logits = draw(logits_of(setting, n, most=3, patterns=patterns))
    dtype = setting.parameter_dtype
    return Case(logits=logits, cotangent=draw(cotangent_for((logits.shape[0], n, n), dtype, far_beside(dtype))))


def pulled(trial: Trial, logits: Tensor, cotangent: Tensor) -> Tensor:
    """The implementation's d <cotangent, h_res> / d logits."""

    def run(target: Implementation, z: Tensor) -> Tensor:
        return target.project(z)

    return trial.pull("project", [logits], [cotangent], run)[0]


@about.project(
    "gradient.projection-pulls-back-the-unrolled-iteration",
    "oracle",
    lambda s: projection_pulls(s, patterns=tuple(PATTERNS)),
    where(depends_on_logits),
    differentiable,
)
def projection_pulls_back_the_unrolled_iteration(trial: Trial, case: Case) -> None:
    """The gradient of <cotangent, h_res> by the logits is that of the iteration as it runs, not of its limit.

    mHC section 4.3.1 traverses the entire iteration; implicit differentiation, or the final matrix in every reverse
    step, is exact only at convergence (docs/mathematics.md, Gradient). Cotangents are random: for ones the gradient is
    exactly 0. Logits are any: a backward pass that recomputes the iteration has its own maximum to subtract, and may
    clamp what the forward pass does not.
    """
    trial.judge_exactly()
    got = pulled(trial, case.logits, case.cotangent)
    bound = errors.projection_gradient(trial, case.logits, case.cotangent)
    trial.within(
        "the gradient of the projection", got, trial.truth.project_vjp(case.logits, case.cotangent), bound.error
    )


@about.project(
    "gradient.exact-shifts-have-no-gradient",
    "identity",
    lambda s: projection_pulls(s, least_n=2),
    where(shifts_exactly),
    differentiable,
    several_streams,
    blind=("h-res-detached", "h-res-transposed"),
)
def exact_shifts_have_no_gradient(trial: Trial, case: Case) -> None:
    """Along the shift that changes nothing, the gradient is zero: its lines sum to 0 at every number of iterations.

    The derivative of an exact invariance (`manifold.exact-shift-invariance`).
    """
    dialect = trial.dialect
    axis = shift_dim(dialect)
    got = wide(pulled(trial, case.logits, case.cotangent))
    bound = errors.projection_gradient(trial, case.logits, case.cotangent)
    # The bound's own value is exact to float64; what its lines do not cancel is float64 noise.
    slack = bound.error.sum(axis) + magnitude(got).sum(axis) * got.shape[-1] * 2.0**-52
    trial.within("a line sum of the gradient", got.sum(axis), torch.zeros_like(slack), slack)


@about.project(
    "gradient.pullback-is-linear",
    "identity",
    projection_pulls,
    where(depends_on_logits),
    differentiable,
    blind=("h-res-detached", "h-res-transposed"),
)
def pullback_is_linear(trial: Trial, case: Case) -> None:
    """The gradient for twice a cotangent less another is twice the gradient less the other's.

    A vector-Jacobian product is linear in the cotangent; -2 and a roll of the tensor are exact.
    """
    other = case.cotangent.roll(1, -1)
    joined = 2 * wide(case.cotangent) - wide(other)
    joined = joined.to(case.cotangent.dtype)
    rounded = (wide(joined) - (2 * wide(case.cotangent) - wide(other))).abs()
    one, two = pulled(trial, case.logits, case.cotangent), pulled(trial, case.logits, other)
    both = pulled(trial, case.logits, joined)
    slack = (
        2 * errors.projection_gradient(trial, case.logits, case.cotangent).error
        + errors.projection_gradient(trial, case.logits, other).error
    )
    slack = slack + errors.projection_gradient(trial, case.logits, Approx(wide(joined), rounded)).error
    trial.near("the gradient of a combination", both, 2 * wide(one) - wide(two), slack)


@about.project(
    "gradient.pullback-stays-below-its-norm",
    "invariant",
    lambda s: projection_pulls(s, least_n=2, patterns=TAME),
    where(normalised, divided_before_any_eps, alternating),
    differentiable,
    several_streams,
    blind=("h-res-detached", "h-res-transposed"),
)
def pullback_stays_below_its_norm(trial: Trial, case: Case) -> None:
    """The Frobenius norm of the gradient is at most 1/2 times that of the cotangent where the line sums have converged,
    and as much more as the sums met on the way are below 1.

    Each half-step is an orthogonal projection of the derivative of log M in the norm that M weighs, and changes that
    norm by what it divides by; the first and the last one contribute sqrt(1/2) each: at most
    prod_{s = 2..m} (min D_s)^(-1/2) / 2, and without eps never more than (1 + n (m - 1)) / 2 (`bounds.pullback_norm`,
    where an eps is accounted for). The transpose has the same norm.
    """
    got = wide(pulled(trial, case.logits, case.cotangent)).flatten(1).norm(dim=1)
    limit = bounds.pullback_norm(case.logits, trial.dialect) * wide(case.cotangent).flatten(1).norm(dim=1)
    slack = errors.projection_gradient(trial, case.logits, case.cotangent).error.flatten(1).norm(dim=1)
    trial.at_most("the norm of the gradient", got, limit, slack)
