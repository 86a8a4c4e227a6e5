"""While laws run: where the run stands, in a line that is written over, and a cause as soon as it is known."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from properties.plugin import screen as module
from properties.plugin.gathering import Gathering
from properties.plugin.screen import Screen
from properties.report.cause import Cause
from properties.report.report import Line

NODE = "properties/laws/block.py::block.a[Mine-float32-cpu]"
CAUSE = Cause("key", "Mine", "h_res is applied transposed", first="block.a")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Captured(Terminal):
    """A terminal, and pytest's capture: what is written while a law is examined does not reach it."""

    heard = True

    def write(self, text: str, /) -> int:
        return super().write(text) if self.heard else len(text)

    @contextlib.contextmanager
    def global_and_fixture_disabled(self) -> Generator[None]:
        before, self.heard = self.heard, True
        yield
        self.heard = before


class Reporter:
    """What of pytest's reporter is used, writing where the line of the run is written."""

    def ensure_newline(self) -> None: ...

    def flush(self) -> None: ...

    def write_line(self, text: str) -> None:
        sys.stderr.write(f"{text}\n")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    return now


def screen(tmp_path: Path, capture: Captured | None = None) -> Screen:
    plugins = {"terminalreporter": Reporter(), "capturemanager": capture}
    config: Any = SimpleNamespace(pluginmanager=SimpleNamespace(get_plugin=plugins.get))
    gathering = Gathering(tmp_path)
    gathering.collected = {NODE, "b", "c"}
    return Screen(config, gathering)


def test_it_says_which_law_how_many_of_how_many_and_what_was_found(
    clock: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    shown = screen(tmp_path)
    shown.pytest_runtest_logstart(NODE)
    assert stream.getvalue().endswith("laws: 0 of 3, 0 s: block.a[Mine-float32-cpu]")
    failed = Line("Mine", {}, "float32", "cpu", "block.a", "failed", causes=("key",), belongs=("first",))
    shown.gathering.lines[NODE] = failed
    shown.gathering.causes["key"] = CAUSE
    shown.pytest_runtest_logstart("laws/block.py::b")
    assert stream.getvalue().endswith("laws: 1 of 3, 0 s: 1 failed, 1 cause; b")
    shown.pytest_sessionfinish()
    assert stream.getvalue().endswith("\r\x1b[2K")


def test_a_cause_takes_the_place_of_the_line_and_stays(
    clock: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    shown = screen(tmp_path)
    shown.pytest_runtest_logstart(NODE)
    shown.cause(CAUSE, "c1")
    said = stream.getvalue().rpartition("\r\x1b[2K")[2]
    assert said == "cause c1 of Mine: h_res is applied transposed\n    first seen by block.a\n"
    assert shown.written == 2


def test_the_line_is_taken_away_though_the_law_that_found_the_cause_is_still_examined(
    clock: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Captured()
    monkeypatch.setattr(sys, "stderr", stream)
    shown = screen(tmp_path, stream)
    shown.pytest_runtest_logstart(NODE)
    stream.heard = False
    shown.cause(CAUSE, "c1")
    assert "block.a[Mine-float32-cpu]\r\x1b[2Kcause c1 of Mine" in stream.getvalue()


def test_without_a_terminal_plain_lines_become_rare(
    clock: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    shown = screen(tmp_path)
    for second in range(400):
        clock.seconds = float(second)
        shown.pytest_runtest_logstart(NODE)
    assert len(stream.getvalue().splitlines()) == 6
    assert "\x1b" not in stream.getvalue()
    assert shown.written == 6


def test_without_a_reporter_nothing_is_said(clock: SimpleNamespace, tmp_path: Path) -> None:
    shown = screen(tmp_path)
    shown.config = SimpleNamespace(pluginmanager=SimpleNamespace(get_plugin=lambda _: None))  # pyright: ignore[reportAttributeAccessIssue]
    shown.cause(CAUSE, "c1")
    assert shown.written == 0
