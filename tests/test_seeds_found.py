"""What seeds on the controls have found: each accused a correct implementation once, or failed in code of ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from properties.campaign.kinds.seeds import outcome_of
from properties.commands.kill_rows import Task

FOUND = {
    "gradients of float16 states beyond 65504": (
        *("half", "RESIDUAL", "float16", "execution.recomputation-does-not-matter"),
        *(4, 0),
    ),
    "a third of phi in bfloat16": ("short-parameters", "KROMHC", "bfloat16", "gradient.many-passes-may-wait", 5, 1),
    "a control tuned to another dynamic": (
        *("attention-scores-divided", "ATTN_RES", "float32", "coefficients.tuned-fields-are-used"),
        *(2, 1),
    ),
    "squares beyond float32 that are summed with compensation": (
        *("compensated", "KROMHC", "bfloat16", "coefficients.gates-stay-in-their-range"),
        *(5, 5),
    ),
    "squares beyond float32 of what is centred": (
        *("norm-by-layer-norm", "PAPER with a LayerNorm of all streams", "float32"),
        *("coefficients.gates-stay-in-their-range", 1, 2),
    ),
    "a control tuned to a softmax of its own": (
        *("softmax-start", "PAPER", "float64", "coefficients.tuned-fields-are-used"),
        *(8, 2),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", FOUND)
def test_what_a_seed_flagged_is_flagged_no_more(what: str, tmp_path: Path) -> None:
    name, preset, dtype, law, n, seed = FOUND[what]
    found = outcome_of((Task("control", name, preset, dtype, 3, (law,)), n, seed), tmp_path)
    assert found["exercised"] == 1
    assert found["wrong"] == []
