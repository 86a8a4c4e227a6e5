"""`mhc-properties check` from outside: targets that end their process, signals, and reports that are not whole.

Of each ending and of each signal one run is made, with workers or without; the other is `thorough`: ten seconds a run.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from properties.commands.answering import calls_a_stranger
from properties.guards.child import ended
from properties.guards.stopping import STOPPING, Stopping
from properties.plugin.gathering import JOURNAL, Gathering, Journal, entry
from properties.plugin.launch import alone_in, launch
from properties.report.report import (
    SCHEMA,
    Line,
    ReportError,
    exit_code,
    lines_of,
    made,
    nothing_exercised,
    read,
    totals,
)

LAW = "manifold.last-axis-sums"
TARGETS = """
import ctypes, os, pathlib, signal
import mhc_ref
from properties import Implementation

class Right(Implementation):
    dtypes = ("float32",)
    def project(self, logits):
        return mhc_ref.project(logits, self.dialect)

class Raises(Right):
    def project(self, logits):
        raise ZeroDivisionError

class SaysGood(Right):
    def project(self, logits):
        os._exit(0)

class SaysBad(Right):
    def project(self, logits):
        os._exit(1)

class Crashes(Right):
    def project(self, logits):
        if logits.shape[-1] == 3:
            ctypes.string_at(0)
        return super().project(logits)

class Once(Right):
    def project(self, logits):
        mark = pathlib.Path("died")
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().project(logits)

class Waits(Right):
    # Whoever reads the pipe hears that a call has begun, and when nobody is left who could be in one.
    def project(self, logits):
        pipe = os.open("calls", os.O_WRONLY)
        os.write(pipe, b"x")
        signal.pause()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "targets.py").write_text(TARGETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    return tmp_path


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "properties.cli", "check", *arguments, "--hypothesis-profile", "ci"]


def check(*arguments: str, law: str = LAW) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments, "--law", law), capture_output=True, text=True, check=False, timeout=300)


def report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / ".mhc-properties" / "report.json").read_text())


# -- targets that end the process in which they are called -----------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "ending", "workers"),
    [
        pytest.param("SaysGood", "exited with status 0", "0", marks=pytest.mark.thorough),
        ("SaysBad", "exited with status 1", "1"),
        ("Crashes", "was killed by SIGSEGV", "0"),
        pytest.param("Crashes", "was killed by SIGSEGV", "1", marks=pytest.mark.thorough),
    ],
)
def test_a_crash_that_repeats_is_a_failed_law(folder: Path, target: str, ending: str, workers: str) -> None:
    done = check(f"targets.py:{target}", "targets.py:Right", "-n", workers)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{target} breaks {LAW} in float32 on cpu" in done.stdout
    assert f"project raised ProcessDied: the worker {ending}" in done.stdout
    assert f" --impl targets.py:{target} --isolate\n" in done.stdout
    found = report(folder)
    assert (found["complete"], found["totals"]["absent"]) == (True, 0)
    wrong, sound = (one["laws"][LAW] for one in found["runs"])
    assert (wrong["status"], sound["status"]) == ("failed", "passed")
    assert Path(wrong["counterexample"]).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [pytest.param("0", marks=pytest.mark.thorough), "1"])
def test_a_crash_that_does_not_repeat_is_an_error(folder: Path, workers: str) -> None:
    done = check("targets.py:Once", "-n", workers, law="manifold.")
    assert done.returncode >= 2, done.stdout + done.stderr
    assert "in a process of its own it did not happen again" in done.stdout
    (run,) = report(folder)["runs"]
    statuses = [one["status"] for one in run["laws"].values()]
    assert statuses.count("error") == 1
    assert statuses.count("passed") > 5
    assert report(folder)["complete"]


@pytest.mark.slow
def test_pytest_itself_is_ended_by_such_a_target_and_its_report_says_that_it_is_not_whole(folder: Path) -> None:
    words = ["--pyargs", "properties", "-p", "no:cacheprovider", "--law", LAW, "--impl", "targets.py:SaysGood"]
    done = subprocess.run([sys.executable, "-m", "pytest", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    found = report(folder)
    assert (found["complete"], found["totals"]["absent"]) == (False, 1)


@pytest.mark.slow
@pytest.mark.parametrize("status", [0, 4])
def test_a_module_that_ends_the_process_leaves_no_verdict(folder: Path, status: int) -> None:
    (folder / "leaves.py").write_text(f"import os\nos._exit({status})\n")
    done = check("leaves.py:x", "--json")
    assert done.returncode >= 2
    assert f"the process exited with status {status} before it had written its report" in done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "error": "the run left no report: stderr says why",
        "exit": done.returncode,
    }


def test_a_process_that_says_0_without_a_report_is_no_success(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    outcome = launch(["--version"], tmp_path)
    assert (outcome.status, outcome.report) == (3, None)
    assert "the process exited with status 0 before it had written its report" in capfd.readouterr().err


IN_PROCESS = """
import os
import mhc_ref
from properties import Implementation

class Block(Implementation):
    dtypes = ("float32",)
    def block(self, x, params, branch):
        if LEAVES:
            os._exit(1)
        return mhc_ref.block(x, params, branch, self.dialect)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("leaves", "status"), [(True, "failed"), (False, "error")])
def test_a_law_that_shares_its_process_with_the_target_is_tried_in_a_new_one(
    folder: Path, leaves: bool, status: str
) -> None:
    import torch

    from properties.core.law import all_laws
    from properties.engine.apart import examine_apart, subject_apart
    from properties.engine.runner import Profile, Subject
    from properties.targets.target import resolve

    (folder / "shared.py").write_text(IN_PROCESS.replace("LEAVES", str(leaves)))
    law = all_laws()["gradient.branches-learn"]
    assert law.on.in_process
    subject = Subject("shared.py:Block", resolve("shared.py:Block"), torch.float32, torch.device("cpu"))
    verdict = examine_apart(
        law,
        subject,
        Profile(examples=3, derandomise=True),
        directory=folder,
        randomness=None,
        death="was killed by SIGSEGV",
        made=subject_apart,
    )
    assert verdict.status == status
    assert verdict.reason.startswith(
        f"the process was killed by SIGSEGV while {law.id} was examined on Block-float32-cpu"
    )
    if leaves:
        assert verdict.message.startswith(f"Block breaks {law.id} in float32 on cpu")
        assert "and a process of its own exited with status 1" in verdict.reason


def test_the_law_in_which_a_process_died_has_the_cause_of_the_laws_that_come(tmp_path: Path) -> None:
    import torch

    from properties import Implementation
    from properties.causes import Causes
    from properties.core.law import all_laws
    from properties.engine.apart import examine_apart
    from properties.engine.runner import Profile, Subject, examine
    from properties.targets.process.protocol import ProcessDied

    class Dies(Implementation):
        def project(self, logits: torch.Tensor) -> torch.Tensor:
            raise ProcessDied("the worker was killed by SIGKILL")

    first, second = (all_laws()[f"manifold.{name}"] for name in ("last-axis-sums", "agrees-with-oracle"))
    subject = Subject("dies.py:Dies", Dies(), torch.float32, torch.device("cpu"))
    profile, known = Profile(examples=2, derandomise=True), Causes()
    one = examine_apart(
        first,
        subject,
        profile,
        directory=tmp_path,
        randomness=None,
        death="was killed by SIGKILL",
        made=lambda same: same,
        attribution=known,
    )
    other = examine(second, subject, profile, directory=tmp_path, attribution=known)
    assert [cause.key for cause in one.causes] == [cause.key for cause in other.causes] != []
    assert (one.belongs, other.belongs) == (("first",), ("shown",))


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="processes of POSIX")
def test_the_process_of_the_laws_finds_what_this_one_finds_and_inherits_no_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "beside.py").write_text("import os\nprint('PYTHONPATH', os.environ.get('PYTHONPATH'))\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "as it was")
    assert launch(["-p", "beside", "--help"], tmp_path).status == 3
    assert "PYTHONPATH as it was" in capfd.readouterr().out


# -- signals ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def calls(folder: Path) -> Iterator[int]:
    """The reading end of the pipe to which `Waits` writes when it is called."""
    os.mkfifo(folder / "calls")
    reader = os.open(folder / "calls", os.O_RDONLY | os.O_NONBLOCK)
    yield reader
    os.close(reader)


def heard(reader: int, wanted: bytes) -> None:
    """Wait for a call (b"x"), or for the end of everybody who was in one (b"")."""
    poll = select.poll()
    poll.register(reader, select.POLLIN | select.POLLHUP)
    while True:
        assert poll.poll(120_000), "nothing was heard"
        if os.read(reader, 1) == wanted:
            return


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("number", "workers"),
    [
        pytest.param(signal.SIGINT, "0", marks=pytest.mark.thorough),
        (signal.SIGINT, "2"),
        (signal.SIGTERM, "0"),
        pytest.param(signal.SIGTERM, "2", marks=pytest.mark.thorough),
        pytest.param(signal.SIGKILL, "0", marks=pytest.mark.thorough),
        (signal.SIGKILL, "2"),
    ],
)
def test_a_run_that_is_stopped_leaves_what_it_found_and_nobody_behind(
    folder: Path, calls: int, number: signal.Signals, workers: str
) -> None:
    arguments = command("targets.py:Raises", "targets.py:Waits", "--law", "manifold.agrees", "-n", workers)
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        heard(calls, b"x")
        process.send_signal(number)
        said, _ = process.communicate(timeout=120)
    heard(calls, b"")
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode >= 2, said
    if workers == "0":
        found = report(folder)
        assert not found["complete"]
        (run,) = found["runs"]
        assert run["laws"]["manifold.agrees-with-oracle"]["status"] == "failed"
        if number != signal.SIGKILL:
            assert "cause c1 of Raises: " in said


# -- the report ------------------------------------------------------------------------------------------------------


def line(law: str = "block.a", status: str = "passed", **more: Any) -> Line:
    return Line("mine", {}, "float32", "cpu", law, status, **more)


@pytest.mark.parametrize(
    ("statuses", "absent", "code"),
    [
        (["passed", "known"], 0, 0),
        (["passed", "not-applicable"], 0, 0),
        (["passed", "failed", "error"], 1, 1),
        (["passed", "error"], 0, 3),
        (["passed"], 1, 3),
        (["not-applicable"], 0, 5),
        ([], 0, 5),
    ],
)
def test_totals_stand_for_an_exit_status(statuses: list[str], absent: int, code: int) -> None:
    lines = [line(f"block.{number}", status) for number, status in enumerate(statuses)]
    assert exit_code(totals(lines, len(lines) + absent)) == code


def test_a_run_that_exercised_nothing_says_why_in_one_sentence() -> None:
    lines = [line(f"block.{number}", "not-applicable", reason=f"why {number // 2}") for number in range(9)]
    said = nothing_exercised(totals(lines, 9))
    assert said.startswith(
        "nothing was exercised, so this run says nothing about the implementation: why 0 (2); why 1 (2)"
    )
    assert "\n" not in said


RUN = '{"runs": [{"implementation": %s, "dialect": {}, "dtype": "b", "device": "c", "laws": {"d": {"status": "%s"}}}]}'


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        ("", "no report"),
        ("[]", "it holds list"),
        ("{}", "KeyError"),
        ('{"runs": [{"laws": 3}]}', "AttributeError"),
        ('{"runs": 3}', "TypeError"),
        ('{"schema": "2", "runs": []}', "the schema '2'"),
        ('{"schema": true, "runs": []}', "the schema True"),
        ('{"schema": 99, "runs": []}', "of a later version"),
        ("[" * 100_000, "no report"),
        (RUN % ('"a"', "e"), "'e'"),
        (RUN % ("1", "passed"), "string"),
    ],
)
def test_what_is_no_report_is_refused_in_words(tmp_path: Path, content: str, wrong: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(content)
    with pytest.raises(ReportError, match=wrong):
        read(path)
    with pytest.raises(ReportError, match="there is no file"):
        read(tmp_path)


def test_an_earlier_report_is_read_and_what_a_later_one_adds_is_passed_over(tmp_path: Path) -> None:
    written = made([line(worst_ratio=0.5), line("block.b", "failed", worst_ratio=None)], 2, {})
    path = tmp_path / "report.json"
    older = {name: written[name] for name in ("totals", "versions", "runs")}
    path.write_text(json.dumps(older))
    assert read(path)["complete"]
    assert lines_of(read(path)) == lines_of(written)
    for entry_of in written["runs"][0]["laws"].values():
        entry_of["more"] = 3
    path.write_text(json.dumps({**written, "causes": []}))
    assert (read(path)["schema"], lines_of(read(path))) == (SCHEMA, lines_of(older))


def test_a_report_grows_with_every_failure_and_says_that_it_is_not_whole(tmp_path: Path) -> None:
    gathering = Gathering(tmp_path)
    gathering.collected = {"a", "b", "c"}
    gathering.path.write_text("of an earlier run")
    gathering.begin()
    found = read(gathering.path)
    assert (found["complete"], found["totals"]["absent"], lines_of(found)) == (False, 3, [])
    gathering.add("a", line("block.a"))
    gathering.add("b", line("block.b", "failed", worst_ratio=None))
    found = read(gathering.path)
    assert (found["complete"], found["totals"]["absent"], len(lines_of(found))) == (False, 1, 2)
    gathering.add("c", line("block.c"))
    gathering.write(complete=True)
    assert (read(gathering.path)["complete"], gathering.whole) == (True, True)


def test_a_report_that_cannot_be_written_leaves_the_one_before_and_says_why(tmp_path: Path) -> None:
    gathering = Gathering(tmp_path / "file")
    (tmp_path / "file").write_text("a file where the folder should be")
    gathering.collected = {"a"}
    gathering.add("a", line())
    assert gathering.write(complete=True)["totals"]["passed"] == 1
    assert "report.json could not be written" in gathering.trouble
    assert not gathering.whole


# -- the journal -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="descriptors are handed on")
def test_the_journal_outlives_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "journal").open("w+b", buffering=0) as file:
        monkeypatch.setenv(JOURNAL, str(file.fileno()))
        gathering = Gathering(tmp_path)
        assert JOURNAL not in os.environ
        gathering.collected = {"a", "b"}
        gathering.begin()
        gathering.began("a")
        gathering.ended("a", line("block.a", "failed", worst_ratio=None), "a message")
        gathering.began("b")
        left = Journal.of((tmp_path / "journal").read_bytes() + b'{"law": "torn')
        assert (left.open, left.last, left.collected) == (True, "b", 2)
        assert left.messages == {"a": "a message"}
        assert left.lines["a"].status == "failed"
        file.write(entry(law="b", died="was killed by SIGKILL"))
        monkeypatch.setenv(JOURNAL, str(file.fileno()))
        again = Gathering(tmp_path)
        assert again.earlier.deaths == {"b": ["was killed by SIGKILL"]}
        assert (again.earlier.open, again.earlier.last) == (False, None)
        again.end()
        assert not Journal.of((tmp_path / "journal").read_bytes()).open


# -- commands that call a target of somebody else --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["identify", "mine.py:Mine"], True),
        (["identify", "proc:node x"], True),
        (["identify", "published:mhc"], False),
        (["identify", "ref", "--json"], False),
        (["replay", "file"], False),
        (["replay", "file", "--impl=mine.py:Mine"], True),
        (["replay", "file", "--trust"], True),
        (["explode", "hc"], False),
        (["explode", "target:mine.py:Mine"], True),
        (["explode", "model:mine.py:build"], True),
        (["explode", "mhc", "--impl", "mine.py:Mine"], True),
        (["laws"], False),
        ([], False),
    ],
)
def test_a_command_that_calls_a_stranger_does_so_in_another_process(words: list[str], expected: bool) -> None:
    assert calls_a_stranger(words) == expected


@pytest.mark.slow
def test_a_target_that_ends_the_process_gives_no_answer(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "properties.cli", "identify", "targets.py:SaysGood"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode >= 2
    assert done.stdout == ""
    assert "the process exited with status 0 before it had an answer" in done.stderr


_ANSWERED = (
    "import os, sys, properties.commands.answering as answering; "
    "answering.program = lambda module, words: [sys.executable, '-c', os.environ['PROGRAM'], *words]; "
    "raise SystemExit(answering.answers_for(sys.argv[1:]))"
)


def _answered(folder: Path, program: str, *words: str) -> subprocess.CompletedProcess[str]:
    """What `answers_for` makes of a command that is this program."""
    return subprocess.run(
        [sys.executable, "-c", _ANSWERED, *words],
        cwd=folder,
        env={**os.environ, "PROGRAM": program},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


_ANSWERS = (
    "from properties.guards.answer import tell; from properties.commands.answering import answering; "
    "import os, sys, subprocess\n"
)


def test_what_a_target_prints_is_never_before_or_behind_the_object(folder: Path) -> None:
    program = _ANSWERS + (
        "with answering():\n"
        "    os.write(1, b'no end'); print('of a line', end=''); tell({'a': float('nan')}); os.write(1, b'more')\n"
        "    sys.stdout.flush(); [os.close(one) for one in (0, 1, 2)]; raise SystemExit(1)\n"
    )
    done = _answered(folder, program, "replay", "--json")
    assert done.returncode == 1
    assert done.stdout == '{"a": null}\n'
    assert "no end" in done.stderr


@pytest.mark.parametrize("ending", ["os._exit(0)", "os.kill(os.getpid(), 9)", "raise SystemExit(2)"])
def test_a_command_without_an_answer_prints_an_object_that_says_so(folder: Path, ending: str) -> None:
    done = _answered(folder, f"{_ANSWERS}with answering():\n    {ending}\n", "identify", "--json")
    assert done.returncode >= 2
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["exit"] == done.returncode
    assert json.loads(line)["error"]


def test_a_verdict_that_its_process_takes_back_is_not_printed(folder: Path) -> None:
    ending = "tell({'status': 'FIXED'})\nos._exit(1)\n"
    done = _answered(folder, f"{_ANSWERS}with answering():\n    {ending}", "replay", "--json")
    assert done.returncode == 3
    assert "FIXED" not in done.stdout


def test_a_process_that_the_target_leaves_behind_holds_nothing_up(folder: Path) -> None:
    # The child reads from a pipe whose other end its parent's parent holds until that one has returned.
    program = _ANSWERS + (
        "with answering():\n    if os.fork() == 0:\n        os.close(1); os.close(2); os.read(0, 1); os._exit(0)\n"
    )
    reading, writing = os.pipe()
    try:
        done = subprocess.run(
            [sys.executable, "-c", _ANSWERED, "replay"],
            stdin=reading,
            env={**os.environ, "PROGRAM": program},
            timeout=60,
            check=False,
        )
    finally:
        os.close(reading)
        os.close(writing)
    assert done.returncode == 0


@pytest.mark.skipif(os.name != "posix", reason="elsewhere a folder that is in use cannot be removed")
@pytest.mark.parametrize("command", ["check", "replay"])
def test_a_command_in_a_folder_that_is_gone_says_so(tmp_path: Path, command: str) -> None:
    program = (
        "import os, sys; os.rmdir(os.getcwd()); from properties.cli import main; "
        f"sys.argv[1:] = [{command!r}, 'ref:PAPER', '--json']; main()"
    )
    path = os.pathsep.join([str(Path.cwd()), *filter(None, [os.environ.get("PYTHONPATH")])])
    (tmp_path / "gone").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path / "gone",
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"].startswith("the current folder cannot be used")
    assert "Traceback" not in done.stderr


# -- what a signal does ----------------------------------------------------------------------------------------------


@pytest.fixture
def stopping() -> Iterator[tuple[Stopping, list[str]]]:
    asked: list[str] = []
    made_one = Stopping(asked.append, lambda: None)
    kept = {number: signal.signal(number, signal.SIG_DFL) for number in STOPPING}
    made_one.install()
    yield made_one, asked
    made_one.remove()
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_signal_asks_once_and_interrupts(stopping: tuple[Stopping, list[str]]) -> None:
    one, asked = stopping
    with pytest.raises(KeyboardInterrupt, match="stopped by SIGTERM"):
        signal.raise_signal(signal.SIGTERM)
    one.finish()
    signal.raise_signal(signal.SIGINT)  # the same Ctrl-C, handed on by the parent
    assert asked == ["SIGTERM"]
    assert one.asked == "SIGTERM"


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_signal_while_the_report_is_written_waits(stopping: tuple[Stopping, list[str]]) -> None:
    one, asked = stopping
    one.held = True
    signal.raise_signal(signal.SIGINT)
    assert asked == ["SIGINT"]
    one.finish()


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_signal_after_the_report_of_a_process_that_is_there_for_it_alone_changes_nothing() -> None:
    asked: list[str] = []
    kept = {number: signal.signal(number, signal.SIG_DFL) for number in STOPPING}
    one = Stopping(asked.append, lambda: None, alone=True)
    try:
        one.install()
        one.finish()
        signal.raise_signal(signal.SIGINT)
        one.remove()
        for number in STOPPING:
            signal.raise_signal(number)
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def test_two_runs_at_once_do_not_write_one_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "reports"
    folder.mkdir()
    (folder / "report.json").write_text("that of the other")
    with alone_in(folder) as alone:
        assert alone
        outcome = launch(["--version"], folder)
    assert (outcome.status, outcome.report) == (2, None)
    assert "another run is writing its report there" in capsys.readouterr().err
    assert (folder / "report.json").read_text() == "that of the other"
    with alone_in(folder) as alone:
        assert alone


def test_a_handler_of_somebody_else_is_left_alone() -> None:
    heard_of: list[int] = []
    kept = signal.signal(signal.SIGTERM, lambda number, _: heard_of.append(number))
    one = Stopping(lambda _: None, lambda: None)
    try:
        one.install()
        signal.raise_signal(signal.SIGTERM)
        assert heard_of == [signal.SIGTERM]
        assert one.asked == ""
    finally:
        one.remove()
        signal.signal(signal.SIGTERM, kept)


@pytest.mark.parametrize(
    ("status", "asked", "words"),
    [
        (3, "", "exited with status 3"),
        (-11, "", "was killed by SIGSEGV"),
        (-9, "", "was killed by SIGKILL (out of memory?)"),
        (-9, "SIGTERM", "was asked to end by SIGTERM, and was killed as it did not"),
        (-15, "SIGTERM", "was killed by SIGTERM"),
    ],
)
def test_how_a_process_ended_is_told_with_whoever_asked_it_to(status: int, asked: str, words: str) -> None:
    assert ended(status, asked) == words
