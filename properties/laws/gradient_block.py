"""Gradients of a whole block and of its parts, by the state and by every parameter."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from mhc_ref import Params
from properties import bounds
from properties.bounds import INF, Approx, Pullback, Rounding
from properties.core.case import BranchSpec, Case, map_tensors
from properties.core.implementation import Implementation, offers
from properties.core.law import Schedule
from properties.core.premises import differentiable
from properties.core.trial import Trial, wide
from properties.core.truth import present
from properties.laws import about
from properties.laws.block import passed, slope_of
from properties.laws.coefficients import coefficients
from properties.laws.gradient_mappings import NAMES
from properties.laws.mixing import applied, matrix_cases
from properties.laws.premises import mixes, mixes_in_compute_dtype
from properties.strategies import TAME, Setting, branch_of, coefficient_cases, cotangent_for


@st.composite
def block_pulls(draw: DrawFn, setting: Setting) -> Case:
    """A block with a branch whose derivative is known, and a cotangent of its output."""
    small = setting.with_(streams=tuple(n for n in setting.streams if n <= 4) or setting.streams[:1])
    case = draw(coefficient_cases(small, most=2, scales=(1.0, 30.0), patterns=TAME))
    branch = draw(branch_of(setting, case.x.shape[-1], ("zero", "identity", "scale", "constant")))
    return case.with_(branch=branch, cotangent=draw(cotangent_for(tuple(case.x.shape), setting.dtype)))


def summed_in_the_state(equation: str, left: Approx, right: Approx, count: int, uses: int, r: Rounding) -> Approx:
    """The gradient by a state or a branch output, a sum of `count` products, where that was widened `uses` times.

    Autograd rounds the gradient of each use to the dtype of the state, and so are the uses - 1 sums, all relative to
    the sum of magnitudes: uses u, and for each of them what a number below the normal ones may lose.
    """
    summed = bounds.contracted(equation, left, right, count, r)
    size = torch.einsum(equation, left.value.abs() + left.error, right.value.abs() + right.error)
    return Approx(summed.value, summed.error + uses * (r.state_unit * size + r.state_tiny))


def block_gradient(case: Case, trial: Trial) -> Pullback:
    """The pullback of the case's cotangent by its state and its parameters."""
    return block_pullback(Approx.exact(case.x), case.params, case.branch, Approx.exact(case.cotangent), trial)


def block_pullback(state: Approx, params: Params, branch: BranchSpec, g: Approx, trial: Trial) -> Pullback:
    """The pullback of x' = A x + h_post^T F(h_pre x) by x [tokens, n, C] and the parameters, for a cotangent g of x'.

    The chain rule, every stage with the errors of what it is given, the state's and the cotangent's among them, and its
    own. The branch is one whose derivative is known: zero, identity, scale or constant.
    """
    r = trial.rounding
    n, channels = state.value.shape[-2:]
    way = passed(state, params, branch, trial)
    slope = Approx.exact(slope_of(branch, channels))
    # Where streams are a list, the branch output is widened once for each of them.
    g_y = bounds.stored(summed_in_the_state("ti,tic->tc", way.h.post, g, n, n, r), r)
    g_u = bounds.stored(bounds.times(slope.expanded(g_y), g_y, r), r)
    post = bounds.contracted("tic,tc->ti", g, way.y, channels, r)
    outer = bounds.contracted("tic,tjc->tij", g, state, channels, r)
    res = Approx(applied(outer.value, trial.dialect), applied(outer.error, trial.dialect))
    operator = Approx(applied(way.h.res.value, trial.dialect), applied(way.h.res.error, trial.dialect))
    direct = bounds.stored(bounds.contracted("tij,tic->tjc", operator, g, n, r), r)
    mixed = torch.einsum("tij,tic->tjc", operator.value.abs(), g.value.abs())
    return read_pullback(state, params, way.h.pre, g_u, trial, post, res, (direct, mixed))


def read_pullback(
    state: Approx,
    params: Params,
    h_pre: Approx,
    g_u: Approx,
    trial: Trial,
    post: Approx | None = None,
    res: Approx | None = None,
    residual: tuple[Approx, Tensor] | None = None,
) -> Pullback:
    """The pullback of u = h_pre x for a cotangent of u [tokens, C], and of what else the block makes of its state.

    `post` and `res` are cotangents of the other mappings, `residual` the gradient by x past the branch and the sum of
    magnitudes in it; a head has none of them.

    A state below float32 sums the gradients of its uses in its own dtype: one for every stream that it is mixed into,
    one for the branch, and the mappings', which are counted where they arise.
    """
    r = trial.rounding
    tokens, n, channels = state.value.shape
    pre = bounds.contracted("tc,tjc->tj", g_u, state, channels, r)
    post = post or Approx.exact(torch.zeros(tokens, n))
    res = res or Approx.exact(torch.zeros(tokens, n, n))
    through = bounds.coefficients_gradient(state, params, pre, post, res, trial.dialect, r)
    read = bounds.stored(bounds.contracted("tj,tc->tjc", h_pre, g_u, 1, r), r)
    mapped = bounds.stored(through.x, r)
    direct, mixed = residual or (None, torch.zeros(()))
    total = bounds.plus(*([direct] if direct else []), read, mapped, r=r)
    size = mixed + read.value.abs() + mapped.value.abs() + total.error
    return through._replace(x=Approx(total.value, total.error + (n + 2) * r.state_unit * size))


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
    bound = block_gradient(case, trial)
    for name, one, value in zip(NAMES, got, exact, strict=False):
        trial.within(f"the gradient by {name}", one, value, getattr(bound, name).error.reshape(value.shape))


FACTORS = {"post": ("x", "y", "h_post", "h_res"), "pre": ("x", "h_pre")}
"""What post and pre multiply, in the order of their arguments."""


def mixture_pullback(trial: Trial, case: Case, method: str, cotangent: Tensor) -> dict[str, Approx]:
    """The gradient of post or of pre by each factor, in its shape, for a cotangent [tokens, n, C] or [tokens, C].

    `case` has x [tokens, n, C], y [tokens, C], h_post [tokens, n], which serves as h_pre too, and h_res [tokens, n, n].
    """
    r = trial.rounding
    n, channels = case.x.shape[-2:]
    x, weights, g = Approx.exact(case.x), Approx.exact(case.h_post), Approx.exact(cotangent)

    def by_state(equation: str, left: Approx, count: int) -> Approx:
        return summed_in_the_state(equation, left, g, count, n + 1, r)

    if method == "pre":
        return {"x": by_state("tj,tc->tjc", weights, 1), "h_pre": bounds.contracted("tc,tjc->tj", g, x, channels, r)}
    outer = bounds.contracted("tic,tjc->tij", g, x, channels, r)
    h_res = Approx(applied(outer.value, trial.dialect), applied(outer.error, trial.dialect))
    if mixes(trial.dialect):  # the identity need not be read
        h_res = Approx(h_res.value, torch.full_like(h_res.error, INF))
    return {
        "x": by_state("tij,tic->tjc", Approx.exact(applied(case.h_res, trial.dialect)), n),
        "y": by_state("ti,tic->tc", weights, n),
        "h_post": bounds.contracted("tic,tc->ti", g, Approx.exact(case.y), channels, r),
        "h_res": h_res,
    }


@st.composite
def mixing_pulls(draw: DrawFn, setting: Setting) -> Case:
    """Any h_post, h_res, state and branch output, and cotangents of what post and pre make of them."""
    case = draw(matrix_cases(setting))
    tokens, _, channels = case.x.shape
    pulls = (tuple(case.x.shape), (tokens, channels))
    return case.with_(cotangents=tuple(draw(cotangent_for(shape, setting.dtype)) for shape in pulls))


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
    for k, (method, factors) in enumerate(FACTORS.items()):
        if method not in offers(trial.implementation):
            continue

        def run(target: Implementation, *parts: Tensor, method: str = method) -> Any:
            return getattr(target, method)(*parts)

        given = (case.x, case.y, case.h_post, case.h_res) if method == "post" else (case.x, case.h_post)
        got = trial.pull(method, given, [case.cotangents[k]], run)
        exact = getattr(trial.truth, f"{method}_vjp")(*given, case.cotangents[k])
        bound = mixture_pullback(trial, case, method, case.cotangents[k])
        for factor, one, value in zip(factors, got, exact, strict=True):
            trial.within(f"the gradient of {method} by {factor}", one, value, bound[factor].error)


@about.block(
    "gradient.residual-path-pulls-back-by-the-transpose",
    "identity",
    lambda s: residual_pulls(s),
    differentiable,
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
    h = coefficients(Approx.exact(case.x), case.params, trial.dialect, trial.rounding)
    res = Approx(trial.truth.mappings(case.x, case.params).res, h.res.error)
    operator = Approx(applied(res.value, trial.dialect), applied(res.error, trial.dialect))
    n = case.x.shape[-2]
    expected = bounds.stored(
        bounds.contracted("tij,tic->tjc", operator, Approx.exact(case.cotangent), n, trial.rounding), trial.rounding
    )
    size = torch.einsum("tij,tic->tjc", operator.value.abs(), wide(case.cotangent).abs())
    coarse = n + 2 + (3 if trial.implementation.mixing == "state" else 0)  # one rounding for each use of a stream
    error = expected.error + coarse * trial.rounding.state_unit * size
    trial.within("the gradient by x", got, expected.value, torch.where(reaches_the_gates(trial, case), error, INF))


def reaches_the_gates(trial: Trial, case: Case) -> Tensor:
    """[tokens, 1, 1]: whether the gradient of A x by the residual logits has a bound, and so is a number."""
    by_operator = torch.einsum("tic,tjc->tij", wide(case.cotangent), wide(case.x))
    none = Approx.exact(torch.zeros(case.x.shape[:-1], dtype=torch.float64))
    bars = none, none, Approx.exact(applied(by_operator, trial.dialect))
    open_gates = case.params._replace(alpha=torch.ones_like(case.params.alpha))
    pulled_back = bounds.coefficients_gradient(Approx.exact(case.x), open_gates, *bars, trial.dialect, trial.rounding)
    return torch.isfinite(pulled_back.x.error).flatten(1).all(1).view(-1, 1, 1)


@st.composite
def residual_pulls(draw: DrawFn, setting: Setting) -> Case:
    """A state, parameters with gates of 0, and a cotangent."""
    case = draw(coefficient_cases(setting, most=2, scales=(1.0, 30.0), gates=(0.0,)))
    return case.with_(cotangent=draw(cotangent_for(tuple(case.x.shape), setting.dtype)))
