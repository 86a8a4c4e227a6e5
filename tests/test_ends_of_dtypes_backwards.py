"""Gradients at the ends of a dtype: nothing is claimed where a correct implementation may have no number."""

from __future__ import annotations

import torch

from mhc_ref import PAPER, Dialect, Params
from properties.core.case import BranchSpec, Case
from properties.core.implementation import Implementation, Reference
from properties.core.law import all_laws
from properties.core.trial import FloatTruth, Trial

HALF = torch.float16


def holds(law: str, target: Implementation, dialect: Dialect, case: Case) -> Trial:
    """The bench on which a law holds at a case of float16 states."""
    trial = Trial(target, HALF, torch.device("cpu"), FloatTruth(dialect))
    all_laws()[law].judge(trial, case)
    return trial


def test_a_gate_of_a_state_beyond_float16_may_have_no_derivative() -> None:
    # The second state is infinite, its gates are NaN, and 0, the cotangent of h_post, times their derivative is NaN.
    params = Params(torch.ones(1, 3), torch.full((3,), 8.0), torch.full((3,), 2.0**-9))
    case = Case(
        x=torch.tensor([[[30000.0]]], dtype=HALF),
        params=(params, params),
        branches=(BranchSpec("identity"), BranchSpec("zero")),
        cotangent=torch.ones(1, 1, 1, dtype=HALF),
    )
    law = "gradient.layers-pull-back-to-the-state-and-every-layer"
    for dynamic in ("linear", "tanh"):
        dialect = PAPER.with_(dynamic=dynamic)
        holds(law, Reference(dialect), dialect, case)
