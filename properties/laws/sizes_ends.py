"""Sizes of the ends of a stack, backwards: how the streams begin and end, for any number of tokens and channels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import mhc_ref
from mhc_ref import Params
from properties import bounds
from properties.bounds import Approx
from properties.core.case import Case
from properties.core.implementation import Implementation
from properties.core.premises import differentiable
from properties.core.sweep import At, Kept
from properties.core.trial import Trial, wide
from properties.core.truth import Truth, present
from properties.laws import about, sizes_calls
from properties.laws.sizes import ONCE
from properties.laws.sizes_backwards import OF_PARAMETERS, by_name, parameter_names, running
from properties.laws.sizes_calls import Named, Stage, swept
from properties.laws.sizes_pulls import pulled
from properties.strategies import sweeps_pairwise as pairwise
from properties.strategies import sweeps_together as together
from properties.strategies.sweep_inputs import BACKWARDS
from properties.strategies.sweeps_backwards import mixture_runs, product_runs


def _head(case: Case) -> Params | None:
    return case.params if "params" in case else None


def _end(trial: Trial, case: Case) -> Named:
    head = _head(case)

    def run(target: Implementation, x: Tensor, *parts: Tensor) -> Any:
        return target.collapse(x, Params(*parts)) if parts else target.collapse(x)

    names = ("x", *parameter_names(head)) if head else ("x",)
    given = [case.x, *(present(head) if head else ())]
    return pulled(trial, "collapse", names, given, case, run, ["the collapsed state"])


def _ended(trial: Trial, case: Case) -> At:
    head, r = _head(case), trial.rounding
    found = bounds.pullback.collapse(Approx.exact(case.x), case.cotangents[0], trial.dialect, r, head, each=True)
    if isinstance(found, Approx) or head is None:
        return Kept({"the gradient by x": found if isinstance(found, Approx) else found.x})
    return running(found, head, trial.rounding)


def _end_exactly(truth: Truth, case: Case) -> Named:
    head = _head(case)
    found = truth.collapse_vjp(case.x, head, case.cotangents[0])
    return by_name(head, found) if head else {"the gradient by x": found[0]}


COLLAPSE = Stage("collapse", _end, _ended, _end_exactly, OF_PARAMETERS, sizes_calls.COLLAPSE)


def _begin(trial: Trial, case: Case) -> Named:
    def run(target: Implementation, h: Tensor) -> Any:
        return target.expand(h, case.n)

    return pulled(trial, "expand", ("h",), [case.h], case, run, ["the expanded streams"])


def _begun(trial: Trial, case: Case) -> At:
    bar = Approx.exact(case.cotangents[0])
    return Kept({"the gradient by h": bounds.pullback.expand(case.h, case.n, bar, trial.dialect, trial.rounding)})


def _begin_exactly(truth: Truth, case: Case) -> Named:
    h = wide(case.h).requires_grad_()
    with torch.enable_grad():
        begun = mhc_ref.expand(h, case.n, truth.dialect)
    return {"the gradient by h": torch.autograd.grad(begun, h, wide(case.cotangents[0]))[0]}


EXPAND = Stage("expand", _begin, _begun, _begin_exactly, forth=sizes_calls.EXPAND)

ENDED = swept("collapse" + BACKWARDS, product_runs, together.ends_back, pairwise.ends_back)
BEGUN = swept("expand" + BACKWARDS, mixture_runs, together.called_back, pairwise.MIXTURES_BACK)


@about.collapse("sizes.ends-pull-back", "oracle", ENDED.draw, differentiable, schedule=ONCE, sweep=ENDED.sweep)
def ends_pull_back(trial: Trial, case: Case) -> None:
    """The gradients of how streams end, by the streams and by the parameters of a head, for any number of tokens and
    channels.

    A head is passed once for all tokens, in chunks where they are many: what its parameters get is a sum over chunks.
    """
    COLLAPSE.hold(trial, case)


@about.expand("sizes.beginnings-pull-back", "identity", BEGUN.draw, differentiable, schedule=ONCE, sweep=BEGUN.sweep)
def beginnings_pull_back(trial: Trial, case: Case) -> None:
    """The gradient of how streams begin is the sum over its copies for any number of tokens and channels.

    As for their ends.
    """
    EXPAND.hold(trial, case)
