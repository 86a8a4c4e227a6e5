"""Gradients of a whole block and of its parts, by the state and by every parameter."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from mhc_ref import Params
from properties import bounds
from properties.bounds import INF, Approx
from properties.core.case import BranchSpec, Case, map_tensors
from properties.core.implementation import Implementation
from properties.core.law import Schedule
from properties.core.premises import differentiable, where
from properties.core.trial import Trial, wide
from properties.core.truth import present
from properties.laws import about, errors, pulls
from properties.laws.gradient_mappings import NAMES
from properties.laws.mixing import matrix_cases
from properties.laws.premises import mixes_in_compute_dtype, reads_by_gates
from properties.strategies import TAME, Setting, branch_of, coefficient_cases, cotangent_for, far_beside, silenced


def cotangent_of(setting: Setting, x: Tensor) -> st.SearchStrategy[Tensor]:
    """A cotangent of the state that a block makes of x."""
    return cotangent_for(tuple(x.shape), setting.dtype, far_beside(setting.dtype, x))


@st.composite
def block_pulls(draw: DrawFn, setting: Setting) -> Case:
    """A block with a branch whose derivative is known, and a cotangent of its output."""
    small = setting.with_(streams=tuple(n for n in setting.streams if n <= 4) or setting.streams[:1])
    case = draw(coefficient_cases(small, most=2, scales=(1.0, 30.0), patterns=TAME))
    case = case.with_(x=draw(silenced(setting, case.x)))
    branch = draw(branch_of(setting, case.x.shape[-1], ("zero", "identity", "scale", "constant", "detached")))
    return case.with_(branch=branch, cotangent=draw(cotangent_of(setting, case.x)))


@about.block(
    "gradient.block-pulls-back-to-state-and-parameters",
    "oracle",
    block_pulls,
    differentiable,
    mixes_in_compute_dtype,
    schedule=Schedule(cost=1.5),
)
def block_pulls_back_to_state_and_parameters(trial: Trial, case: Case) -> None:
    """The gradients of a whole block by its state and its parameters are exact.

    Three paths lead back to x: through A^T, through h_pre and the branch, and through the mappings; mixing errors
    come from all.
    """

    def run(target: Implementation, x: Tensor, *parts: Tensor) -> Any:
        return target.block(x, Params(*parts), case.branch)

    trial.judge_exactly()
    got = trial.pull("block", [case.x, *present(case.params)], [case.cotangent], run)
    exact = trial.truth.layers_vjp(case.x, [case.params], [case.branch], case.cotangent)
    bound = errors.block_gradient(trial, case.x, case.params, case.branch, case.cotangent)
    for name, one, value in zip(NAMES, got, exact, strict=False):
        trial.within(f"the gradient by {name}", one, value, getattr(bound, name).error.reshape(value.shape))


@st.composite
def mixing_pulls(draw: DrawFn, setting: Setting) -> Case:
    """Any h_post, h_res, state and branch output, and cotangents of what post and pre make of them."""
    case = draw(matrix_cases(setting))
    tokens, _, channels = case.x.shape
    pulls = (tuple(case.x.shape), (tokens, channels))
    far = far_beside(setting.dtype)
    return case.with_(cotangents=tuple(draw(cotangent_for(shape, setting.dtype, far)) for shape in pulls))


@about.post(
    "gradient.pre-and-post-pull-back-to-every-factor",
    "oracle",
    mixing_pulls,
    differentiable,
    mixes_in_compute_dtype,
    schedule=Schedule(cost=1.5),
)
def pre_and_post_pull_back_to_every_factor(trial: Trial, case: Case) -> None:
    """The gradients of pre and post by state, branch output and mappings are those of their sums of products.

    Both are bilinear: the gradient by one factor is the cotangent contracted with the other, in the compute dtype; that
    by a state, which may be the sum of a contribution from every stream, is rounded to the state's dtype once for each.
    """
    trial.judge_exactly()
    for pulled in pulls.mixtures(trial, case):
        method, given = pulled.method, pulled.inputs

        def run(target: Implementation, *parts: Tensor, pulled: pulls.Pulled = pulled) -> Any:
            return pulled.function(target, parts)

        got = trial.pull(method, given, pulled.cotangents, run)
        exact = getattr(trial.truth, f"{method}_vjp")(*given, *pulled.cotangents)
        for factor, one, value, error in zip(pulled.names, got, exact, pulled.errors(pulled.cotangents), strict=True):
            trial.within(f"the gradient of {method} by {factor}", one, value, error)


@about.block(
    "gradient.residual-path-pulls-back-by-the-transpose",
    "identity",
    lambda s: residual_pulls(s),
    differentiable,
    where(reads_by_gates),
    blind=("implicit-backward", "norm-missing"),
)
def residual_path_pulls_back_by_the_transpose(trial: Trial, case: Case) -> None:
    """With gates of 0 and F = 0 the gradient by x is A^T times the cotangent: what mixes forward mixes back.

    x' = A x with a constant A; <A v, w> = <v, A^T w>. The residual path carries a gradient past any branch. Nothing is
    said of a token whose gradient by h_res is beyond the compute dtype on its way to the gate: infinity times 0 is NaN.
    """

    def forward(target: Implementation, x: Tensor) -> Any:
        return target.block(x, map_tensors(case.params, lambda part: part.to(x.device)), BranchSpec("zero"))

    got = trial.pull("block", [case.x], [case.cotangent], forward)[0]
    h = errors.mappings(trial, case.x, case.params)
    res = Approx(trial.truth.mappings(case.x, case.params).res, h.res.error)
    operator = bounds.block.operator_of(res, trial.dialect)
    n = case.x.shape[-2]
    expected = bounds.stored(
        bounds.contracted("tij,tic->tjc", operator, Approx.exact(case.cotangent), n, trial.rounding), trial.rounding
    )
    size = torch.einsum("tij,tic->tjc", operator.value.abs(), wide(case.cotangent).abs())
    coarse = n + 2 + (3 if trial.rounding.mixes_in_state else 0)  # one rounding for each use of a stream
    error = expected.error + coarse * trial.rounding.state_unit * size
    error = bounds.holding(expected.value, error, size, trial.rounding).error
    trial.within("the gradient by x", got, expected.value, torch.where(reaches_the_gates(trial, case), error, INF))


def reaches_the_gates(trial: Trial, case: Case) -> Tensor:
    """[tokens, 1, 1]: whether the gradient of A x by the residual logits has a bound, and so is a number."""
    by_operator = torch.einsum("tic,tjc->tij", wide(case.cotangent), wide(case.x))
    none = Approx.exact(torch.zeros(case.x.shape[:-1], dtype=torch.float64))
    bars = none, none, errors.operator(trial, by_operator)
    open_gates = case.params._replace(alpha=torch.ones_like(case.params.alpha))
    pulled_back = bounds.coefficients_gradient(Approx.exact(case.x), open_gates, *bars, trial.dialect, trial.rounding)
    return torch.isfinite(pulled_back.x.error).flatten(1).all(1).view(-1, 1, 1)


@st.composite
def residual_pulls(draw: DrawFn, setting: Setting) -> Case:
    """A state, parameters with gates of 0, and a cotangent."""
    case = draw(coefficient_cases(setting, most=2, scales=(1.0, 30.0), gates=(0.0,)))
    return case.with_(cotangent=draw(cotangent_of(setting, case.x)))
