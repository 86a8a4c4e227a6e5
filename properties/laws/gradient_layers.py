"""Gradient: of several layers that are fused, by what is handed over in other ways."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from properties.core.case import BranchSpec, Case
from properties.core.law import Schedule
from properties.core.premises import differentiable
from properties.core.trial import Trial
from properties.laws import about, gradient_draws, pulls, pulls_called, shared
from properties.laws.execution_layers import FUSED, few_layers
from properties.laws.premises import fused, mixes_in_compute_dtype
from properties.strategies import Setting, quietened

FEW = Schedule(cost=5, by_streams=False, most=2)


@st.composite
def stacks_to_pull(draw: DrawFn, setting: Setting) -> Case:
    """One stream, a few layers with gates that are nearly closed, a head where there is one, and a cotangent."""
    case = draw(few_layers(setting))
    params = case.params if setting.crowd else tuple(map(quietened, case.params))
    # A gradient is added to itself, and has to stay within half of the range of float16.
    share = 1.0 if len(params) == 2 else 0.25
    branches = tuple(BranchSpec("scale", share * one.weight) for one in case.branches)
    h, bar = (one[:, 0].clone() for one in (case.x, case.other))
    return Case(h=h, n=case.n, params=params, branches=branches, head=case.head, cotangent=bar)


@about.stack(
    "gradient.stacks-pull-back-however-they-are-called",
    "identity",
    stacks_to_pull,
    fused(*FUSED),
    differentiable,
    mixes_in_compute_dtype,
    blind=about.ALIKE,
    schedule=FEW,
)
def stacks_pull_back_however_they_are_called(trial: Trial, case: Case) -> None:
    """The gradients of a stack are the same a second time, for any layout of the cotangent, by some of the inputs, by
    those of one layer alone, and after other calls; of what layers share they are the sum over these, and where
    branches draw, those of what they drew forwards.

    As for projections. In fine-tuning the first layers are frozen, or all but the head; a head is a linear layer whose
    weight lies transposed.
    """
    pulls_called.does_not_see_how_it_is_called(trial, pulls.stack(trial, case))
    gradient_draws.stacks_have_one_mask(trial, case)
    shared.adds_up_over_layers(trial, case, lambda own: pulls.stack(trial, own))
