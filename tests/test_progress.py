"""The line that says where a command stands: written over on a terminal, seldom elsewhere, and never in the way."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from properties import cli
from properties.commands import verify
from properties.diagnosis import identify_command
from properties.guards import progress as module
from properties.guards.progress import OFTEN, SELDOM, Progress, progress
from properties.plugin.launch import Outcome
from properties.report.report import Line, made


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "_now", clock)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    return clock


def test_a_terminal_has_one_line_that_is_written_over_and_taken_away(clock: Clock) -> None:
    stream = Terminal()
    with progress("identify", total=40, stream=stream) as line:
        line.say("the projection", done=1)
        clock.now += OFTEN
        line.say("gradient of a block", done=12)
        assert stream.getvalue().endswith("\r\x1b[2Kidentify: 12 of 40, 0 s: gradient of a block")
    assert stream.getvalue().endswith("\r\x1b[2K")
    assert "\n" not in stream.getvalue()


def test_a_terminal_is_not_flooded(clock: Clock) -> None:
    stream = Terminal()
    with progress("identify", stream=stream) as line:
        for step in range(1000):
            line.say(f"step {step}")
    assert stream.getvalue().count("step") == 1


def test_a_line_is_cut_where_the_terminal_ends_and_steers_nothing(clock: Clock) -> None:
    stream = Terminal()
    with progress("check", stream=stream) as line:
        line.say("a\x1b[2Jb\n" + 200 * "x")
        (shown,) = stream.getvalue().split("\r\x1b[2K")[1:]
    assert shown == r"check: 0 s: a\x1b[2Jb " + 37 * "x"


def test_what_is_printed_between_has_a_line_of_its_own(clock: Clock) -> None:
    stream = Terminal()
    with progress("check", stream=stream) as line:
        line.say("first")
        line.clear()
        stream.write("a cause\n")
        line.say("second")
    assert stream.getvalue() == "\r\x1b[2Kcheck: 0 s: first\r\x1b[2Ka cause\n\r\x1b[2Kcheck: 0 s: second\r\x1b[2K"


@pytest.mark.parametrize("terminal", ["none", "dumb"])
def test_where_there_is_no_terminal_a_plain_line_comes_now_and_then(
    clock: Clock, terminal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Terminal() if terminal == "dumb" else io.StringIO()
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress("atlas", stream=stream) as line:
        for second in range(2 * int(SELDOM) + 1):
            clock.now = float(second)
            line.say(f"depth {second}", done=second, total=90)
    assert stream.getvalue() == "atlas: 5 of 90, 5 s: depth 5\natlas: 10 of 90, 10 s: depth 10\n"


def test_what_ends_quickly_says_nothing_where_there_is_no_terminal(clock: Clock) -> None:
    stream = io.StringIO()
    with progress("identify", stream=stream) as line:
        line.say("all of it")
    assert stream.getvalue() == ""


def test_the_line_is_taken_away_where_a_command_fails(clock: Clock) -> None:
    stream = Terminal()
    with contextlib.suppress(ZeroDivisionError), progress("verify", stream=stream) as line:
        line.say("dividing")
        raise ZeroDivisionError
    assert "dividing" in stream.getvalue()
    assert stream.getvalue().endswith("\r\x1b[2K")


@pytest.mark.parametrize("terminal", [True, False])
def test_nobody_stops_because_nobody_looks_on(clock: Clock, terminal: bool) -> None:
    stream = Terminal() if terminal else io.StringIO()
    with progress("verify", stream=stream) as line:
        line.say("first")
        stream.close()
        clock.now += SELDOM
        line.say("second")
        line.clear()
    with progress("verify", stream=stream) as line:
        line.say("third")


def test_rich_is_loaded_with_the_first_line_on_a_terminal() -> None:
    words = "from properties.guards.progress import progress\nwith progress('check') as line: line.say('a law')\n"
    asked = "import sys\nprint([name for name in sys.modules if name.partition('.')[0] == 'rich'])"
    done = subprocess.run([sys.executable, "-c", words + asked], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def stages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a command says while it works, all of it."""
    heard: list[str] = []
    monkeypatch.setattr(Progress, "say", lambda self, text, done=None, total=None: heard.append(text))
    return heard


def test_identify_says_what_it_asks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heard = stages(monkeypatch)
    file = tmp_path / "mine.py"
    file.write_text("def strange(logits):\n    return logits.cos()\n")
    assert identify_command(f"{file}:strange", as_json=True, seconds=0.01) == 1
    assert any(text.startswith("asking for h_res of logits of size") for text in heard), heard
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_verify_says_what_came_of_each_target_and_which_explosion_it_looks_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heard = stages(monkeypatch)
    report = made([Line("ref:PAPER", {}, "float32", "cpu", "block.one", "passed")], 1, {})
    monkeypatch.setattr("properties.plugin.launch.launch", lambda arguments, folder: Outcome(0, report))
    monkeypatch.setattr(verify, "EXPLOSIONS", (("residual", {"threshold": "100", "branch_bound": "0.1"}),))
    assert verify.main_job(as_json=True, directory=tmp_path) == 0
    assert any(text.startswith("explosion of residual, ") for text in heard), heard
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1
    assert "\nref:PAPER  1 held\n1 target: 1 held\n" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["atlas", "--max-streams", "1", "--deviation", "1", "--json"], "residual, n = 1, deviation 1: best "),
        (["explode", "residual", "--threshold", "100", "--branch-bound", "0.1", "--json"], ": best "),
    ],
)
def test_searches_say_where_they_look(words: list[str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = stages(monkeypatch)
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 0, done.output
    assert any(said in text for text in heard), heard
    assert len(done.stdout.splitlines()) == 1
