"""The pytest door: ids, options, exit codes and report.json; and that nobody else notices it."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import OF_CALLS
from snapshots import recorded
from test_report_page import embedded

from mhc_ref import LIGER, PAPER
from properties.core.implementation import dtype_names
from properties.core.law import FAMILIES, all_laws, family_laws, scouts
from properties.core.trial import FloatTruth
from properties.engine.runner import PROFILES
from properties.plugin.collection import LAWS
from properties.plugin.options import profile
from properties.plugin.subjects import DEFAULT_TARGETS
from properties.report.report import SCHEMA, STATUSES, Line, runs, sentence, table, totals, write
from properties.targets.target import resolve

pytest_plugins = ["pytester"]

LAW = "manifold.last-axis-sums"
TARGETS = """
import mhc_ref
from properties import Implementation

class Right(Implementation):
    dtypes = ("float32",)
    def project(self, logits):
        return mhc_ref.project(logits, self.dialect)

class Doubled(Right):
    def project(self, logits):
        return 2 * super().project(logits)

class Leaving(Right):
    def project(self, logits):
        raise SystemExit(0)

right = Right()
same = right
"""


@pytest.fixture
def laws(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A folder with nothing but targets.py, and the laws loaded before pytester starts to unload modules."""
    assert all_laws()
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setitem(PROFILES, "ci", dataclasses.replace(PROFILES["ci"], examples=6))
    pytester.makepyfile(targets=TARGETS)
    return pytester


def verify(laws: pytest.Pytester, *arguments: str, law: str = LAW) -> pytest.RunResult:
    """`pytest --pyargs properties` with these arguments and the few examples of the profile ci."""
    profile = () if "--hypothesis-profile" in arguments else ("--hypothesis-profile", "ci")
    return laws.runpytest_inprocess(
        "--pyargs", "properties", "-p", "no:cacheprovider", "--law", law, *profile, *arguments
    )


def report(laws: pytest.Pytester, folder: str = ".mhc-properties") -> dict[str, Any]:
    return json.loads((laws.path / folder / "report.json").read_text())


def ids(result: pytest.RunResult) -> list[str]:
    return [line.partition("::")[2].partition(" ")[0] for line in result.outlines if f"::{LAW}[" in line]


# -- what runs ---------------------------------------------------------------------------------------------------------


def test_ids_name_law_implementation_dtype_and_device(laws: pytest.Pytester) -> None:
    result = verify(laws, "--impl", "targets.py:Right", "--impl", "ref:LIGER", "--collect-only", "-q")
    assert ids(result) == [
        f"{LAW}[Right-float32-cpu]",
        *(f"{LAW}[ref:LIGER-{dtype}-cpu]" for dtype in dtype_names(resolve("ref:LIGER"))),
    ]


def test_collecting_alone_reports_nothing(laws: pytest.Pytester) -> None:
    result = verify(laws, "--impl", "targets.py:Right", "--collect-only")
    assert result.ret == 0
    result.stdout.no_fnmatch_line("*silently absent*")
    assert not (laws.path / ".mhc-properties").exists()


def test_targets_of_one_name_get_ids_of_their_own(laws: pytest.Pytester) -> None:
    laws.makepyfile(others=TARGETS)
    wanted = ["targets.py:Right", "others.py:Right", "targets.py:Right", "targets.py:right", "targets.py:same"]
    result = verify(laws, *(part for target in wanted for part in ("--impl", target)), "--collect-only", "-q")
    found = ids(result)
    assert len(found) == len(set(found)) == len(wanted)
    assert found[:2] == [f"{LAW}[Right-float32-cpu]", f"{LAW}[others.py:Right-float32-cpu]"]


@pytest.mark.parametrize(("profile", "most"), [("dev", 1), ("ci", 1), ("thorough", 3)])
def test_without_targets_the_reference_is_verified(laws: pytest.Pytester, profile: str, most: int) -> None:
    result = verify(laws, "--collect-only", "-q", "--hypothesis-profile", profile)
    expected = {f"{LAW}[{target}-{dtype}-cpu]" for target, dtypes in DEFAULT_TARGETS.items() for dtype in dtypes[:most]}
    assert set(ids(result)) == expected


def test_law_chooses_by_the_beginning_of_an_id(laws: pytest.Pytester) -> None:
    result = verify(laws, "--impl", "targets.py:Right", "--law", "mixing", "--collect-only", "-q")
    expected = 1 + len(family_laws("mixing"))
    assert sum("::" in line for line in result.outlines) == expected


def test_the_laws_in_which_most_mistakes_show_come_first(laws: pytest.Pytester) -> None:
    result = verify(laws, "--impl", "targets.py:Right", "--collect-only", "-q", law="")
    collected = [line.partition("::")[2].partition("[")[0] for line in result.outlines if "::" in line]
    assert set(collected[: len(scouts())]) == scouts()
    assert {"manifold.agrees-with-oracle", "block.agrees-with-oracle"} <= scouts()
    rest = [law for family in sorted(FAMILIES) for law in all_laws() if law.startswith(f"{family}.")]
    assert collected[len(scouts()) :] == [law for law in rest if law not in scouts()]


def test_every_law_is_collected_for_every_subject(laws: pytest.Pytester) -> None:
    result = verify(laws, "--impl", "targets.py:Right", "--collect-only", "-q", law="")
    collected = {line.partition("::")[2].partition("[")[0] for line in result.outlines if "::" in line}
    assert collected == set(all_laws())


def test_the_report_holds_what_was_run_and_nothing_else(laws: pytest.Pytester) -> None:
    result = verify(laws, "--impl", "targets.py:Right", "--impl", "ref:LIGER", "--report", "out")
    assert result.ret == 0
    found = report(laws, "out")
    assert list(found) == ["schema", "complete", "totals", "versions", "causes", "laws", "runs"]
    assert (found["schema"], found["complete"]) == (SCHEMA, True)
    assert {"python", "torch", "mhc-properties", "hypothesis", "numpy", "mpmath"} <= set(found["versions"])
    for one in found["runs"]:
        doubts = ["doubts"] * (one["implementation"] == "Right")  # it declares no dialect
        assert list(one) == ["implementation", "dialect", "dtype", "device", *doubts, "laws"]
        assert list(one["laws"]) == [LAW]
        assert set(one["laws"][LAW]) >= {"status", "reason", "examples", "worst_ratio", "counterexample"}
    first, second = found["runs"][:2]
    assert (first["implementation"], first["dtype"], first["device"]) == ("Right", "float32", "cpu")
    assert (first["dialect"], second["dialect"]) == (PAPER.fields(), LIGER.fields())
    entry = first["laws"][LAW]
    assert (entry["status"], entry["reason"], entry["counterexample"]) == ("passed", "", None)
    assert entry["examples"] >= PROFILES["ci"].examples
    assert 0 < entry["worst_ratio"] <= 1
    narrow = next(one for one in found["runs"] if one["dtype"] == "bfloat16")["laws"][LAW]
    assert (narrow["status"], narrow["reason"]) == (
        "not-applicable",
        "logits are float32 for bfloat16 states: covered by float32",
    )
    total = found["totals"]
    assert total["absent"] == 0
    assert sum(total[status] for status in STATUSES) == total["runs"] == len(found["runs"])
    result.stdout.fnmatch_lines(
        [
            "1 of 1 laws exercised, 0 not applicable, 0 silently absent",
            "worst ratio where laws hold: * (manifold.last-axis-sums*)",
            "nothing exercised: ref:LIGER bfloat16 cpu",
            f"report: {Path('out', 'report.json')} (to look at: report.html)",
        ]
    )
    assert not (laws.path / ".mhc-properties").exists()


@pytest.mark.slow
def test_a_failed_law_exits_1_with_its_message_and_no_traceback(laws: pytest.Pytester) -> None:
    result = verify(laws, "--impl", "targets.py:Doubled", "--impl", "targets.py:Right")
    assert result.ret == 1
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["Doubled breaks manifold.last-axis-sums in float32 on cpu", "  replay: *"])
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("*HARNESS ERROR*")
    wrong, sound = (one["laws"][LAW] for one in report(laws)["runs"])
    assert (wrong["status"], sound["status"]) == ("failed", "passed")
    assert wrong["worst_ratio"] > 1
    assert Path(wrong["counterexample"]).parent == laws.path / ".mhc-properties" / "counterexamples"
    assert Path(wrong["counterexample"]).is_file()
    picture, (given, *_) = wrong["failure"]["picture"], wrong["failure"]["inputs"]
    assert picture["got"] == [[2]]  # of one stream: 1 belongs there
    assert picture["exact"] == [[1]]
    assert given["name"] == "logits"
    assert sum(count for bins in sound["nearness"].values() for _, count in bins) == sound["examples"]


@pytest.mark.slow
def test_a_run_leaves_its_report_as_a_page_too(laws: pytest.Pytester) -> None:
    verify(laws, "--impl", "targets.py:Doubled", "--report", "out")
    data = embedded((laws.path / "out" / "report.html").read_bytes())
    assert [one["report"] for one in data["reports"]] == [report(laws, "out")]
    (file,) = (laws.path / "out" / "counterexamples").iterdir()
    assert list(data["files"]) == [str(file)]
    told = report(laws, "out")["laws"][LAW]
    assert (told["statement"], told["reason"]) == (all_laws()[LAW].statement, all_laws()[LAW].reason)


@pytest.mark.slow
def test_a_fault_of_the_harness_exits_above_1_and_says_that_it_is_no_verdict(
    laws: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FloatTruth, "project", lambda *_: 1 / 0)
    result = verify(laws, "--impl", "targets.py:Right")
    assert result.ret >= 2
    result.stdout.fnmatch_lines(
        [
            "HARNESS ERROR (not a verdict on the implementation)",
            "0 of 1 laws exercised, 0 not applicable, 1 in error, 0 silently absent",
        ]
    )
    (one,) = report(laws)["runs"]
    assert one["laws"][LAW]["status"] == "error"
    assert one["laws"][LAW]["reason"] == "ZeroDivisionError: division by zero"


@pytest.mark.slow
def test_a_failed_law_outranks_a_fault_of_the_harness(laws: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FloatTruth, "project", lambda *_: 1 / 0)
    laws.makepyfile(shapeless="from targets import Right\nclass Flat(Right):\n    def project(self, z): return z[0]\n")
    result = verify(laws, "--impl", "targets.py:Right", "--impl", "shapeless.py:Flat")
    assert result.ret == 1
    assert {one["laws"][LAW]["status"] for one in report(laws)["runs"]} == {"error", "failed"}


def test_an_implementation_that_exits_fails_its_laws_and_hides_none(laws: pytest.Pytester) -> None:
    result = verify(laws, "--impl", "targets.py:Leaving", "--impl", "targets.py:Right")
    assert result.ret == 1
    assert [one["laws"][LAW]["status"] for one in report(laws)["runs"]] == ["failed", "passed"]


@pytest.mark.slow
def test_what_was_deselected_is_not_silently_absent(laws: pytest.Pytester) -> None:
    result = verify(laws, "--impl", "targets.py:Right", "--impl", "ref", "-k", "Right")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["1 of 1 laws exercised, 0 not applicable, 0 silently absent"])


@pytest.mark.parametrize("target", ["targets.py:Nobody", "ref:PAPR", "nowhere.py:x"])
def test_an_unusable_target_is_refused_in_one_line(laws: pytest.Pytester, target: str) -> None:
    result = verify(laws, "--impl", "ref", "--impl", target)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    lines = [line for line in result.errlines if line.startswith("ERROR:")]
    assert len(lines) == 1
    assert "--impl" in lines[0]
    result.stdout.no_fnmatch_line("*Traceback*")
    assert not (laws.path / ".mhc-properties").exists()


def test_a_law_that_does_not_exist_is_refused(laws: pytest.Pytester) -> None:
    result = verify(laws, "--impl", "ref", law="manifold.last-axis-sum-of")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --law manifold.last-axis-sum-of: no law's id begins so; *"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there_is_refused_before_anything_is_collected(laws: pytest.Pytester) -> None:
    result = verify(laws, "--impl", "ref", "--device", "cuda")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --device cuda: there is no CUDA device here, so that no law can be exercised"])
    assert not (laws.path / ".mhc-properties").exists()


def test_a_run_that_exercises_nothing_says_so_and_does_not_exit_0(laws: pytest.Pytester) -> None:
    result = verify(laws, "--impl", "targets.py:Right", law="depth.")
    assert result.ret >= 2
    result.stdout.fnmatch_lines(["nothing was exercised, so this run says nothing about the implementation: *"])
    assert report(laws)["totals"]["laws_exercised"] == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--known", "nowhere.toml"], "ERROR: --known there is no file nowhere.toml"),
        (["--known", "."], "ERROR: --known . is no file; expected one in TOML"),
        (["--known", "targets.py"], "ERROR: --known targets.py is not TOML: *"),
        (["--report", ""], "ERROR: --report '': expected the name of a folder"),
        (["--report", "targets.py"], "ERROR: --report targets.py: expected a folder that can be written: *"),
        (["--report", "targets.py/x"], "ERROR: --report targets.py/x: expected a folder that can be written: *"),
        (["--report", "x" * 300], "ERROR: --report x*x: expected a folder that can be written: File name too long"),
        (["--hypothesis-seed", "abc"], "ERROR: --hypothesis-seed 'abc': expected an integer"),
        (["-n", "-1"], "ERROR: -n -1: expected a number of workers from 0 to *, or auto"),
        (["-n", "100000"], "ERROR: -n 100000: expected a number of workers from 0 to *, or auto"),
    ],
)
def test_what_cannot_be_done_is_refused_once_and_in_one_line(
    laws: pytest.Pytester, options: list[str], said: str
) -> None:
    result = verify(laws, "--impl", "targets.py:Right", *options, law="")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert sum(line.startswith("ERROR:") for line in result.errlines) == 1
    result.stderr.fnmatch_lines([said])
    result.stdout.no_fnmatch_line("*Traceback*")
    assert not (laws.path / ".mhc-properties").exists()


def test_the_report_folder_may_hold_no_folder_of_the_name_of_the_report(laws: pytest.Pytester) -> None:
    (laws.path / "out" / "report.json").mkdir(parents=True)
    result = verify(laws, "--impl", "targets.py:Right", "--report", "out")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --report out: *: report.json there is a folder"])


@pytest.mark.slow
def test_failures_whose_files_cannot_be_written_are_told_and_fail(laws: pytest.Pytester) -> None:
    (laws.path / "out").mkdir()
    (laws.path / "out" / "counterexamples").write_text("a file where the folder should be")
    result = verify(laws, "--impl", "targets.py:Doubled", "--report", "out")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["Doubled breaks manifold.last-axis-sums *", "*no replay: *could not be written: *"])
    (one,) = report(laws, "out")["runs"]
    assert (one["laws"][LAW]["status"], one["laws"][LAW]["counterexample"]) == ("failed", None)


@pytest.mark.slow
def test_a_report_that_is_lost_is_no_verdict_but_what_was_found_is_said(
    laws: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("properties.report.report.write_whole", full)
    result = verify(laws, "--impl", "targets.py:Doubled")
    assert result.ret >= 2
    result.stdout.fnmatch_lines(
        ["Doubled breaks manifold.last-axis-sums *", "HARNESS ERROR: the report is lost: *No space left on device"]
    )
    assert not (laws.path / ".mhc-properties" / "report.json").exists()


STRANGE = """
from targets import Doubled as Wrong
class Strange(Wrong):
    def project(self, logits):
        print("\x1b[2J")
        return super().project(logits)
class Raises(Wrong):
    def project(self, logits):
        raise ValueError("\x1b]0;title\x07")
"""


@pytest.mark.slow
def test_no_escape_sequence_of_a_target_reaches_the_terminal_or_a_file(laws: pytest.Pytester) -> None:
    laws.makepyfile(strange=STRANGE)
    targets = ("--impl", "strange.py:Strange", "--impl", "strange.py:Raises")
    result = verify(laws, *targets, "--junitxml", "junit.xml", "-v", "--color=no")
    assert result.ret == 1
    written = [(laws.path / name).read_text() for name in ("junit.xml", ".mhc-properties/report.json")]
    for text in (result.stdout.str(), result.stderr.str(), *written):
        assert "\x1b" not in text
        assert "\x07" not in text
    result.stdout.fnmatch_lines(["*ValueError: *x1b]0;title*"])


# -- files of laws ---------------------------------------------------------------------------------------------------


def collected(laws: pytest.Pytester, *arguments: str) -> list[str]:
    options = ("-p", "no:cacheprovider", "--impl", "targets.py:Right", "--collect-only", "-q")
    result = laws.runpytest_inprocess(*arguments, *options)
    return [line for line in result.outlines if "::" in line]


def test_a_file_of_a_part_of_a_family_has_its_own_laws_where_it_alone_is_named(laws: pytest.Pytester) -> None:
    own = {law.id for law in family_laws("gradient") if law.module == "properties.laws.gradient_calls"}
    assert own
    for arguments in (("--pyargs", "properties.laws.gradient_calls"), (str(LAWS / "gradient_calls.py"),)):
        found = collected(laws, *arguments)
        assert {line.partition("::")[2].partition("[")[0] for line in found} == own


@pytest.mark.parametrize("names", [["gradient_calls", "gradient"], ["gradient", "gradient_calls"]])
def test_beside_its_family_it_adds_no_law_twice(laws: pytest.Pytester, names: list[str]) -> None:
    found = collected(laws, "--pyargs", *(f"properties.laws.{name}" for name in names))
    identities = [line.partition("::")[2].partition("[")[0] for line in found]
    assert sorted(identities) == sorted(law.id for law in family_laws("gradient"))


def test_an_id_of_a_law_in_its_own_file_runs(laws: pytest.Pytester) -> None:
    law = next(law for law in family_laws("gradient") if law.module == "properties.laws.gradient_depth")
    options = ("-p", "no:cacheprovider", "--impl", "targets.py:Right", "--hypothesis-profile", "ci")
    for file in ("gradient_depth.py", "gradient.py"):
        result = laws.runpytest_inprocess(f"{LAWS / file}::{law.id}[Right-float32-cpu]", *options)
        assert "1 not applicable" in result.outlines[-1]


@pytest.mark.slow
@pytest.mark.parametrize("profile", PROFILES)
def test_the_profiles_are_accepted_and_searched_as_long_as_they_say(
    laws: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, profile: str
) -> None:
    monkeypatch.setitem(PROFILES, "thorough", dataclasses.replace(PROFILES["thorough"], examples=40))
    result = verify(laws, "--impl", "targets.py:Right", "--hypothesis-profile", profile)
    assert result.ret == 0
    (one,) = report(laws)["runs"]
    assert one["laws"][LAW]["examples"] >= PROFILES[profile].examples * 3 // 4  # every n has its share, rounded


@pytest.mark.slow
def test_a_plain_function_is_judged_by_the_dialect_it_claims(laws: pytest.Pytester) -> None:
    laws.makepyfile(plain="import torch\ndef rows(logits):\n    return logits.softmax(-1)\n")
    refused = verify(laws, "--impl", "plain.py:rows")
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines(["ERROR: --impl plain.py:rows is a plain function, * --dialect (PAPER, *"])
    assert verify(laws, "--impl", "plain.py:rows", "--dialect", "PAPER").ret == 0  # its rows do sum to 1
    assert verify(laws, "--impl", "plain.py:rows", "--dialect", "LIGER").ret == 1  # where columns come last


def test_a_dialect_that_no_target_uses_is_refused(laws: pytest.Pytester) -> None:
    for arguments in (("--impl", "targets.py:Right"), ()):
        refused = verify(laws, *arguments, "--dialect", "PAPER")
        assert refused.ret == pytest.ExitCode.USAGE_ERROR
        refused.stderr.fnmatch_lines(["ERROR: --dialect PAPER has no effect: * what is computed; the option is for *"])


def test_a_dialect_that_names_no_preset_is_refused_whoever_declares_one(laws: pytest.Pytester) -> None:
    refused = verify(laws, "--impl", "targets.py:Right", "--dialect", "PAPR")
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines(["ERROR: --dialect: there is no preset 'PAPR'; *; did you mean PAPER?"])


def test_a_dialect_that_some_targets_use_is_said_to_have_no_effect_on_the_others(laws: pytest.Pytester) -> None:
    laws.makepyfile(plain="import torch\ndef rows(logits):\n    return logits.softmax(-1)\n")
    done = verify(laws, "--impl", "plain.py:rows", "--impl", "targets.py:Right", "--dialect", "PAPER")
    assert done.ret == 0
    done.stdout.fnmatch_lines(["--dialect PAPER has no effect on Right, which is no plain function"])
    assert "effect on rows" not in done.stdout.str()


@pytest.mark.slow
def test_workers_verify_and_report_the_same_from_an_empty_folder(tmp_path: Path) -> None:
    elsewhere, empty = tmp_path / "elsewhere", tmp_path / "empty"
    elsewhere.mkdir()
    empty.mkdir()
    (elsewhere / "targets.py").write_text(TARGETS)
    command = [sys.executable, "-m", "pytest", "--pyargs", "properties", "-p", "no:cacheprovider", "-n", "2", "-v"]
    command += ["--law", LAW, "--hypothesis-profile", "ci", "--dtype", "float32", "--dtype", "bfloat16"]
    command += ["--impl", "ref:PAPER", "--impl", f"{elsewhere}/targets.py:Doubled"]
    done = subprocess.run(command, cwd=empty, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout
    assert f"::{LAW}[ref:PAPER-float32-cpu]" in done.stdout
    assert "1 of 1 laws exercised, 0 not applicable, 0 silently absent" in done.stdout
    found = json.loads((empty / ".mhc-properties" / "report.json").read_text())
    statuses = {(one["implementation"], one["dtype"]): one["laws"][LAW]["status"] for one in found["runs"]}
    assert statuses["ref:PAPER", "float32"] == "passed"
    assert statuses["Doubled", "float32"] == "failed"
    assert statuses["ref:PAPER", "bfloat16"] == "not-applicable"
    assert found["totals"]["absent"] == 0


# -- who does not notice -----------------------------------------------------------------------------------------------

PROBE = """
import sys, pytest
status = pytest.main(sys.argv[1:])
heavy = [name for name in ("torch", "hypothesis", "mhc_ref", "properties.core.law") if name in sys.modules]
print("status", int(status), "loaded", heavy, "plugin", "properties.plugin" in sys.modules)
"""
UNRELATED = "-p", "no:cacheprovider", "-p", "no:hypothesispytest"


def somewhere_else(folder: Path, *arguments: str) -> str:
    """The last line of a pytest run in another project: its status, and which heavy modules it loaded."""
    command = [sys.executable, "-c", PROBE, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_help_loads_nothing_and_knows_our_options(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROBE, "--help", *UNRELATED]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "status 0 loaded [] plugin True"
    for option in ("--impl=TARGET", "--device={cpu,cuda}", "--report=DIR", "--dialect=PRESET", "--law=ID"):
        assert option in done.stdout


@pytest.mark.slow
def test_another_project_keeps_its_options_its_status_and_its_folder(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "def pytest_addoption(parser):\n"
        "    for name in ('--device', '--report', '--law', '--impl', '--known', '--isolate', '--dialect'):\n"
        "        parser.addoption(name, default='mine')\n"
    )
    (tmp_path / "laws").mkdir()
    (tmp_path / "laws" / "test_theirs.py").write_text(
        "import sys\n"
        "def test_options(request): assert request.config.getoption('--device') == 'mine'\n"
        "def test_torch(): assert 'torch' not in sys.modules\n"
        "def test_that_fails(): assert 0\n"
    )
    before = sorted(tmp_path.rglob("*.py"))
    quiet = (*UNRELATED, "-p", "no:benchmark")
    assert somewhere_else(tmp_path, *quiet) == "status 1 loaded [] plugin True"
    assert somewhere_else(tmp_path, *quiet, "-k", "options") == "status 0 loaded [] plugin True"
    assert somewhere_else(tmp_path, *quiet, "-k", "nothing") == "status 5 loaded [] plugin True"
    assert somewhere_else(tmp_path, *quiet, "-n", "1") == "status 1 loaded [] plugin True"
    left = {path for path in tmp_path.iterdir() if path.name != "__pycache__"}
    assert left == {tmp_path / "conftest.py", tmp_path / "laws"}
    assert sorted(tmp_path.rglob("*.py")) == before


@pytest.mark.slow
def test_a_conftest_with_an_option_of_ours_ends_in_a_sentence_and_no_verdict(
    tmp_path: Path,
) -> None:
    (tmp_path / "conftest.py").write_text("def pytest_addoption(parser):\n    parser.addoption('--device')\n")
    command = [sys.executable, "-m", "pytest", "--pyargs", "properties", "--law", "block", "--co"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "--noconftest" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_another_project_keeps_its_hypothesis_profile(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "from hypothesis import settings\n"
        "for name in ('dev', 'ci', 'thorough'): settings.register_profile(name, max_examples=7)\n"
    )
    (tmp_path / "test_theirs.py").write_text(
        "import sys\nfrom hypothesis import settings\n"
        "def test_profile(): assert settings().max_examples == 7 and 'torch' not in sys.modules\n"
    )
    last = somewhere_else(tmp_path, "-p", "no:cacheprovider", "--hypothesis-profile", "ci")
    assert last.startswith("status 0"), last
    assert "torch" not in last


def test_the_package_loads_its_names_when_they_are_used() -> None:
    code = "import sys, properties, properties.plugin; print('torch' in sys.modules); properties.Dialect"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "False\n"
    assert "AttributeError: module 'properties' has no attribute 'Dialect'" in done.stderr


def test_every_public_name_is_there() -> None:
    import properties

    assert set(properties.__all__) <= set(dir(properties))
    assert all(getattr(properties, name) is not None for name in properties.__all__)


# -- the denominator ---------------------------------------------------------------------------------------------------


def line(law: str, status: str, dtype: str = "float32", **rest: Any) -> Line:
    return Line("mine", {"iterations": 20}, dtype, "cpu", law, status, **rest)


LINES = [
    line("manifold.a", "passed", examples=24, worst_ratio=0.125),
    line("manifold.b", "failed", reason="a sum", examples=3, worst_ratio=17.5, counterexample="case.safetensors"),
    line("manifold.c", "not-applicable", reason="h_res is unconstrained"),
    line("block.d", "error", reason="ZeroDivisionError: division by zero"),
    line("block.e", "known", reason="issue 7"),
    line("manifold.a", "not-applicable", "bfloat16", reason="covered by float32"),
    line("manifold.b", "failed", "bfloat16", reason="project raised", worst_ratio=None),
    line("manifold.c", "not-applicable", "bfloat16", reason="covered by float32"),
]


def test_the_denominator_reads_like_this() -> None:
    total = totals(LINES, len(LINES) + 1)
    recorded("denominator.txt", "\n".join([*table(LINES), sentence(total)]))


def test_the_summary_fits_a_terminal() -> None:
    name, law = "published:transformers-deepseek-v4", f"device.{'a-long-name-' * 3}"
    long = [dataclasses.replace(one, implementation=name, law=f"{law}{k}") for k, one in enumerate(LINES)]
    for text in table(long):
        assert len(text) <= 80, text


def test_totals_count_every_status_once() -> None:
    total = totals(LINES, len(LINES) + 1)
    assert {status: total[status] for status in STATUSES} == {
        "passed": 1,
        "failed": 2,
        "known": 1,
        "not-applicable": 3,
        "error": 1,
    }
    assert (total["laws"], total["laws_exercised"], total["runs"], total["absent"]) == (5, 3, 9, 1)
    assert total["reasons"] == {"covered by float32": 2, "h_res is unconstrained": 1}


def test_lines_survive_the_way_between_processes() -> None:
    assert [Line.from_json(json.loads(json.dumps(one.to_json()))) for one in LINES] == LINES


def test_runs_group_lines_by_subject(tmp_path: Path) -> None:
    grouped = runs(LINES)
    assert [(one["dtype"], list(one["laws"])) for one in grouped] == [
        ("float32", ["manifold.a", "manifold.b", "manifold.c", "block.d", "block.e"]),
        ("bfloat16", ["manifold.a", "manifold.b", "manifold.c"]),
    ]
    path = tmp_path / "deep" / "report.json"
    written = write(path, LINES, len(LINES), {"python": "3"})
    kept = {"totals": written["totals"], "versions": {"python": "3"}, "causes": [], "laws": {}, "runs": grouped}
    assert written == {"schema": SCHEMA, "complete": True, **kept}
    assert json.loads(path.read_text()) == written


def test_only_a_run_of_the_references_has_short_sweeps_and_few_frames(
    pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(pytestconfig.option, "hypothesis_profile", None)
    for targets, wanted in ((None, (3, 0.3, 0.5, 2)), (["ref:PAPER"], (4, 5.0, None, None))):
        monkeypatch.setattr(pytestconfig.option, "impl", targets)
        found = profile(pytestconfig)
        assert (found.sizes, found.seconds, found.crowds, found.alone) == wanted
    monkeypatch.setenv("CI", "true")
    monkeypatch.setattr(pytestconfig.option, "impl", None)
    assert profile(pytestconfig) == PROFILES["ci"]


def test_the_laws_that_go_to_one_reference_alone_are_those_about_calls() -> None:
    waiting = {law for law in all_laws() if OF_CALLS.search(f"::{law}[")}
    assert {law for law in all_laws() if law.startswith(("sizes.", "execution."))} < waiting
    assert {law.partition(".")[0] for law in waiting} == {
        *("sizes", "execution", "gradient", "depth", "block", "coefficients", "manifold", "mixing"),
    }
    assert "depth.streams-persist-through-many-layers" in waiting
    assert {law for law in all_laws() if "-however-" in law} < waiting
    assert {"manifold.agrees-with-oracle", "gradient.pullback-is-linear", "block.agrees-with-oracle"}.isdisjoint(
        waiting
    )
