"""A batch is held to its parts where that says something: it has parts, and its bound is far below what it gives."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

from mhc_ref import DEEPSEEK_V4
from properties.core.case import Case
from properties.core.implementation import Reference
from properties.core.trial import FloatTruth, Trial
from properties.guards.surroundings import drawn_alike
from properties.laws import errors
from properties.laws.calls import constant
from properties.laws.execution_shapes import batches
from properties.strategies import Setting, agreeing_state

QUIET: list[HealthCheck] = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


@pytest.mark.slow
def test_bounds_of_a_batch_against_its_parts_say_something() -> None:
    setting = Setting(DEEPSEEK_V4, (2, 4), torch.float32)
    trial = Trial(Reference(DEEPSEEK_V4), torch.float32, torch.device("cpu"), FloatTruth(DEEPSEEK_V4))
    found: list[Case] = []

    @settings(max_examples=8, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=QUIET)
    @given(batches(setting))
    def draw(case: Case) -> None:
        found.append(case)

    with drawn_alike():
        for run in range(4):
            seed(run)(draw)()
    assert all(len(case.x) > 1 for case in found)
    assert any(case.x.shape[-1] > 1000 for case in found)
    total, empty, vague = 0, 0, 0
    for case in found:
        y = constant(case.x)(case.x[..., 0, :])
        value = trial.truth.block(case.x, case.params, y)[1].abs()
        bound = 2 * errors.block(trial, case.x, case.params, y)
        total, empty = total + value.numel(), empty + int((bound >= value).sum())
        vague += int((bound >= value / 10).sum())
    assert empty < 0.02 * total
    assert vague < 0.15 * total


@pytest.mark.parametrize("seed", range(3))
def test_states_of_one_sign_are_laid_out_in_order(seed: int) -> None:
    """Who declares `strided = False` is given nothing else."""
    assert agreeing_state(seed, 7, 2, 1031, torch.float32).is_contiguous()
    assert agreeing_state(seed, 2, 2, 67, torch.bfloat16).is_contiguous()
