"""Where a command stands, while it works: one line on a terminal that is written over, plain lines now and then
elsewhere.

    with progress("identify", total=40) as line:
        line.say("gradient of a block", done=12)        identify: 12 of 40, 3 s: gradient of a block

It goes to stderr, so that what a command answers on stdout stays alone there. Rich fits the line to the terminal; it is
imported with the first line that a terminal gets. Its live display is not used: that one starts a thread and hides the
cursor, and a target may fork, or end this process and leave the terminal without one.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Generator
from typing import TYPE_CHECKING, TextIO

from properties.guards.printable import printable

if TYPE_CHECKING:
    from rich.console import Console

OFTEN = 0.1
"""Seconds between two lines that are written over one another."""
SELDOM = 5.0
"""Seconds between two plain lines: none for what takes less."""

_now = time.monotonic


class Progress:
    """The line of one command; `progress` makes one and takes it away again.

    What it cannot write is lost: nobody who works has to stop because nobody looks on.
    """

    def __init__(self, name: str, total: int | None = None, stream: TextIO | None = None) -> None:
        self._name = name
        self._total = total
        self._stream = sys.stderr if stream is None else stream
        self._terminal = _terminal(self._stream)
        self._console: Console | None = None
        self._began = _now()
        self._written = self._began - OFTEN if self._terminal else self._began
        self._open = False

    @property
    def terminal(self) -> bool:
        """Whether the line is written over; otherwise each stays."""
        return self._terminal

    def say(self, text: str, done: int | None = None, total: int | None = None, at_once: bool = False) -> None:
        """What is being done, and how many of how many are; at most one line in `OFTEN`, or `SELDOM`, seconds.

        `at_once`: however short a time ago the last one was written.
        """
        self._total = self._total if total is None else total
        now = _now()
        if not at_once and now - self._written < (OFTEN if self._terminal else SELDOM):
            return
        self._written = now
        of = f" of {self._total}" if self._total is not None else ""
        counted = f"{done}{of}, " if done is not None else ""
        line = " ".join(printable(f"{self._name}: {counted}{now - self._began:.0f} s: {text}").split()).rstrip(":")
        with contextlib.suppress(OSError, ValueError):
            if self._terminal:
                self._over(line)
            else:
                self._stream.write(f"{line}\n")
                self._stream.flush()

    def clear(self) -> None:
        """Take the line away, so that something else can be printed; the next `say` writes it again, at once."""
        if not self._open:
            return
        with contextlib.suppress(OSError, ValueError):
            self._over("")
        self._open = False
        self._written = _now() - OFTEN

    def _over(self, line: str) -> None:
        from rich.console import Console
        from rich.control import Control
        from rich.segment import ControlType
        from rich.text import Text

        if self._console is None:
            self._console = Console(file=self._stream, force_terminal=True, color_system=None, highlight=False)
        self._console.control(Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2)))
        text = Text(line)
        text.truncate(max(1, self._console.width - 1))  # in the last column some terminals begin the next line
        self._console.print(text, end="")
        self._stream.flush()
        self._open = True


@contextlib.contextmanager
def progress(name: str, total: int | None = None, stream: TextIO | None = None) -> Generator[Progress]:
    """The line of the command `name`, on `stream` (stderr), taken away whatever happens; of `total` steps, if known."""
    line = Progress(name, total, stream)
    try:
        yield line
    finally:
        line.clear()


def _terminal(stream: TextIO | None) -> bool:
    """Whether a line there can be written over."""
    try:
        return stream is not None and stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    except (OSError, ValueError):
        return False
