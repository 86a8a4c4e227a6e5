"""Gradient: through the ends of a stack alone."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from mhc_ref import Params
from properties import bounds
from properties.bounds import Approx
from properties.core.case import Case
from properties.core.family import begin_of, end_of
from properties.core.implementation import Implementation
from properties.core.premises import differentiable
from properties.core.trial import Trial
from properties.core.truth import present
from properties.laws import about
from properties.laws.gradient_block import cotangent_of
from properties.laws.gradient_extremes import FAR
from properties.laws.gradient_mappings import GENTLE, NAMES
from properties.strategies import TAME, Setting, among, params_of, saturating, states_of, streams, width_among


@st.composite
def end_pulls(draw: DrawFn, setting: Setting) -> Case:
    """A state, a head whose gates may be saturated, and a cotangent of the shape of the state."""
    n, channels = draw(streams(setting, 1)), draw(width_among(setting, 3, 1, 7))
    x = draw(states_of(setting, n, channels, most=3, scales=GENTLE))
    head = draw(params_of(setting, n, channels, gates=(1.0, 0.5, 0.0), patterns=TAME, least_phi=2))
    head = saturating(head, n, draw(among(0.0, 0.0, 0.0, *FAR)) * setting.stretch)
    return Case(x=x, head=head, cotangent=draw(cotangent_of(setting, x)))


@about.expand(
    "gradient.expand-sums-its-cotangents",
    "identity",
    end_pulls,
    differentiable,
    blind=about.ALIKE,
    schedule=about.SELDOM,
)
def expand_sums_its_cotangents(trial: Trial, case: Case) -> None:
    """The gradient by what expand copied is the sum of the cotangents of all its copies.

    <expand(h), g> = <h, sum_i b_i g_i> where stream i begins as b_i h. A state below float32 may add them up in its own
    dtype, n roundings at most.
    """
    r, g = trial.rounding, Approx.exact(case.cotangent)
    n = case.x.shape[-2]

    def run(target: Implementation, h: Tensor) -> Tensor:
        return target.expand(h, n)

    got = trial.pull("expand", [case.x[..., 0, :]], [case.cotangent], run)[0]
    each = begin_of(trial.dialect).weights(n, trial.dialect).unsqueeze(-1) * g.value
    error = (r.gamma(n) + n * r.state_unit) * each.abs().sum(-2)
    expected = bounds.stored(Approx(each.sum(-2), error), r)
    trial.within("the gradient by h", got, expected.value, expected.error)


@about.collapse(
    "gradient.collapse-pulls-back-to-every-stream",
    "oracle",
    end_pulls,
    differentiable,
    blind=about.ALIKE,
)
def collapse_pulls_back_to_every_stream(trial: Trial, case: Case) -> None:
    """The gradient of the collapsed state is its cotangent for every stream, an n-th of it for a mean, and for a head
    that of its gated sum, by the streams and by its parameters.

    Collapse is linear in the streams but for the gates of a head, which are mappings of a state like any other; streams
    are then read directly and through the gates, and a state below float32 rounds and adds both in its own dtype. Its
    norm has an eps, and its sigmoid saturates, as those of a block do.
    """
    trial.judge_exactly()
    bar = case.cotangent[..., 0, :].contiguous()
    head: Params | None = case.head if end_of(trial.dialect).HEAD else None
    parts = present(head) if head else []

    def run(target: Implementation, x: Tensor, *given: Tensor) -> Any:
        return target.collapse(x, Params(*given)) if given else target.collapse(x)

    got = trial.pull("collapse", [case.x, *parts], [bar], run)
    exact = trial.truth.collapse_vjp(case.x, head, bar)
    found = bounds.pullback.collapse(Approx.exact(case.x), bar, trial.dialect, trial.rounding, head)
    bound = [found] if isinstance(found, Approx) else list(found)
    for name, one, value, expected in zip(NAMES, got, exact, bound, strict=False):
        trial.within(f"the gradient of collapse by {name}", one, value, expected.error.reshape(value.shape))
