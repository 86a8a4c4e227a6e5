"""Workers of a run end with the causes of one process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TWO = """
from mhc_ref import PAPER
from properties.diagnosis.composing import compose


def Two():
    return compose(("h-res-transposed", "mappings-detached"), PAPER)
"""
LAWS = ("mixing.post-is-the-declared", "gradient.block-pulls-back")


def _causes(where: Path, workers: int) -> list[dict[str, Any]]:
    laws = [word for law in LAWS for word in ("--law", law)]
    report = where / f"of-{workers}"
    subprocess.run(
        [
            *(sys.executable, "-m", "properties.cli", "check", "two.py:Two", *laws),
            *("--dtype", "float32", "-n", str(workers), "--report", str(report)),
        ],
        cwd=where,
        check=False,
        capture_output=True,
        timeout=500,
    )
    found: list[dict[str, Any]] = json.loads((report / "report.json").read_text())["causes"]
    return found


@pytest.mark.thorough  # two whole explanations: a minute and a half
def test_two_workers_end_with_the_two_causes_of_one_process(tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(TWO)
    one, two = (_causes(tmp_path, workers) for workers in (0, 2))
    assert len(one) == 2

    def told(causes: list[dict[str, Any]]) -> list[tuple[str, str]]:
        return sorted((cause["summary"], cause["stage"]) for cause in causes)

    assert told(one) == told(two)
    assert {cause["explanation"]["deviation"] for cause in one} == {"h-res-transposed", "mappings-detached"}
