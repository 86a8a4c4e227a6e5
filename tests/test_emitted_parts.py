"""Implementations that emit some of the three mappings alone: laws of the others say nothing, and none accuses them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import mhc_ref
from mhc_ref import DEEPSEEK_V4, Mappings, Params
from properties import Implementation
from properties.core.law import family_laws
from properties.engine.runner import Profile, Subject, examine

CPU = torch.device("cpu")


def emitting(parts: tuple[str, ...]) -> Implementation:
    """DeepSeek-V4's mappings, of which only these parts are given."""

    class Part(Implementation):
        dialect = DEEPSEEK_V4
        emits = parts

        def mappings(self, x: torch.Tensor, params: Params) -> Mappings:
            found = mhc_ref.mappings(x, params, self.dialect)
            return Mappings(*(one if name in parts else None for name, one in found._asdict().items()))  # pyright: ignore[reportArgumentType]

    return Part()


@pytest.mark.slow
@pytest.mark.parametrize("parts", [("post", "res"), ("pre", "res"), ("pre", "post"), ("res",)], ids=str)
def test_no_law_of_coefficients_asks_for_what_is_not_emitted(parts: tuple[str, ...], tmp_path: Path) -> None:
    subject, profile = Subject("part", emitting(parts), torch.float32, CPU), Profile(2, derandomise=True, shrink=False)
    found = {law.id: examine(law, subject, profile, directory=tmp_path) for law in family_laws("coefficients")}
    wrong = {
        id: one.message or one.reason for id, one in found.items() if one.status not in ("passed", "not-applicable")
    }
    assert not wrong
    assert sum(one.status == "passed" for one in found.values()) >= 5
