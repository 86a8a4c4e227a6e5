"""Folders that cannot be written and disks that are full: what was found is said all the same, and no file is torn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import mhc_ref
from properties.core.implementation import Implementation
from properties.core.law import all_laws
from properties.engine.counterexample import Counterexample
from properties.engine.runner import Profile, Subject, examine

LAW = "manifold.last-axis-sums"


class Doubled(Implementation):
    """Every sum is 2."""

    name = "doubled"
    dtypes = (torch.float32,)

    def project(self, logits: Tensor) -> Tensor:
        return 2 * mhc_ref.project(logits, self.dialect)


@pytest.mark.parametrize("shrink", [False, True])
def test_a_failed_law_whose_file_cannot_be_written_is_a_failed_law_that_says_so(tmp_path: Path, shrink: bool) -> None:
    (tmp_path / "counterexamples").write_text("a file where the folder should be")
    subject = Subject("some/file.py:Doubled", Doubled(), torch.float32, torch.device("cpu"))
    profile = Profile(examples=3, derandomise=True, shrink=shrink)
    verdict = examine(all_laws()[LAW], subject, profile, directory=tmp_path / "counterexamples")
    assert (verdict.status, verdict.counterexample) == ("failed", None)
    assert verdict.message.startswith(f"doubled breaks {LAW} in float32 on cpu")
    assert "smallest input found" in verdict.message
    assert "no replay: " in verdict.message
    assert "could not be written" in verdict.message
    assert "replay: mhc-properties" not in verdict.message
    assert verdict.case is not None


def test_a_failure_carries_its_case_beside_its_file(tmp_path: Path) -> None:
    subject = Subject("some/file.py:Doubled", Doubled(), torch.float32, torch.device("cpu"))
    verdict = examine(all_laws()[LAW], subject, Profile(examples=3, derandomise=True), directory=tmp_path)
    assert verdict.counterexample is not None
    assert verdict.case is not None
    stored = Counterexample.load(verdict.counterexample)
    assert torch.equal(stored.case.logits, verdict.case.logits)
