"""What the laws of a run have left so far, in the process that gathers it: on disk while it grows, and in a journal.

`report.json` is written again, whole, whenever a law has failed, and otherwise every second or so, so that a run that
is cut off has left what it found. The journal is for the process that started this one (`properties.plugin.launch`): it
has every law that was begun, and outlives a process that a target has ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from properties.guards.printable import message_of
from properties.guards.whole import write_whole
from properties.report.cause import Cause, joined
from properties.report.report import Line, Unreached, made, write

JOURNAL = "MHC_PROPERTIES_JOURNAL"
"""The environment variable that names the file descriptor of the journal."""

_PAUSE = 1.0
"""Seconds between two reports of a run that goes well."""
_SHARE = 20
"""The time between two reports is at least that many times what the last one took."""


@dataclass
class Journal:
    """What an earlier process of this run has written: finished laws with their messages, and how processes ended.

    Attributes:
        lines, messages: by node id.
        causes: by key, in the order in which they were found.
        deaths: node id -> how the process ended in which that law was begun, in words, for each time.
        collected: how many laws there are.
        last: the law that was begun and not finished; None where there is none.
        open: a process has begun, and has neither ended by itself nor been found dead.
    """

    lines: dict[str, Line] = field(default_factory=lambda: {})
    messages: dict[str, str] = field(default_factory=lambda: {})
    causes: dict[str, Cause] = field(default_factory=lambda: {})
    deaths: dict[str, list[str]] = field(default_factory=lambda: {})
    collected: int = 0
    last: str | None = None
    open: bool = False

    @classmethod
    def of(cls, data: bytes) -> Journal:
        """Read one; a torn last line is passed over."""
        found = cls()
        for text in data.split(b"\n"):
            try:
                entry = json.loads(text)
            except ValueError:  # nothing, or a line that the end of its process has cut
                continue
            found._take(entry)
        return found

    def _take(self, entry: dict[str, Any]) -> None:
        if "collected" in entry:
            self.collected = entry["collected"]
        elif "open" in entry:
            self.open = entry["open"]
        elif "cause" in entry:
            cause = Cause.from_json(entry["cause"])
            self.causes[cause.key] = joined(self.causes.get(cause.key), cause)
        elif "died" in entry:
            self.deaths.setdefault(entry["law"], []).append(entry["died"])
            self.last, self.open = None, False
        elif "line" in entry:
            self.lines[entry["law"]] = Line.from_json(entry["line"])
            self.messages[entry["law"]] = entry["message"]
            self.last = None
        else:
            self.last = entry["law"]


def entry(**fields: Any) -> bytes:
    """A line of a journal."""
    return json.dumps(fields).encode() + b"\n"


class Gathering:
    """The lines of a run, and the report that grows with them.

    Attributes:
        lines: by node id.
        collected: the node ids of all laws that must be in the report in the end.
        causes: by key, in the order in which they were found.
        announce: told of every cause as soon as it is known.
        unreached: node id -> why it was not tried, of those that the run was asked to leave out.
        earlier: what earlier processes of this run have found.
        trouble: why the report could not be written when that was tried last; nothing where it could.
        whole: whether the complete report has been written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines: dict[str, Line] = {}
        self.collected: set[str] = set()
        self.causes: dict[str, Cause] = {}
        self.unreached: dict[str, str] = {}
        self.announce: Callable[[Cause], None] = lambda _: None
        self.trouble = ""
        self.whole = False
        self._due = 0.0
        self._descriptor = _inherited()
        self.earlier = Journal() if self._descriptor is None else Journal.of(_contents(self._descriptor))
        self.causes.update(self.earlier.causes)
        self._journal(open=True)

    @property
    def path(self) -> Path:
        """Where the report goes."""
        return self.folder / "report.json"

    @property
    def page(self) -> Path:
        """Where the report goes as a page to look at."""
        return self.folder / "report.html"

    def begin(self) -> None:
        """All laws are known: no report of an earlier run may be taken for this one's."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)
            self.page.unlink(missing_ok=True)
        self._journal(collected=len(self.collected))
        if "torch" in sys.modules:  # which a process that only gathers imports later, for the versions
            self.write(complete=False)

    def began(self, law: str) -> None:
        """A law is about to be examined in this process."""
        self._journal(law=law)

    def ended(self, law: str, line: Line, message: str) -> None:
        """A law has been examined in this process."""
        self._journal(law=law, line=line.to_json(), message=message)

    def add(self, law: str, line: Line) -> None:
        """A law has its line; the report follows where it is due."""
        if self.lines.get(law) == line:
            return
        self.lines[law] = line
        if line.status == "failed" or time.monotonic() >= self._due:
            self.write(complete=False)

    def cause(self, cause: Cause) -> None:
        """A cause is known; of two with one key the first stays, with what the second knows of sizes."""
        before = self.causes.get(cause.key)
        if (now := joined(before, cause)) != before:
            self.causes[cause.key] = now
            self._journal(cause=now.to_json())
        if before is None:
            self.announce(now)

    def leave_out(self, laws: Iterable[str], why: str) -> None:
        """Laws are not tried, as the run was asked to end before."""
        self.unreached.update({law: why for law in laws if law not in self.lines})

    def left_out(self) -> Unreached:
        """What was not tried, for the report."""
        names = [name.rpartition("::")[2].partition("[")[0] for name in self.unreached]
        return Unreached(tuple(names), next(iter(self.unreached.values()), ""))

    @property
    def missing(self) -> set[str]:
        """The laws of which nothing is known."""
        return self.collected - self.lines.keys() - self.unreached.keys()

    def end(self) -> None:
        """This process ends by itself."""
        self._journal(open=False)

    def write(self, *, complete: bool) -> dict[str, Any]:
        """Write the report, or note why that cannot be; its content all the same."""
        from properties.engine.counterexample import versions

        began = time.monotonic()
        lines, count = list(self.lines.values()), max(len(self.collected), len(self.lines))
        found, causes, left = versions(), list(self.causes.values()), self.left_out()
        try:
            report = write(self.path, lines, count, found, complete, causes, left)
            self.trouble, self.whole = "", complete
        except OSError as error:
            report = made(lines, count, found, complete, causes, left)
            self.trouble = f"{self.path} could not be written: {message_of(error, 300)}"
        ended = time.monotonic()
        self._due = ended + max(_PAUSE, _SHARE * (ended - began))
        return report

    def draw(self, report: dict[str, Any]) -> None:
        """Write the page of a report, or note why that cannot be."""
        from properties.report.page.render import Shown, page

        try:
            write_whole(self.page, page([Shown(self.folder.name, report, self.folder)]))
        except OSError as error:
            self.trouble = self.trouble or f"{self.page} could not be written: {message_of(error, 300)}"

    def _journal(self, **fields: Any) -> None:
        if self._descriptor is None:
            return
        try:
            data = entry(**fields)
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:  # no room: its reader is told that it knows nothing, and the run itself does not need it
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, 0)
                os.lseek(self._descriptor, 0, os.SEEK_SET)
                os.write(self._descriptor, entry(open=False))
            self._descriptor = None


def _inherited() -> int | None:
    """The descriptor of the journal, kept from the processes that this one starts."""
    given = os.environ.pop(JOURNAL, "")
    if not given.isdigit():
        return None
    try:
        os.set_inheritable(int(given), False)
    except OSError:
        return None
    return int(given)


def _contents(descriptor: int) -> bytes:
    parts: list[bytes] = []
    while part := os.pread(descriptor, 1 << 20, sum(map(len, parts))):
        parts.append(part)
    return b"".join(parts)


GATHERING: pytest.StashKey[Gathering] = pytest.StashKey()
"""Where a run keeps what its laws leave, in the process that reports."""
