"""What a run says while it runs: where it stands, in one line, and every cause in full as soon as it is known."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import pytest

from properties.guards.progress import Progress

if TYPE_CHECKING:
    from properties.plugin.gathering import Gathering
    from properties.report.cause import Cause

_FIRST = 10.0
"""Seconds until the first plain line where there is no terminal; each further one takes twice as long."""


class Screen:
    """Hooks of the process that gathers, in a run of nothing but laws.

    Attributes:
        written: how many lines have been written so far, and stay.
        over: all laws have been tried, and pytest says what it has to say.
    """

    def __init__(self, config: pytest.Config, gathering: Gathering) -> None:
        self.config, self.gathering = config, gathering
        self.written, self.over = 0, False
        self._line: Progress | None = None
        self._began = time.monotonic()
        self._due = _FIRST

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """A law is begun, by this process or a worker."""
        self._say(nodeid.rpartition("::")[2])

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """The line has served."""
        self.clear()

    def cause(self, cause: Cause, number: str) -> None:
        """A cause has become known, perhaps while its law is still being examined."""
        from properties.report.summary import paragraph

        with aloud(self.config) as reporter:
            self.clear()  # in here: while a law is examined its stderr is pytest's, and what is written there is kept
            if reporter is None:  # -p no:terminal
                return
            for text in (*[""] * (number != "c1"), *paragraph(cause, number, [], known=True)):
                reporter.write_line(text)
                self.written += 1

    def clear(self) -> None:
        """Take the line away, before something is written that stays."""
        if self._line is not None:
            self._line.clear()

    def _say(self, law: str) -> None:
        if self._line is None:
            self._line = Progress("laws")
        elapsed = time.monotonic() - self._began
        if not self._line.terminal:
            if elapsed < self._due:
                return
            self._due = 2 * elapsed
            self.written += 1
        lines = self.gathering.lines.values()
        failed = sum(line.status == "failed" for line in lines)
        causes = len(self.gathering.causes)
        found = f"{failed} failed, {causes} cause{'s' * (causes != 1)}; " if failed else ""
        done = len(self.gathering.lines) + len(self.gathering.unreached)
        self._line.say(f"{found}{law}", done=done, total=len(self.gathering.collected), at_once=True)


SCREEN: pytest.StashKey[Screen] = pytest.StashKey()
"""What is said while nothing but laws runs; there is none beside other tests, and none with -v."""


@contextlib.contextmanager
def aloud(config: pytest.Config) -> Generator[Any]:
    """pytest's reporter of the terminal, heard also while a law is examined and what its target prints is kept; None
    where it was switched off."""
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    capture: Any = config.pluginmanager.get_plugin("capturemanager")
    with capture.global_and_fixture_disabled() if capture is not None else contextlib.nullcontext():
        if reporter is not None:
            reporter.ensure_newline()
        yield reporter
        if reporter is not None:
            reporter.flush()
