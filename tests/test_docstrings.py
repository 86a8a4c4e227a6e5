"""A law states itself in a docstring: where Python removes those, every door says so in one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import strategies as st

import properties.core.law
from properties.guards.faults import HarnessError


def test_no_law_is_made_without_docstrings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert properties.core.law.stripped() is None
    monkeypatch.setattr(properties.core.law, "sys", SimpleNamespace(flags=SimpleNamespace(optimize=2)))
    with pytest.raises(HarnessError, match="PYTHONOPTIMIZE=2"):
        properties.core.law.law("manifold.nothing", "identity", lambda setting: st.nothing(), needs=())


@pytest.mark.slow
@pytest.mark.parametrize("command", [["check", "ref"], ["laws"]])
def test_a_python_without_docstrings_is_named_and_no_verdict_is_given(command: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "properties.cli", *command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONOPTIMIZE": "2"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode >= 2
    assert "PYTHONOPTIMIZE=2" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
