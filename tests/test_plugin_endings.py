"""Runs that are asked to do less: some dtypes, so many causes, so many seconds. What they leave out is counted."""

from __future__ import annotations

import dataclasses
import json
import signal
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any, NoReturn

import pytest

from properties.core.law import Law, all_laws
from properties.engine import runner
from properties.engine.runner import PROFILES, Profile, Subject, examine
from properties.plugin.ending import Ending, OutOfTime

pytest_plugins = ["pytester"]

LAW = "manifold.last-axis-sums"
TARGETS = """
import mhc_ref
from properties import Implementation

class Right(Implementation):
    dtypes, streams = ("float32",), (2,)
    def project(self, logits):
        return mhc_ref.project(logits, self.dialect)

class Wide(Right):
    dtypes = ("float64", "float32")

class Doubled(Wide):
    def project(self, logits):
        return 2 * super().project(logits)

class Nasty(Wide):
    name = 'a<b>&"]]>'
    def project(self, logits):
        raise ValueError("]]> \\x1b[2J <&\\x00\\ufffe\\ud800")

class Raises(Right):
    def project(self, logits):
        raise ValueError("no")

class Endless(Right):
    def project(self, logits):
        while True:
            pass
"""


@pytest.fixture
def laws(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A folder with the targets, and the laws loaded before pytester starts to unload modules."""
    assert all_laws()
    monkeypatch.setitem(PROFILES, "ci", dataclasses.replace(PROFILES["ci"], examples=3))
    pytester.makepyfile(targets=TARGETS)
    return pytester


def verify(laws: pytest.Pytester, *arguments: str, law: str = LAW) -> pytest.RunResult:
    return laws.runpytest_inprocess(
        *("--pyargs", "properties", "-p", "no:cacheprovider", "--hypothesis-profile", "ci", "--law", law), *arguments
    )


def report(laws: pytest.Pytester) -> dict[str, Any]:
    return json.loads((laws.path / ".mhc-properties" / "report.json").read_text())


# -- some dtypes -----------------------------------------------------------------------------------------------------


def test_only_the_dtypes_that_are_named_are_tried(laws: pytest.Pytester) -> None:
    result = verify(laws, "--impl", "targets.py:Right", "--impl", "targets.py:Wide", "--dtype", "float64")
    assert result.ret == 0
    assert [(run["implementation"], run["dtype"]) for run in report(laws)["runs"]] == [("Wide", "float64")]
    result.stdout.fnmatch_lines(["targets.py:Right declares none of float64: no law was tried on it"])


def test_a_dtype_that_nobody_declares_is_refused_in_one_sentence(laws: pytest.Pytester) -> None:
    result = verify(laws, "--impl", "targets.py:Wide", "--dtype", "float16\x1b[2J")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (said,) = [line for line in result.errlines if line.startswith("ERROR")]
    assert said == (
        r"ERROR: --dtype float16\x1b[2J: no implementation here declares it; expected one of float64, float32"
    )


@pytest.mark.parametrize(
    ("option", "given", "said"),
    [
        ("--time", "0", "--time 0: expected a number of seconds above 0 and below 1e9"),
        ("--time", "nan", "--time nan: expected a number of seconds above 0 and below 1e9"),
        ("--junit", ".", "--junit .: expected a file that can be written: it is a folder"),
        (
            "--junit",
            "targets.py/x.xml",
            "--junit targets.py/x.xml: expected a file that can be written: *",
        ),
        ("--max-causes", "0", "--max-causes 0: expected a number of causes from 1 on"),
    ],
)
def test_an_end_that_is_none_is_refused(laws: pytest.Pytester, option: str, given: str, said: str) -> None:
    result = verify(laws, "--impl", "targets.py:Wide", option, given)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {said}"])


# -- so many seconds -------------------------------------------------------------------------------------------------


def test_what_was_not_reached_in_time_is_counted_and_is_no_success(laws: pytest.Pytester) -> None:
    targets = ("--impl", "targets.py:Endless", "--impl", "targets.py:Right")
    result = verify(laws, *targets, "--time", "0.2")
    assert result.ret == 3
    found = report(laws)
    total = found["totals"]
    assert (found["complete"], total["unreached"], total["absent"], total["runs"]) == (True, 2, 0, 2)
    assert total["sentence"] == (
        "0 of 1 laws exercised, 0 not applicable, 1 not reached in 0.2 s (2 on all subjects), 0 silently absent"
    )
    result.stdout.fnmatch_lines(["0 of 1 laws exercised, 0 not applicable, 1 not reached in 0.2 s *"])


@pytest.mark.skipif(not hasattr(signal, "SIGXCPU"), reason="this platform stops no law")
def test_the_law_in_hand_is_stopped_when_the_time_is_up() -> None:
    before = signal.getsignal(signal.SIGXCPU)
    ending = Ending(0.05, 0.05, None)

    def endless() -> None:
        with ending.within():
            while True:
                pass

    try:
        with pytest.raises(OutOfTime, match=r"the time of the run, 0\.05 s, is up"):
            endless()
        assert ending.why() == "in 0.05 s"
        with pytest.raises(OutOfTime):
            endless()
    finally:
        ending.remove()
    assert signal.getsignal(signal.SIGXCPU) == before


def test_a_run_without_an_end_goes_on() -> None:
    ending = Ending(None, None, None)
    with ending.within():
        pass
    assert (ending.left, ending.why()) == (None, "")


def test_all_processes_of_a_run_hear_that_no_further_law_is_begun(tmp_path: Path) -> None:
    first = Ending(None, None, None)
    other = Ending(None, None, first.halt)
    assert other.why() == ""
    first.stop("once 2 causes were known")
    assert (first.why(), other.why()) == ("once 2 causes were known",) * 2
    other.remove()
    assert first.halt.exists()
    first.remove()
    assert not first.halt.exists()


def test_the_first_failure_can_be_the_end_and_the_rest_is_counted(laws: pytest.Pytester) -> None:
    result = verify(laws, "--impl", "targets.py:Raises", "--impl", "targets.py:Right", "-x")
    assert result.ret == 1
    found = report(laws)
    total = found["totals"]
    assert (found["complete"], total["failed"], total["unreached"], total["absent"]) == (True, 1, 1, 0)
    assert total["unreached_why"] == "once 1 had failed"


def test_a_failure_that_was_not_explained_in_time_is_given_no_cause(
    laws: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no failure of time: the run was stopped before anybody had asked what was wrong."""

    def stopped(law: Law, subject: Subject, profile: Profile, *, directory: Path, **_: Any) -> NoReturn:
        stop = OutOfTime("the time of the run, 1 s, is up")
        setattr(stop, runner._BEFORE, examine(law, subject, profile, directory=directory))
        raise stop

    monkeypatch.setattr(runner, "examine", stopped)
    result = verify(laws, "--impl", "targets.py:Doubled", "--dtype", "float32")
    assert result.ret == 1
    found = report(laws)
    assert (found["causes"], found["runs"][0]["laws"][LAW]["cause"]) == ([], None)
    result.stdout.fnmatch_lines(["failed, and no cause was looked for:", f"    {LAW} of Doubled in float32: *"])


# -- so many causes -------------------------------------------------------------------------------------------------


def test_no_law_is_begun_once_enough_causes_are_known_and_the_first_is_said_at_once(laws: pytest.Pytester) -> None:
    result = verify(laws, "--impl", "targets.py:Raises", "--max-causes", "1", law="manifold")
    assert result.ret == 1
    found = report(laws)
    total = found["totals"]
    assert (total["failed"], total["absent"], len(found["causes"])) == (1, 0, 1)
    assert total["unreached"] == total["runs"] - 1 > 5
    assert total["unreached_why"] == "once 1 cause was known"
    said = [number for number, line in enumerate(result.outlines) if line.startswith("cause c1 of Raises: ")]
    assert len(said) == 2
    assert result.outlines[said[0] + 1].startswith("    ")


# -- known failures -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_fails_as_it_is_known_to_is_not_told_as_passed_alone(laws: pytest.Pytester) -> None:
    target = ("--impl", "targets.py:Doubled", "--dtype", "float32")
    assert verify(laws, *target).ret == 1
    (file,) = (laws.path / ".mhc-properties" / "counterexamples").iterdir()
    entry = {"law": LAW, "implementation": "Doubled", "reason": "twice", "counterexample": str(file)}
    text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in entry.items())
    (laws.path / "known.toml").write_text(f"schema = 1\n[[known]]\n{text}")
    result = verify(laws, *target, "--known", "known.toml")
    assert (result.ret, report(laws)["totals"]["known"]) == (0, 1)
    result.stdout.fnmatch_lines(["known failures: 1 failed as it is known to"])


# -- what others read ------------------------------------------------------------------------------------------------


def test_junit_has_a_test_case_for_every_law_and_is_well_formed_whatever_a_target_is_called(
    laws: pytest.Pytester,
) -> None:
    result = verify(laws, "--impl", "targets.py:Nasty", "--impl", "targets.py:Right", "--junit", "out.xml")
    assert result.ret == 1
    suite = ET.parse(laws.path / "out.xml").getroot().find("testsuite")
    assert suite is not None
    cases = suite.findall("testcase")
    assert [case.get("name", "").partition("[")[0] for case in cases] == [LAW] * 3
    failures = [failure for case in cases for failure in case.findall("failure")]
    assert len(failures) == 2
    assert all(f"breaks {LAW}" in (failure.text or "") for failure in failures)


@pytest.mark.slow
def test_nothing_but_our_end_is_said_of_laws_that_run_alone(laws: pytest.Pytester) -> None:
    result = verify(laws, "--impl", "targets.py:Right", "-q")
    assert [line for line in result.outlines if line] == [
        "Right: judged against PAPER, the default, as no `dialect` is declared",
        "1 of 1 laws exercised, 0 not applicable, 0 silently absent",
        *[line for line in result.outlines if line.startswith("worst ratio")],
        f"report: {Path('.mhc-properties', 'report.json')} (to look at: report.html)",
        *[line for line in result.outlines if line.startswith("1 passed in ")],
    ]


@pytest.mark.slow
def test_other_tests_keep_the_output_of_pytest(laws: pytest.Pytester) -> None:
    laws.makepyfile(test_own="def test_of_mine(): assert 1 == 2\ndef test_good(): pass\n")
    own = ("test_own.py", "--impl", "targets.py:Raises", "--dtype", "float32", "--law", "manifold.other-axis-sums")
    result = verify(laws, *own)
    assert result.ret == 1
    result.assert_outcomes(failed=3, passed=1)  # of a law that is the only one to fail the message is printed, too
    result.stdout.fnmatch_lines(["test_own.py F.*", "*test_of_mine*", "E  *assert 1 == 2", "FAILED test_own.py::*"])
    result.stdout.fnmatch_lines(["cause c1 of Raises: *"])
    result.stdout.no_fnmatch_line("FAILED *last-axis-sums*")
