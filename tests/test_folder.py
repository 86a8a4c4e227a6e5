"""`check` of several targets and of folders: what of a folder is a target, what cannot be used, and a line for each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from properties import cli
from properties.plugin.launch import Outcome
from properties.report.across import across
from properties.report.report import Line, made
from properties.targets import folder as module
from properties.targets.folder import Adapters, Unusable, adapters, is_folder
from properties.targets.target import TargetError, resolve

FILES = {
    "base.py": """
import mhc_ref
from properties import Implementation, Reference

class Base(Implementation):
    dtypes = ("float32",)
    def post(self, x, y, h_post, h_res):
        return mhc_ref.post(x, y, h_post, h_res, self.dialect)

shared = Base()
class _Hidden(Base): pass
plain = 3
""",
    "good.py": """
import base
from base import Base, shared
if True:
    from base import shared as renamed

class Good(Base):
    pass

made = Base()
def function(logits):
    from base import shared as made
    return logits
""",
    "wrong.py": """
import mhc_ref
from base import Base, Implementation

class Wrong(Base):
    def post(self, x, y, h_post, h_res):
        return mhc_ref.post(x, y, h_post, h_res.mT, self.dialect)

class Nothing(Implementation):
    pass
""",
    "target.py": "from base import Base as Mine\nTARGET = Mine\nclass Other(Mine): pass\n",
    "named.py": "from base import Base, shared\nTARGETS = ['shared', 'missing']\nclass Other(Base): pass\n",
    "odd.py": "TARGETS = 3\n",
    "helper.py": "x = 1\n",
    "broken.py": "import nowhere_at_all\n",
    "syntax.py": "def (\n",
    "leaves.py": "raise SystemExit(3)\n",
    "_private.py": "raise RuntimeError('not to be imported')\n",
    "__init__.py": "",
    "notes.txt": "",
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "adapters").mkdir()
    for name, text in FILES.items():
        (tmp_path / "adapters" / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    yield tmp_path
    sys.modules.pop("base", None)


def here(files: list[str], dialect: str | None) -> Any:
    """What the other process says, said by this one."""
    for file in list(files):
        yield {"begun": file}
        targets, unusable = module._of(file, dialect)
        yield {"targets": targets, "unusable": unusable}
    yield {"ended": "exited with status 0"}


USABLE = (
    "adapters/base.py:Base",
    "adapters/base.py:shared",
    "adapters/good.py:Good",
    "adapters/good.py:made",
    "adapters/named.py:shared",
    "adapters/target.py:TARGET",
    "adapters/wrong.py:Wrong",
)


def assert_found(found: Adapters) -> None:
    assert found.targets == USABLE
    assert found.empty == ("adapters/helper.py",)
    why = {one.target: one.why for one in found.unusable}
    assert list(why) == [
        *("adapters/broken.py", "adapters/leaves.py", "adapters/named.py:missing", "adapters/odd.py"),
        *("adapters/syntax.py", "adapters/wrong.py:Nothing"),
    ]
    assert "raised ModuleNotFoundError: No module named 'nowhere_at_all'" in why["adapters/broken.py"]
    assert why["adapters/leaves.py"].endswith("raised SystemExit: 3 (leaves.py:1)")
    assert "has no attribute 'missing'" in why["adapters/named.py:missing"]
    assert why["adapters/odd.py"] == "TARGETS is int; expected a list of names of attributes"
    assert "SyntaxError" in why["adapters/syntax.py"]
    assert why["adapters/wrong.py:Nothing"].startswith("overrides none of project, ")


def test_what_a_file_defines_or_names_is_a_target(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_asked", here)
    assert_found(adapters("adapters"))


def test_plain_functions_are_targets_where_they_are_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_asked", here)
    for path in (place / "adapters").iterdir():
        path.unlink()
    (place / "adapters" / "plain.py").write_text("TARGETS = ('project',)\ndef project(logits):\n    return logits\n")
    found = adapters("adapters/", "PAPER")
    assert (found.targets, found.unusable) == (("adapters/plain.py:project",), ())
    (refused,) = adapters("adapters/").unusable
    assert "say which mathematics it claims with --dialect" in refused.why


@pytest.mark.slow
def test_a_file_that_ends_the_process_is_left_out_and_the_others_are_not(place: Path) -> None:
    (place / "adapters" / "leaves.py").write_text("import os\nprint('{}', flush=True)\nos._exit(0)\n")
    found = adapters("adapters")
    assert found.targets == USABLE
    (left,) = [one for one in found.unusable if one.target == "adapters/leaves.py"]
    assert left.why == "importing it ended the process, which exited with status 0"
    assert len(found.unusable) == 6


def test_a_process_that_begins_with_no_file_is_not_started_for_each(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []

    def dead(files: list[str], dialect: str | None) -> Any:
        started.append(list(files))
        yield {"ended": "was killed by SIGKILL (out of memory?)"}

    monkeypatch.setattr(module, "_asked", dead)
    found = adapters("adapters")
    assert (len(started), len(found.targets), len(found.unusable)) == (1, 0, len(started[0]))


def test_a_folder_is_told_from_the_other_forms(place: Path) -> None:
    (place / "ref").mkdir()
    (place / "a:b").mkdir()
    assert [one for one in ("adapters", "adapters/", ".", "nowhere/", "ref/", "a:b/") if not is_folder(one)] == []
    others = ("ref", "a:b", "ref:PAPER", "mine.py:Mine", "nowhere", "", "x" * 5000, "\0", "proc:ls adapters/")
    assert [one for one in others if is_folder(one)] == []


# -- the command -------------------------------------------------------------------------------------------------------


def check(*words: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(cli.app, ["check", *words])
    return done.exit_code, done.stdout, done.stderr


def line(name: str, law: str, status: str, dtype: str = "float32", *causes: str) -> Line:
    return Line(name, {}, dtype, "cpu", law, status, causes=causes)


def launched(monkeypatch: pytest.MonkeyPatch, status: int, *lines: Line) -> list[str]:
    """A run that leaves these lines; the arguments that it is given."""
    given: list[str] = []

    def launch(arguments: list[str], where: Path, *rest: Any) -> Outcome:
        given.extend(arguments)
        report = made(list(lines), len(lines), {})
        where.mkdir(exist_ok=True)
        (where / "report.json").write_text(json.dumps(report))
        return Outcome(status, report)

    monkeypatch.setattr("properties.plugin.launch.launch", launch)
    return given


def found(monkeypatch: pytest.MonkeyPatch, *targets: str, unusable: tuple[Unusable, ...] = ()) -> None:
    monkeypatch.setattr(module, "adapters", lambda folder, dialect: Adapters(targets, unusable, ()))


BROKEN = Unusable("adapters/broken.py", "importing it raised ImportError: no\n\x1b[2J")


def test_targets_of_a_folder_take_its_place(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = launched(monkeypatch, 0, line("a", "block.one", "passed"))
    found(monkeypatch, "adapters/a.py:A", "adapters/b.py:B")
    assert check("ref", "adapters/", "mine.py:Mine")[0] == 0
    impls = [one for one in given if one.startswith("--impl=")]
    assert impls == ["--impl=ref", "--impl=adapters/a.py:A", "--impl=adapters/b.py:B", "--impl=mine.py:Mine"]


@pytest.mark.parametrize(("status", "expected"), [(0, 3), (1, 1), (2, 2), (5, 3)])
def test_what_cannot_be_used_is_in_the_report_the_summary_and_the_exit_status(
    place: Path, monkeypatch: pytest.MonkeyPatch, status: int, expected: int
) -> None:
    launched(monkeypatch, status, line("a", "block.one", "passed"))
    found(monkeypatch, "adapters/a.py:A", unusable=(BROKEN,))
    code, out, err = check("adapters")
    assert code == expected
    assert "adapters/broken.py is left out: importing it raised ImportError: no \\x1b[2J\n" in err
    assert out.splitlines()[1:] == [
        "a  1 held",
        "adapters/broken.py: not tried: importing it raised ImportError: no \\x1b[2J",
        "2 targets: 1 held, 1 not tried",
    ]
    stored = json.loads((place / ".mhc-properties" / "report.json").read_text())
    assert stored["unusable"] == [{"target": "adapters/broken.py", "why": BROKEN.why}]
    code, out, err = check("adapters", "--json")
    assert json.loads(out)["unusable"] == stored["unusable"]
    assert "2 targets: 1 held, 1 not tried" in err


def test_a_folder_in_which_nothing_is_found_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "empty").mkdir()
    (place / "empty" / "notes.txt").write_text("")
    given = launched(monkeypatch, 0)
    for folder, said in (
        ("empty", "empty: nothing was found; expected .py files with classes or objects that are a properties.Impl"),
        ("nowhere/", "nowhere/ cannot be read as a folder: No such file or directory"),
    ):
        code, out, err = check(folder, "--json")
        assert code == 2
        assert said in err
        assert said in json.loads(out)["error"]
    found(monkeypatch, unusable=(BROKEN,))
    code, _, err = check("adapters")
    assert code == 2
    assert "adapters: 1 of what is there cannot be used; expected" in err
    assert given == []


def test_other_commands_say_who_takes_folders(place: Path) -> None:
    with pytest.raises(TargetError, match="'adapters' is a folder, which `mhc-properties check` takes"):
        resolve("adapters")


# -- the summary across targets ----------------------------------------------------------------------------------------


def test_each_target_has_a_line_with_its_laws_and_causes() -> None:
    lines = [
        *(line("Mine", f"block.{n}", "failed", dtype, "c1") for n in range(3) for dtype in ("float64", "float32")),
        line("Mine", "mixing.a", "failed", "float64", "c1", "c2"),
        line("Mine", "mixing.a", "passed", "float32"),
        line("Mine", "mixing.b", "not-applicable"),
        *(line("Other", f"block.{n}", "passed") for n in range(3)),
        line("Other", "mixing.a", "known"),
        line("Other", "mixing.b", "error"),
        line("Third", "block.0", "not-applicable"),
    ]
    assert across(lines) == [
        "Mine   4 failed (c1, c2), 1 not applicable",
        "Other  1 in error, 1 failed as known, 3 held",
        "Third  1 not applicable",
        "3 targets: 1 failed, 1 in error, 1 not applicable",
    ]


def test_lines_stay_within_80_columns_where_names_allow_that() -> None:
    lines = [line("a" * 60, f"block.{n}", "failed", "float32", f"c{n}") for n in range(9)]
    text = across([*lines, line("b", "block.0", "passed")], [("adapters/x.py", "because " * 40)])
    assert all(len(one) <= 80 for one in text)
    assert [one.split()[0] for one in text if not one.startswith(" ")] == ["a" * 60, "b", "adapters/x.py:", "3"]


def test_one_target_has_no_summary(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch, 0, line("a", "block.one", "passed"), line("a", "block.one", "passed", "float64"))
    assert check("mine.py:Mine") == (0, "", "")


@pytest.mark.slow
def test_a_folder_is_checked_file_by_file(place: Path) -> None:
    words = ["check", "adapters/", "--law", "mixing.post-is-the-declared", "--hypothesis-profile", "ci"]
    command = [sys.executable, "-m", "properties.cli", *words]
    environment = {**os.environ, "PYTEST_ADDOPTS": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1, done.stderr
    *_, last = done.stdout.splitlines()
    assert last == "13 targets: 1 failed, 6 held, 6 not tried"
    told = [one.split(maxsplit=1)[1] for one in done.stdout.splitlines() if one.startswith("Wrong ")]
    assert told[-1] == "1 failed (c1)"
    assert "adapters/broken.py is left out: importing adapters/broken.py raised ModuleNotFoundError" in done.stderr
    report = json.loads((place / ".mhc-properties" / "report.json").read_text())
    assert len(report["unusable"]) == 6
    statuses = {run["implementation"]: [law["status"] for law in run["laws"].values()] for run in report["runs"]}
    assert [name for name, those in statuses.items() if "failed" in those] == ["Wrong"]
