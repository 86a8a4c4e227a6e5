"""A family of a target's own comes through every door: stored cases, known failures, other processes, reports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mhc_ref import registry
from properties.commands.replay import replay_file
from properties.core.law import all_laws
from properties.engine.counterexample import Counterexample, StrangeFamily
from properties.engine.known import Known, verdict_for
from properties.engine.runner import Profile, Subject, examine
from properties.targets.isolation import isolated
from properties.targets.process.description import attributes_of
from properties.targets.process.protocol import VERSION, BadAnswer
from properties.targets.target import resolve

LAW = "execution.projection-leaves-its-input-alone"
SOURCE = '''\
"""An implementation that brings a mixing of its own, and writes over its logits."""

from mhc_ref import Dialect
from properties import Implementation
from properties.families import Field, Guarantees, Mix


class Halves(Mix):
    """M = Z / scale, which guarantees nothing."""

    name = "halves"
    words = "its logits over a number"
    roundings = 1
    FIELDS = {"scale": Field(2.0, lambda scale: scale > 0, "a number above 0")}

    def project(self, logits, dialect):
        return logits / dialect.scale

    def exact(self, z, n, dialect, real):
        return [[z[n * i + j] / dialect.scale for j in range(n)] for i in range(n)]


class Overwrites(Implementation):
    dialect = Dialect(residual=Halves(), scale=4.0)

    def project(self, logits):
        return logits.div_(self.dialect.scale) if logits.numel() else logits / 4


class Right(Overwrites):
    def project(self, logits):
        return 0.25 * logits
'''


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of somebody's own."""
    path = tmp_path_factory.mktemp("theirs") / "halves.py"
    path.write_text(SOURCE)
    return path


@pytest.fixture
def target(file: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The wrong implementation in that file, which nobody has loaded."""
    forget(monkeypatch)
    return f"{file}:Overwrites"


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has loaded no target."""
    monkeypatch.setattr(registry, "_outside", {})
    for name in [name for name in sys.modules if name.startswith("_mhc_target_halves")]:
        monkeypatch.delitem(sys.modules, name)


def subject_of(target: str) -> Subject:
    return Subject(target, resolve(target), torch.float32, torch.device("cpu"))


@pytest.fixture(scope="module")
def found(file: Path) -> Path:
    """A counterexample of the wrong implementation."""
    with pytest.MonkeyPatch.context() as patch:
        forget(patch)
        subject = subject_of(f"{file}:Overwrites")
        verdict = examine(all_laws()[LAW], subject, Profile(examples=10), directory=file.parent, randomness=0)
        forget(patch)
    assert verdict.status == "failed"
    assert verdict.counterexample
    return verdict.counterexample


@pytest.fixture
def stored(found: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The counterexample, and nobody who knows its family."""
    forget(monkeypatch)
    return found


def test_a_stored_case_of_an_unknown_family_says_what_brings_it(stored: Path, target: str) -> None:
    with pytest.raises(StrangeFamily, match="residual is 'halves', a family that is not known here"):
        Counterexample.load(stored)
    outcome = replay_file(stored)
    assert outcome.status == "ERROR"
    assert "It was found on" in outcome.message
    assert target in outcome.message
    assert "--impl TARGET, or allow what the file names with --trust" in outcome.message


@pytest.mark.parametrize("trust", [False, True], ids=["--impl", "--trust"])
def test_a_stored_case_is_replayed_on_the_target_that_brings_the_family(stored: Path, target: str, trust: bool) -> None:
    outcome = replay_file(stored, None if trust else target, trust=trust)
    assert (outcome.status, outcome.law) == ("FAILED", LAW)
    assert Counterexample.load(stored).dialect.scale == 4


def test_a_stored_case_is_replayed_on_a_repaired_target(stored: Path, target: str) -> None:
    assert replay_file(stored, target.replace("Overwrites", "Right")).status == "FIXED"


def test_a_target_that_does_not_bring_the_family_changes_nothing(stored: Path) -> None:
    outcome = replay_file(stored, "ref")
    assert outcome.status == "ERROR"
    assert "a family that is not known here" in outcome.message


def test_a_known_failure_of_a_family_from_outside_is_replayed(stored: Path, target: str) -> None:
    known = Known(LAW, "Overwrites", "it writes over its logits", stored, "", None, None)
    assert verdict_for(known, subject_of(target)).status == "known"


@pytest.mark.slow
def test_the_laws_know_the_family_of_a_target_in_a_process_of_its_own(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = isolated(target)
    assert made.dialect.fields()["scale"] == 4
    assert made.project(torch.ones(1, 2, 2)).tolist() == [[[0.25, 0.25]] * 2]


def test_a_server_that_names_an_unknown_family_is_refused_in_a_sentence() -> None:
    told: dict[str, Any] = {"protocol": VERSION, "name": "far", "dtypes": ["float32"], "streams": [2]}
    with pytest.raises(BadAnswer, match="'elsewhere'; expected one of 'sinkhorn'"):
        attributes_of({**told, "methods": ["project"], "dialect": {"residual": "elsewhere"}})


@pytest.mark.slow
def test_a_run_with_workers_reports_the_dialect_of_a_family_from_outside(target: str, tmp_path: Path) -> None:
    run = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "--pyargs", "properties", "--impl", target, "--law", LAW, "-n", "2"),
            *("--report", str(tmp_path / "report"), "-p", "no:cacheprovider", "--dtype", "float32"),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert run.returncode == 1, run.stdout + run.stderr
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert {one["dialect"]["scale"] for one in report["runs"]} == {4.0}
    found = [Path(one["laws"][LAW]["counterexample"]) for one in report["runs"] if one["laws"][LAW]["counterexample"]]
    assert replay_file(found[0], target).status == "FAILED"
