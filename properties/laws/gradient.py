"""Gradient: vector-Jacobian products against exact derivatives of the unrolled iteration, and their symmetries."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from mhc_ref import Dialect, Params
from mhc_ref.exact import Exact
from properties import bounds
from properties.bounds import INF, Approx, Pullback
from properties.case import BranchSpec, Case, map_tensors
from properties.implementation import Implementation, offers
from properties.law import law
from properties.laws.block import branch_input
from properties.laws.coefficients import coefficients
from properties.laws.manifold import exact_shift
from properties.laws.mixing import applied, matrix_cases
from properties.laws.premises import (
    DIM,
    all_of,
    depends_on_logits,
    divided_before_any_eps,
    mixes,
    mixes_in_compute_dtype,
    normalised,
)
from properties.strategies import (
    MODERATE,
    TAME,
    Setting,
    branch_of,
    coefficient_cases,
    cotangent_for,
    logits_of,
    seeds,
    streams,
)
from properties.trial import Trial, wide

GENTLE = (1.0, 30.0, 1e-3, 1e-4, 1e6, 1e-12, 0.0)
"""Sizes of states: among them those at which an eps of 1e-6 is no longer negligible, where backward passes forget it,
those whose fourth power leaves the range of float32, and zero, where an eps alone makes a gradient."""


@st.composite
def projection_pulls(draw: DrawFn, setting: Setting, *, least_n: int = 1, patterns: tuple[str, ...] = MODERATE) -> Case:
    """logits [tokens, n, n] and a cotangent of h_res."""
    n = draw(streams(setting, least_n, 5))
    logits = draw(logits_of(setting, n, most=3, patterns=patterns))
    return Case(logits=logits, cotangent=draw(cotangent_for((logits.shape[0], n, n), setting.parameter_dtype)))


def pulled(trial: Trial, logits: Tensor, cotangent: Tensor) -> Tensor:
    """The implementation's d <cotangent, h_res> / d logits."""

    def run(target: Implementation, z: Tensor) -> Tensor:
        return target.project(z)

    return trial.pull("project", [logits], [cotangent], run)[0]


def gradient_bound(trial: Trial, logits: Tensor, cotangent: Tensor) -> Approx:
    """Its bound."""
    return bounds.projection_gradient(Approx.exact(logits), Approx.exact(cotangent), trial.dialect, trial.rounding)


@law(
    kind="oracle", stage="logits", needs=("project",), cases=projection_pulls, applies=depends_on_logits, gradient=True
)
def projection_pulls_back_the_unrolled_iteration(trial: Trial, case: Case) -> None:
    """The gradient of <cotangent, h_res> by the logits is that of the iteration as it runs, not of its limit.

    mHC section 4.3.1 traverses the entire iteration; implicit differentiation, or the final matrix in every reverse
    step, is exact only at convergence (docs/mathematics.md, Gradient). Cotangents are random: for ones the gradient is
    exactly 0.
    """
    trial.judge_exactly()
    got = pulled(trial, case.logits, case.cotangent)
    bound = gradient_bound(trial, case.logits, case.cotangent)
    trial.within(
        "the gradient of the projection", got, trial.truth.project_vjp(case.logits, case.cotangent), bound.error
    )


@law(
    kind="identity",
    stage="logits",
    needs=("project",),
    cases=lambda s: projection_pulls(s, least_n=2),
    applies=exact_shift,
    gradient=True,
    least_streams=2,
    blind=("h-res-detached", "h-res-transposed"),
)
def exact_shifts_have_no_gradient(trial: Trial, case: Case) -> None:
    """Along the shift that changes nothing, the gradient is zero: its lines sum to 0 at every number of iterations.

    The derivative of an exact invariance (`manifold.exact-shift-invariance`).
    """
    dialect = trial.dialect
    axis = DIM[dialect.start_axis if dialect.start == "softmax" else dialect.first_axis]
    got = wide(pulled(trial, case.logits, case.cotangent))
    bound = gradient_bound(trial, case.logits, case.cotangent)
    # The bound's own value is exact to float64; what its lines do not cancel is float64 noise.
    slack = bound.error.sum(axis) + got.abs().sum(axis) * got.shape[-1] * 2.0**-52
    trial.within("a line sum of the gradient", got.sum(axis), torch.zeros_like(slack), slack)


@law(
    kind="identity",
    stage="logits",
    needs=("project",),
    cases=projection_pulls,
    applies=depends_on_logits,
    gradient=True,
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
        2 * gradient_bound(trial, case.logits, case.cotangent).error + gradient_bound(trial, case.logits, other).error
    )
    slack = (
        slack
        + bounds.projection_gradient(
            Approx.exact(case.logits), Approx(wide(joined), rounded), trial.dialect, trial.rounding
        ).error
    )
    trial.within("the gradient of a combination", both, 2 * wide(one) - wide(two), slack)


@law(
    kind="invariant",
    stage="logits",
    needs=("project",),
    cases=lambda s: projection_pulls(s, least_n=2, patterns=TAME),
    applies=all_of(normalised, divided_before_any_eps),
    gradient=True,
    least_streams=2,
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
    slack = gradient_bound(trial, case.logits, case.cotangent).error.flatten(1).norm(dim=1)
    trial.at_most("the norm of the gradient", got, limit, slack)


# -- the mappings and the whole block ----------------------------------------------------------------------------------

NAMES = ("x", "phi", "bias", "alpha", "norm_weight")


@st.composite
def coefficient_pulls(draw: DrawFn, setting: Setting) -> Case:
    """x, params and a cotangent for each mapping; any of them may be zero (an output that is not used)."""
    small = setting.with_(streams=tuple(n for n in setting.streams if n <= 4) or setting.streams[:1])
    case = draw(coefficient_cases(small, most=2, scales=GENTLE, patterns=TAME))
    tokens, n = case.x.shape[:2]
    dtype = setting.parameter_dtype
    used = draw(st.sampled_from(((1, 1, 1), (1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0))))
    shapes = ((tokens, n), (tokens, n), (tokens, n, n))
    pulls = tuple(draw(cotangent_for(shape, dtype)) * on for shape, on in zip(shapes, used, strict=True))
    return case.with_(cotangents=pulls)


def differentiable(params: Params) -> list[Tensor]:
    """The parameters that there are, in the order of `NAMES`."""
    return [part for part in params if part is not None]


def pull_coefficients(trial: Trial, case: Case) -> list[Tensor]:
    """The implementation's gradients by x and every parameter."""
    emitted = [k for k, name in enumerate(("pre", "post", "res")) if name in trial.implementation.emits]

    def run(target: Implementation, x: Tensor, *parts: Tensor) -> Any:
        found = target.mappings(x, Params(*parts))
        return tuple(found[k] for k in emitted)

    return trial.pull("mappings", [case.x, *differentiable(case.params)], [case.cotangents[k] for k in emitted], run)


def exact_entry(trial: Trial, case: Case, name: str, index: tuple[int, ...]) -> float:
    """mpmath's d <cotangents, mappings> / d (that entry), for one entry of x or of a parameter."""
    exact = Exact(trial.dialect)
    total = 0.0
    params = Params(*(None if part is None else wide(part).tolist() for part in case.params))  # pyright: ignore[reportArgumentType]
    tokens = [index[0]] if name == "x" else range(case.x.shape[0])
    for token in tokens:
        x = wide(case.x[token])
        dx, dparams = None, None
        if name == "x":
            unit = torch.zeros_like(x)
            unit[index[1:]] = 1.0
            dx = unit.tolist()
        else:
            zeros = {
                k: None if part is None else torch.zeros_like(wide(part)) for k, part in case.params._asdict().items()
            }
            one = zeros[name]
            assert one is not None
            one[index] = 1.0
            dparams = Params(**{k: None if part is None else part.tolist() for k, part in zeros.items()})  # pyright: ignore[reportArgumentType]
        _, tangents = exact.mappings_derivative(x.tolist(), params, dx, dparams)
        for k, (part, tangent) in enumerate(zip(("pre", "post", "res"), tangents, strict=True)):
            if part in trial.implementation.emits:
                bars = wide(case.cotangents[k][token]).flatten().tolist()
                flat = [v for row in tangent for v in row] if part == "res" else tangent
                total += float(sum(bar * value for bar, value in zip(bars, flat, strict=True)))
    return total


@law(kind="oracle", stage="state", needs=("mappings",), cases=coefficient_pulls, gradient=True, cost=1.5)
def mappings_pull_back_to_state_and_parameters(trial: Trial, case: Case) -> None:
    """The gradients of the mappings by x, phi, bias, alpha and norm weight are exact, whichever outputs are used.

    The chain rule through norm, projection, gates, sigmoids and the unrolled iteration; a detached stage, a constant
    rms or another eps in the backward pass moves them. Errors are composed stage by stage
    (`bounds.coefficients_gradient`).
    """
    got = pull_coefficients(trial, case)
    bars = [
        Approx.exact(bar if name in trial.implementation.emits else torch.zeros_like(bar))
        for name, bar in zip(("pre", "post", "res"), case.cotangents, strict=True)
    ]
    bound = bounds.coefficients_gradient(
        Approx.exact(case.x), case.params, bars[0], bars[1], bars[2], trial.dialect, trial.rounding
    )
    for name, one in zip(NAMES, got, strict=False):
        expected: Approx = getattr(bound, name)
        if name == "x":
            expected = bounds.stored(expected, trial.rounding)
        expected = Approx(expected.value.reshape(one.shape), expected.error.reshape(one.shape))
        judge_entrywise(
            trial,
            f"the gradient by {name}",
            one,
            expected,
            partial(exact_entry, trial, case, name),
        )


def judge_entrywise(trial: Trial, what: str, got: Tensor, expected: Approx, exact: Any) -> None:
    """Compare with the float64 chain rule; while a failure is confirmed, compare its worst entry with mpmath."""
    if trial.replaying and got.numel():
        ratio = ((wide(got) - expected.value).abs() / expected.error).nan_to_num(nan=float("inf"), posinf=float("inf"))
        ratio = torch.where(torch.isfinite(expected.error), ratio, 0.0)
        index = tuple(int(i) for i in torch.unravel_index(ratio.argmax(), ratio.shape))
        value = expected.value.clone()
        value[index] = exact(index)
        only = torch.full_like(value, float("inf"))
        only[index] = expected.error[index]
        trial.within(what, got, value, only)
        return
    trial.within(what, got, expected.value, expected.error)


@law(
    kind="invariant",
    stage="state",
    needs=("mappings",),
    cases=lambda s: learning_cases(s),
    gradient=True,
    least_streams=2,
    blind=("h-res-transposed", "implicit-backward"),
)
def every_parameter_learns(trial: Trial, case: Case) -> None:
    """Unsaturated mappings of a generic state send a gradient to every entry of bias, to every gate and to phi.

    Each logit moves its mapping; a detached parameter, a mapping computed under no_grad, or a saturated start gets
    none. An entry is asked for where the exact gradient exceeds its bound.
    """
    got = pull_coefficients(trial, case)
    bars = [Approx.exact(bar) for bar in case.cotangents]
    emits = trial.implementation.emits
    bars = [
        bar if name in emits else Approx.exact(torch.zeros_like(bar.value))
        for name, bar in zip(("pre", "post", "res"), bars, strict=True)
    ]
    bound = bounds.coefficients_gradient(
        Approx.exact(case.x), case.params, bars[0], bars[1], bars[2], trial.dialect, trial.rounding
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
    tokens, n = case.x.shape[:2]
    seed = draw(seeds)
    dtype = setting.parameter_dtype
    generator = torch.Generator().manual_seed(seed)
    bars = tuple(
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        for shape in ((tokens, n), (tokens, n), (tokens, n, n))
    )
    return case.with_(cotangents=bars)


@st.composite
def block_pulls(draw: DrawFn, setting: Setting) -> Case:
    """A block with a branch whose derivative is known, and a cotangent of its output."""
    small = setting.with_(streams=tuple(n for n in setting.streams if n <= 4) or setting.streams[:1])
    case = draw(coefficient_cases(small, most=2, scales=(1.0, 30.0), patterns=TAME))
    branch = draw(branch_of(setting, case.x.shape[-1], ("zero", "identity", "scale", "constant")))
    return case.with_(branch=branch, cotangent=draw(cotangent_for(tuple(case.x.shape), setting.dtype)))


def block_gradient(case: Case, dialect: Dialect, trial: Trial) -> Pullback:
    """The pullback of x' = A x + h_post^T F(h_pre x), every stage with its error (the derivation is the chain rule)."""
    r = trial.rounding
    x = Approx.exact(case.x)
    g = Approx.exact(case.cotangent)
    n, channels = case.x.shape[-2:]
    h = coefficients(x, case.params, dialect, r)
    u = branch_input(case.x, h, trial)
    branch: BranchSpec = case.branch
    ones = torch.ones(channels, dtype=torch.float64)
    slope = {"identity": ones, "scale": ones if branch.weight is None else wide(branch.weight)}.get(
        branch.kind, torch.zeros_like(ones)
    )
    g_y = bounds.stored(bounds.contracted("ti,tic->tc", h.post, g, n, r), r)
    g_u = bounds.stored(bounds.times(Approx.exact(slope).expanded(g_y), g_y, r), r)
    y = case.branch(u.value.to(torch.float64))
    y = bounds.stored(Approx(y, slope.abs() * u.error + 2 * r.unit * y.abs()), r)
    post = bounds.contracted("tic,tc->ti", g, y, channels, r)
    pre = bounds.contracted("tc,tjc->tj", g_u, x, channels, r)
    outer = bounds.contracted("tic,tjc->tij", g, x, channels, r)
    res = Approx(applied(outer.value, dialect), applied(outer.error, dialect))
    through = bounds.coefficients_gradient(x, case.params, pre, post, res, dialect, r)
    operator = Approx(applied(h.res.value, dialect), applied(h.res.error, dialect))
    direct = bounds.stored(bounds.contracted("tij,tic->tjc", operator, g, n, r), r)
    read = bounds.stored(bounds.contracted("tj,tc->tjc", h.pre, g_u, 1, r), r)
    mapped = bounds.stored(through.x, r)
    total = bounds.plus(direct, read, mapped, r=r)
    # A state below float32 sums the gradients of its uses in its own dtype: one for every stream that it is mixed into,
    # one for the branch, and the mappings', which are counted where they arise.
    mixed = torch.einsum("tij,tic->tjc", operator.value.abs(), g.value.abs())
    size = mixed + read.value.abs() + mapped.value.abs() + total.error
    return through._replace(x=Approx(total.value, total.error + (n + 2) * r.state_unit * size))


@law(
    kind="oracle",
    stage="state",
    needs=("block",),
    cases=block_pulls,
    gradient=True,
    excuse=mixes_in_compute_dtype,
    cost=1.5,
)
def block_pulls_back_to_state_and_parameters(trial: Trial, case: Case) -> None:
    """The gradients of a whole block by its state and its parameters are exact.

    Three paths lead back to x: through A^T, through h_pre and the branch, and through the mappings; mixing errors
    come from all.
    """

    def run(target: Implementation, x: Tensor, *parts: Tensor) -> Any:
        return target.block(x, Params(*parts), case.branch)

    got = trial.pull("block", [case.x, *differentiable(case.params)], [case.cotangent], run)
    bound = block_gradient(case, trial.dialect, trial)
    for name, one in zip(NAMES, got, strict=False):
        expected: Approx = getattr(bound, name)
        expected = Approx(expected.value.reshape(one.shape), expected.error.reshape(one.shape))
        judge_entrywise(
            trial,
            f"the gradient by {name}",
            one,
            expected,
            partial(exact_block_entry, trial, case, name),
        )


def exact_block_entry(trial: Trial, case: Case, name: str, index: tuple[int, ...]) -> float:
    """mpmath's d <cotangent, block> / d (that entry)."""
    exact = Exact(trial.dialect)
    params = Params(*(None if part is None else wide(part).tolist() for part in case.params))  # pyright: ignore[reportArgumentType]
    branch: BranchSpec = case.branch
    weight = None if branch.weight is None else wide(branch.weight).tolist()
    total = 0.0
    for token in [index[0]] if name == "x" else range(case.x.shape[0]):
        x = wide(case.x[token])
        dx, dparams = None, None
        if name == "x":
            unit = torch.zeros_like(x)
            unit[index[1:]] = 1.0
            dx = unit.tolist()
        else:
            zeros = {
                k: None if part is None else torch.zeros_like(wide(part)) for k, part in case.params._asdict().items()
            }
            one = zeros[name]
            assert one is not None
            one[index] = 1.0
            dparams = Params(**{k: None if part is None else part.tolist() for k, part in zeros.items()})  # pyright: ignore[reportArgumentType]

        def value(u: Any) -> Any:
            if branch.kind == "identity":
                return list(u)
            if branch.kind == "zero" or weight is None:
                return [exact.mp.mpf(0) for _ in u]
            return (
                [exact.mp.mpf(w) for w in weight]
                if branch.kind == "constant"
                else [w * a for w, a in zip(weight, u, strict=True)]
            )

        def slope(u: Any, du: Any) -> Any:
            if branch.kind == "identity":
                return list(du)
            if branch.kind == "scale" and weight is not None:
                return [w * a for w, a in zip(weight, du, strict=True)]
            return [exact.mp.mpf(0) for _ in du]

        _, tangent = exact.block_derivative(x.tolist(), params, value, dx, dparams, slope)
        bars = wide(case.cotangent[token]).tolist()
        total += float(
            sum(b * v for bar, row in zip(bars, tangent, strict=True) for b, v in zip(bar, row, strict=True))
        )
    return total


@st.composite
def mixing_pulls(draw: DrawFn, setting: Setting) -> Case:
    """Any h_post, h_res, state and branch output, and cotangents of what post and pre make of them."""
    case = draw(matrix_cases(setting))
    tokens, _, channels = case.x.shape
    pulls = (tuple(case.x.shape), (tokens, channels))
    return case.with_(cotangents=tuple(draw(cotangent_for(shape, setting.dtype)) for shape in pulls))


@law(
    kind="oracle",
    stage="state",
    needs=("post",),
    cases=mixing_pulls,
    gradient=True,
    excuse=mixes_in_compute_dtype,
    cost=1.5,
)
def pre_and_post_pull_back_to_every_factor(trial: Trial, case: Case) -> None:
    """The gradients of pre and post by state, branch output and mappings are those of their sums of products.

    Both are bilinear: the gradient by one factor is the cotangent contracted with the other, in the compute dtype; that
    by a state, which may be the sum of a contribution from every stream, is rounded to the state's dtype once for each.
    """
    r = trial.rounding
    n, channels = case.x.shape[-2:]
    x, y, h_post = Approx.exact(case.x), Approx.exact(case.y), Approx.exact(case.h_post)
    operator = Approx.exact(applied(case.h_res, trial.dialect))
    bar, read = (Approx.exact(one) for one in case.cotangents)

    def by_state(equation: str, left: Approx, right: Approx, count: int) -> Approx:
        summed = bounds.contracted(equation, left, right, count, r)
        size = torch.einsum(equation, left.value.abs(), right.value.abs())
        return Approx(summed.value, summed.error + (n + 1) * (r.state_unit * size + r.state_tiny))

    outer = bounds.contracted("tic,tjc->tij", bar, x, channels, r)
    h_res = Approx(applied(outer.value, trial.dialect), applied(outer.error, trial.dialect))
    if mixes(trial.dialect):  # the identity need not be read
        h_res = Approx(h_res.value, torch.full_like(h_res.error, float("inf")))
    expected = {
        "post": (
            ("the state", by_state("tij,tic->tjc", operator, bar, n)),
            ("the branch output", by_state("ti,tic->tc", h_post, bar, n)),
            ("h_post", bounds.contracted("tic,tc->ti", bar, y, channels, r)),
            ("h_res", h_res),
        ),
        "pre": (
            ("the state", by_state("tj,tc->tjc", h_post, read, 1)),
            ("h_pre", bounds.contracted("tc,tjc->tj", read, x, channels, r)),
        ),
    }
    given = {"post": ([case.x, case.y, case.h_post, case.h_res], bar), "pre": ([case.x, case.h_post], read)}
    for k, method in enumerate(("post", "pre")):
        if method not in offers(trial.implementation):
            continue

        def run(target: Implementation, *parts: Tensor, method: str = method) -> Any:
            return getattr(target, method)(*parts)

        got = trial.pull(method, given[method][0], [case.cotangents[k]], run)
        for (name, exact), one in zip(expected[method], got, strict=True):
            trial.within(f"the gradient of {method} by {name}", one, exact.value, exact.error)


@law(
    kind="identity",
    stage="state",
    needs=("block",),
    cases=lambda s: residual_pulls(s),
    gradient=True,
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
