"""Coefficients: what the mappings h_pre, h_post, h_res of a state and its parameters must satisfy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from mhc_ref import Dialect, Mappings, Params
from mhc_ref.packing import logits_shape
from properties.bounds import Approx, Coefficients
from properties.core.case import Case
from properties.core.family import gate_of
from properties.core.law import law
from properties.core.norms import norm_of
from properties.core.premises import emits_res, where
from properties.core.trial import Trial, wide
from properties.laws import about, errors
from properties.laws.premises import centres, depends_on_logits, gated, reads_by_gates
from properties.strategies import Setting, coefficient_cases, noise, saturating, seeds


def agree(
    trial: Trial,
    what: str,
    got: Mappings,
    expected: Mappings,
    slack: Coefficients,
    double: bool = False,
    only: str = "",
) -> None:
    """Every emitted mapping within its bound; `double`: within twice the bound of what the implementation gave too."""
    for name, bound in slack.parts().items():
        if name in trial.implementation.emits and (not only or name == only):
            one, other = getattr(got, name), getattr(expected, name)
            if double:
                trial.near(f"h_{name} {what}".strip(), one, other, 2 * bound.error, size=1.0)
            else:
                trial.within(f"h_{name} {what}".strip(), one, other, bound.error, size=1.0)


@about.mappings(
    "coefficients.agrees-with-oracle",
    "oracle",
    lambda s: coefficient_cases(s, most=3, tails=True),
    schedule=about.MORE,
)
def agrees_with_oracle(trial: Trial, case: Case) -> None:
    """h_pre, h_post and h_res are those of the declared dialect, within what rounding explains.

    mHC eq. (7) and (8) in the dialect's terms; the bound is composed stage by stage for this very token.
    """
    trial.judge_exactly()
    got = trial.mappings(case.x, case.params)
    agree(trial, "", got, trial.truth.mappings(case.x, case.params), errors.mappings(trial, case.x, case.params))


def between(one: Coefficients, other: Coefficients) -> Coefficients:
    """Errors of which twice as much is the sum of both: of two calls with errors of their own."""
    pairs = zip(one.parts().values(), other.parts().values(), strict=True)
    return Coefficients(*(Approx(a.value, (a.error + b.error) / 2) for a, b in pairs))


@st.composite
def saturated_cases(draw: DrawFn, setting: Setting, **options: Any) -> Case:
    """Parameters of ordinary size, or with biases of the gates whose exponentials overflow."""
    case = draw(coefficient_cases(setting, **options))
    far = draw(st.sampled_from((0.0, 1000.0, 100.0, -1000.0)))
    return case.with_(params=saturating(case.params, case.x.shape[-2], far, alike=draw(st.booleans())))


@about.mappings(
    "coefficients.gates-stay-in-their-range",
    "invariant",
    saturated_cases,
    where(reads_by_gates, gated),
    blind=("h-res-transposed", "one-iteration", "gates-ignored"),
)
def gates_stay_in_their_range(trial: Trial, case: Case) -> None:
    """h_pre lies in [pre_eps, 1 + pre_eps] and h_post in [post_eps, post_scale + post_eps].

    Both are sigmoids, whatever the state and the parameters, and those of huge logits are 0 and 1, not inf / inf. What
    is added to them is a number of the dtype in which gates are computed, too.
    """
    got = trial.mappings(case.x, case.params)
    dialect, gates, r = trial.dialect, trial.rounding.at("gates"), trial.rounding.at("norm")
    over = norm_of(dialect).OVER or (-2, -1)
    mean = _normed(case.x, dialect).square().mean(over, keepdim=True)
    # 0 / 0: nothing is claimed. An eps that is no normal number of the dtype of the norm may be 0 in it.
    undefined = (mean < 4 * r.tiny).any(-1).any(-1) & (dialect.rms_eps < 4 * r.tiny)
    if not trial.implementation.full_scale:  # a sum of squares that is no number may become inf - inf on its way
        undefined = undefined | r.beyond(wide(case.x).square().sum(over, keepdim=True)).any(-1).any(-1)
    for name, scale, low in (("pre", 1.0, dialect.pre_eps), ("post", dialect.post_scale, dialect.post_eps)):
        high = scale + low
        if name not in trial.implementation.emits:
            continue
        value = wide(getattr(got, name))
        slack = torch.full_like(value, 8 * gates.unit * max(1.0, high))
        slack = torch.where(undefined.unsqueeze(-1), float("inf"), slack)
        trial.at_most(f"h_{name} above its range", value, torch.full_like(value, high), slack, size=1.0)
        trial.at_most(f"h_{name} below its range", -value, torch.full_like(value, -low), slack, size=1.0)


def _normed(x: Tensor, dialect: Dialect) -> Tensor:
    """What of a state is divided by the root of its mean square, in float64."""
    over = norm_of(dialect).OVER or (-2, -1)
    return wide(x) - wide(x).mean(over, keepdim=True) if dialect.centred else wide(x)


def _ordinary(x: Tensor) -> Tensor:
    """A state of the shape of x, whose numbers are of order 1 and not all equal."""
    return 1 + torch.arange(x.numel(), device=x.device).view(x.shape).remainder(3).to(x.dtype)


@st.composite
def zero_logit_cases(draw: DrawFn, setting: Setting) -> Case:
    """phi and bias of zeros with any gates."""
    case = draw(coefficient_cases(setting, most=2))
    params: Params = case.params
    return case.with_(params=params._replace(phi=torch.zeros_like(params.phi), bias=torch.zeros_like(params.bias)))


@about.mappings(
    "coefficients.zero-logits-have-known-values",
    "identity",
    zero_logit_cases,
    where(reads_by_gates),
    blind=("h-res-transposed", "bias-dropped"),
)
def zero_logits_have_known_values(trial: Trial, case: Case) -> None:
    """Logits of zero give sigmoid 1/2, softmax 1/n, and a uniform h_res.

    Closed forms: h_pre = 1/2 + pre_eps, h_post = post_scale / 2 + post_eps (1 for the paper's 2 sigma); every line of
    a constant matrix is constant.
    """
    dialect = trial.dialect
    n = case.x.shape[-2]
    got, bound = trial.mappings(case.x, case.params), errors.mappings(trial, case.x, case.params)
    empty = torch.zeros(case.x.shape[:-1], dtype=torch.float64)  # not of what is emitted, which need not be h_pre
    pre = empty + gate_of(dialect.pre).at_zero(n, dialect) + dialect.pre_eps
    post = empty + dialect.post_scale * gate_of(dialect.post).at_zero(n, dialect) + dialect.post_eps
    res = trial.truth.mappings(case.x, case.params).res
    agree(trial, "of zero logits", got, Mappings(pre, post, res), bound)


@st.composite
def scaled_cases(draw: DrawFn, setting: Setting) -> Case:
    """A state of ordinary size and a power of two."""
    scales = (1.0, 8.0) if setting.dtype == torch.float16 else (1.0, 1e3, 30.0)
    case = draw(coefficient_cases(setting, most=2, scales=scales, gates=(1.0, 0.5, 2.0), least_phi=1))
    most = 3 if setting.dtype == torch.float16 else 20
    return case.with_(factor=2.0 ** draw(st.integers(1, most) | st.integers(-2, -1)))


def _blind_to_scale(dialect: Dialect) -> str | None:
    return None if norm_of(dialect).OVER else f"the norm over {dialect.norm_over} sees the scale of a state"


@about.mappings(
    "coefficients.coefficients-do-not-see-the-scale",
    "identity",
    scaled_cases,
    where(reads_by_gates, _blind_to_scale),
    blind=about.SYMMETRIC,
)
def coefficients_do_not_see_the_scale(trial: Trial, case: Case) -> None:
    """The mappings of c x are those of x, c > 0, but for what the eps of the norm makes of it.

    The state is divided by its own rms. With an eps the relative change of the rms is at most eps / (2 mean x^2) inside
    the root and eps / rms outside, and nothing above the size at which a norm is clamped. It is carried through the
    stages as an error of the state; so is what a number loses that c x makes subnormal, which float16 does to small
    ones. Each call has the error that rounding makes at its own state: the squares of c x may be beyond the dtype.
    """
    x, scaled = case.x, case.x * case.factor
    dialect = trial.dialect
    over = norm_of(dialect).OVER or (-2, -1)
    smaller = torch.minimum(*(_normed(one, dialect).square().mean(over, keepdim=True) for one in (x, scaled)))
    eps = dialect.rms_eps
    if dialect.rms_eps_by == "clamp":  # a norm at its floor sees the scale
        count = math.prod(x.shape[d] for d in over)
        change = torch.where(smaller * count > 1.01 * eps**2, 0.0, torch.where(smaller > 0, math.inf, 0.0))
    else:
        change = eps / (2 * smaller) if dialect.rms_eps_inside else eps / smaller.sqrt()
        change = torch.where(smaller > 0, change, 0.0 if not eps else 1.0)
    change = change.expand(x.shape)
    first, second = trial.mappings(x, case.params), trial.mappings(scaled, case.params)
    lost = (wide(scaled) / case.factor - wide(x)).abs()
    moved = errors.mappings(trial, Approx(wide(x), wide(x).abs() * change + lost), case.params)
    slack = between(moved, errors.mappings(trial, scaled, case.params))
    agree(trial, f"of {case.factor:g} x", second, first, slack, double=True)


@st.composite
def offset_cases(draw: DrawFn, setting: Setting) -> Case:
    """A state of few bits, and another one: that with a number added to each stream that leaves it those bits."""
    case = draw(coefficient_cases(setting, most=1, scales=(1.0,), gates=(1.0, 0.5, 2.0), least_phi=2))
    n = case.x.shape[-2]
    x = (4 * torch.tensor(noise(draw(seeds), *case.x.shape))).round().clamp(-16, 16) / 4
    short = setting.dtype == torch.bfloat16
    shift = torch.full((n, 1), draw(st.sampled_from((16.0, -8.0) if short else (16.0, -64.0, 256.0))))
    if norm_of(setting.dialect).OVER == (-1,):
        shift = shift * torch.tensor((-0.5) ** (np.arange(n) % 3)).view(n, 1)
    return case.with_(x=x.to(setting.dtype), other=(x + shift).to(setting.dtype))


@about.mappings(
    "coefficients.coefficients-do-not-see-an-offset",
    "identity",
    offset_cases,
    where(reads_by_gates, centres),
    blind=about.SYMMETRIC,
)
def coefficients_do_not_see_an_offset(trial: Trial, case: Case) -> None:
    """The mappings of x + c are those of x, where c is one number for all that are normalised together.

    Their mean is subtracted before anything else is done with them: mean(x + c) = mean(x) + c. What rounding leaves of
    it is as large as the mean is, and a variance of moments, or a mean in a short dtype, leaves more.
    """
    first, second = trial.mappings(case.x, case.params), trial.mappings(case.other, case.params)
    slack = errors.mappings(trial, case.other, case.params)
    agree(trial, "of a state with an offset", second, first, slack, double=True)


@about.mappings(
    "coefficients.tokens-are-independent", "identity", lambda s: coefficient_cases(s, most=5), blind=about.SYMMETRIC
)
def tokens_are_independent(trial: Trial, case: Case) -> None:
    """A token's mappings do not depend on the other tokens, nor on their order or number.

    The mappings are functions of one token; an early stop for a whole batch, or a buffer without a token axis, breaks
    this.
    """
    x = case.x
    together = trial.mappings(x, case.params)
    bound = errors.mappings(trial, x, case.params)
    turned = trial.mappings(x.flip(0).contiguous(), case.params)
    agree(
        trial,
        "in another order of tokens",
        turned,
        Mappings(*(part.flip(0) for part in together)),
        _flip(bound),
        double=True,
    )
    alone = trial.mappings(x[:1].clone(), case.params)
    first = Coefficients(*(Approx(p.value[:1], p.error[:1]) for p in bound.parts().values()))
    agree(trial, "of the first token alone", alone, Mappings(*(part[:1] for part in together)), first, double=True)


def _flip(bound: Coefficients) -> Coefficients:
    return Coefficients(*(Approx(part.value.flip(0), part.error.flip(0)) for part in bound.parts().values()))


@about.mappings(
    "coefficients.closed-gates-leave-the-bias",
    "identity",
    lambda s: saturated_cases(s, most=3, gates=(0.0,)),
    where(reads_by_gates),
    blind=("h-res-transposed", "norm-missing"),
)
def closed_gates_leave_the_bias(trial: Trial, case: Case) -> None:
    """With gates of 0 the mappings are those of the bias alone, the same for every state.

    logit = alpha * (...) + bias.
    """
    got = trial.mappings(case.x, case.params)
    bare: Params = case.params._replace(phi=torch.zeros_like(case.params.phi))
    expected = trial.mappings(_ordinary(case.x), bare)
    agree(trial, "with gates of 0", got, expected, errors.mappings(trial, case.x, case.params), double=True)


@st.composite
def zero_state_cases(draw: DrawFn, setting: Setting) -> Case:
    """A zero token among others."""
    case = draw(coefficient_cases(setting, most=2))
    x = case.x.clone()
    x[0] = 0
    return case.with_(x=x)


def _norm_eps(dialect: Dialect) -> str | None:
    return None if dialect.has_rms_eps else "without an eps in the norm a zero state is 0 / 0"


@about.mappings(
    "coefficients.zero-tokens-see-only-the-bias",
    "identity",
    zero_state_cases,
    where(reads_by_gates, _norm_eps),
    blind=("h-res-transposed", "gates-ignored"),
)
def zero_tokens_see_only_the_bias(trial: Trial, case: Case) -> None:
    """A token of zeros has the mappings of the bias alone.

    0 / sqrt(0 + eps) = 0, so x^ phi = 0.
    """
    got = trial.mappings(case.x[:1], case.params)
    bare: Params = case.params._replace(phi=torch.zeros_like(case.params.phi))
    expected = trial.mappings(_ordinary(case.x[:1]), bare)
    agree(trial, "of a zero token", got, expected, errors.mappings(trial, case.x[:1], case.params), double=True)


@law(
    "coefficients.residual-mapping-is-the-projection-of-its-logits",
    "identity",
    lambda s: coefficient_cases(s, most=1),
    emits_res,
    where(depends_on_logits),
    needs=("mappings", "project"),
    blind=("emitted-transposed", "one-iteration"),
)
def residual_mapping_is_the_projection_of_its_logits(trial: Trial, case: Case) -> None:
    """With gates of 0, h_res is `project` of the residual third of the bias, row-major.

    The two entrances of an implementation compute the same function.
    """
    n = case.x.shape[-2]
    params: Params = case.params._replace(alpha=torch.zeros_like(case.params.alpha))
    logits = params.bias[2 * n :]
    got = trial.mappings(case.x[:1], params).res
    expected = trial.project(logits.view(1, *logits_shape(n, trial.dialect)))
    trial.near("h_res of the bias", got, wide(expected), 2 * errors.mappings(trial, case.x[:1], params).res.error)
