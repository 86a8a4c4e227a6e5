"""What a user sees of ten typical faults, compared with the text files in `snapshots`.

    UPDATE_SNAPSHOTS=1 pytest tests/test_terminal_snapshots.py -m slow       (make snapshots)

makes them anew. Read the difference as a reader would before you commit it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from snapshots import HERE, recorded

from properties.report.report import WIDTH
from properties.report.summary import SCREEN

FAULTS = {
    "Transposed": ("block.", "mixing."),
    "EighteenIterations": ("coefficients.agrees", "block.agrees"),
    "WrongEps": ("coefficients.", "block.agrees"),
    "Raises": ("block.agrees", "mixing.post"),
    "RefusesStrides": ("block.agrees", "execution.mappings-", "execution.blocks-"),
    "NotANumber": ("coefficients.agrees", "block.agrees"),
    "Detached": ("block.agrees", "gradient.block", "gradient.mappings"),
    "Remembers": ("block.agrees", "block.sizes", "depth.layers-are"),
    "TwoSlips": ("block.agrees", "block.perm", "coefficients.agrees", "mixing.post"),
    "Unexplained": ("block.agrees", "mixing.post"),
}
"""The class in `snapshots/faults.py`, and the laws that are tried on it."""
_SEEN = ("GITHUB_ACTIONS", "PYTEST_ADDOPTS", "CI", "BUILD_NUMBER", "COLUMNS")
"""What changes what pytest prints; it cuts no message short where it takes itself to run in CI."""


ALIKE = {"EighteenIterations": "WrongEps", "Remembers": "Unexplained"}
"""What ends as another fault does, by another number: in a field of the dialect, and with nothing that explains it."""


@pytest.mark.one_in(6)
@pytest.mark.slow
@pytest.mark.parametrize(
    "fault", [pytest.param(one, marks=[pytest.mark.thorough] if one in ALIKE else []) for one in FAULTS]
)
def test_what_a_user_sees_of(fault: str, tmp_path: Path) -> None:
    shutil.copy(HERE / "faults.py", tmp_path / "mine.py")
    words = ["check", f"mine.py:{fault}", "--hypothesis-profile", "ci", *(f"--law={law}" for law in FAULTS[fault])]
    quiet = {name: value for name, value in os.environ.items() if name not in _SEEN}
    command = [sys.executable, "-m", "properties.cli", *words]
    done = subprocess.run(command, cwd=tmp_path, env=quiet, stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1, done.stdout
    said = done.stdout.splitlines()
    recorded(f"{_dashed(fault)}.txt", _normal("\n".join(said)), tmp_path)
    assert len(said) <= SCREEN
    # names of files are as long as they are, and so is the message of a law that alone fails
    kept = re.compile(r"    replay: |report: |  \S")
    assert not [line for line in said if len(line) > WIDTH and not kept.match(line)]


def _dashed(name: str) -> str:
    return "fault-" + re.sub(r"(?<!^)(?<!-)(?=[A-Z])", "-", name).lower().replace("a-n-", "an-")


def _normal(text: str) -> str:
    """Without what is another in every run or on every machine: times, what tells one folder's files from another's,
    the last digits of a float32, ratios, and whether a search has found time enough."""
    text = re.sub(r"    the search for slips ran out of time[^\n]*\n(?: {8}[^\n]*\n)*", "", text)
    text = re.sub(r"\d+\.\d{5,}", lambda number: f"{float(number[0]):.4g}", text)
    text = re.sub(r"_[0-9a-f]{10}\.safetensors", "_HASH.safetensors", text)
    text = re.sub(r"worst ratio where laws hold: \S+ \(\S+\)", "worst ratio where laws hold: N (LAW)", text)
    text = re.sub(r"worst ratio \S+ in", "worst ratio N in", text)
    return re.sub(r" in \d+(\.\d+)?s( \(\d+:\d\d:\d\d\))?$", " in N s", text, flags=re.MULTILINE)
