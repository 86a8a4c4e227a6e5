"""The laws in a pytest of their own process, watched by this one, which imports no torch.

An implementation can end the process that it is called in, with any exit status. So the verdict is the report's, and
what the process said counts only where it agrees with that. Where it died while a law was examined, a new process goes
on: it takes what was found over, tries that law again with the target in a process of its own, and holds the target
apart from there on.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from properties.guards.answer import HARNESS_ERROR, USAGE
from properties.guards.child import Forwarding, ended, program, say
from properties.guards.printable import printable
from properties.guards.stopping import PARENT
from properties.plugin.gathering import JOURNAL, Journal, entry
from properties.plugin.options import LEFT
from properties.report.report import Line, ReportError, exit_code, read, totals, write
from properties.report.summary import ending

LAWS_ALONE = (
    *("--pyargs", "properties", "-q", "-p", "no:cacheprovider"),
    # The project in whose folder this runs has a say about its own tests only.
    *("--noconftest", "-o", "addopts="),
    # pytest that is started from Python finds modules imported that it would like to rewrite, to no harm; and a signal
    # that falls into a callback of the garbage collector is noted there already, so that no traceback has to tell.
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
    *("-W", "ignore::pytest.PytestUnraisableExceptionWarning"),
)
"""The arguments of a pytest that runs the laws and nothing else; targets, workers and the report come behind them."""

_PYTEST_USAGE = 4
_LIVES = 20
"""After how many deaths of its processes a run is given up."""


@dataclass(frozen=True)
class Outcome:
    """The exit status of a run, and its report where it left one."""

    status: int
    report: dict[str, Any] | None


def launch(arguments: Sequence[str], folder: Path, seconds: float | None = None) -> Outcome:
    """Run pytest with `arguments`, which report to `folder`, and look at what it left.

    `seconds`: what --time gives the run, of which an earlier process leaves the rest to the next one.

    Whatever goes to the file descriptors 1 and 2 goes to `sys.stdout` and `sys.stderr` of this process.
    """
    path, end = folder / "report.json", None if seconds is None else time.monotonic() + seconds
    named = f"mhc-properties: --report {printable(str(folder), 200)}"
    with contextlib.ExitStack() as stack:
        try:
            if not stack.enter_context(alone_in(folder)):
                say(f"{named}: another run is writing its report there. Wait for it, or give this one another folder")
                return Outcome(USAGE, None)
            path.unlink(missing_ok=True)
        except (OSError, ValueError) as error:
            why = (error.strerror if isinstance(error, OSError) else None) or str(error)
            say(f"{named}: expected a folder that can be written: {why}")
            return Outcome(USAGE, None)
        return _launched(arguments, path, end)


@contextlib.contextmanager
def alone_in(folder: Path) -> Generator[bool]:
    """Whether no other run reports to a folder, which is made; none will while this is open, where there are locks."""
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # no POSIX
        yield True
        return
    held = os.open(folder, os.O_RDONLY)
    try:
        alone = True
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            alone = False
        except OSError:  # a file system without locks
            pass
        yield alone
    finally:
        os.close(held)
        with contextlib.suppress(OSError):  # a run that left nothing leaves no folder either
            if made:
                folder.rmdir()


def _launched(arguments: Sequence[str], path: Path, end: float | None) -> Outcome:
    with _journal() as journal:
        status, stopped = 0, ""
        for _ in range(_LIVES):
            left_over = None if end is None else max(0.001, end - time.monotonic())
            status, stopped = _run(arguments, journal, left_over)
            left = _left(journal)
            if stopped or not left.open or left.last is None or _report(path, whole=True):
                break
            death = ended(status)
            law = left.last.rpartition("::")[2]
            say(
                f"mhc-properties: the process {death} while {law} was examined; going on in a new one, where the "
                "target works in a process of its own"
            )
            try:
                if journal is not None:
                    os.write(journal.fileno(), entry(law=left.last, died=death))
            except OSError:  # no room: the next process would not know where this one died
                break
        return _judged(path, status, _left(journal), stopped)


def _judged(path: Path, status: int, left: Journal, stopped: str) -> Outcome:
    """The exit status: the report's where it is whole; otherwise 2 or above, whatever the process said."""
    report = _report(path)
    if report is not None and report["complete"]:
        told = exit_code(report["totals"])
        if told == 1 or (not left.open and status in (told, *range(2, 6))):
            return Outcome(1 if told == 1 else status, report)
        say(f"mhc-properties: the report in {path} is whole, but then the process {ended(status, stopped)}")
        return Outcome(told or HARNESS_ERROR, report)
    if stopped and not left.lines and report is None:
        say(f"mhc-properties: stopped by {stopped} before any law had been tried")
        return Outcome(USAGE, None)
    if not left.open and status in range(2, 6):
        return Outcome(USAGE if status == _PYTEST_USAGE else status, report)
    report = _recovered(path, left) or report
    found = f"; what it had found is in {path}" if report is not None else ""
    done = "completed" if report is not None else "written"
    say(f"mhc-properties: the process {ended(status, stopped)} before it had {done} its report{found}")
    return Outcome(HARNESS_ERROR, report)


def _report(path: Path, whole: bool = False) -> dict[str, Any] | None:
    try:
        found = read(path)
    except ReportError:
        return None
    return None if whole and not found["complete"] else found


def _recovered(path: Path, left: Journal) -> dict[str, Any] | None:
    """The report that a process had no time to write, and the end that it had no time to print."""
    if not left.lines:
        return None
    lines: list[Line] = list(left.lines.values())
    causes, collected = list(left.causes.values()), max(left.collected, len(lines))
    for text in ending(causes, lines, totals(lines, collected)):
        say(text)
    try:
        return write(path, lines, collected, {}, complete=False, causes=causes)
    except OSError as error:
        say(f"mhc-properties: {path} could not be written: {error.strerror or error}")
        return None


def _left(journal: IO[bytes] | None) -> Journal:
    if journal is None:
        return Journal()
    with contextlib.suppress(OSError):
        size = os.fstat(journal.fileno()).st_size
        return Journal.of(os.pread(journal.fileno(), size, 0))
    return Journal()


@contextlib.contextmanager
def _journal() -> Generator[IO[bytes] | None]:
    """A file without a name, which the process that runs the laws writes and this one reads; None without one."""
    if os.name != "posix":
        yield None
        return
    with contextlib.ExitStack() as stack:
        file: Any = None
        with contextlib.suppress(OSError):  # no room for temporary files: then a run that dies is not taken up again
            file = stack.enter_context(tempfile.TemporaryFile(buffering=0))
        yield file


def _run(arguments: Sequence[str], journal: IO[bytes] | None, seconds: float | None = None) -> tuple[int, str]:
    """The exit status of one process, negative for a signal, and the signal by which this one was asked to stop."""
    environment = {
        **os.environ,
        PARENT: str(os.getpid()),
        **({JOURNAL: str(journal.fileno())} if journal is not None else {}),
        **({LEFT: repr(seconds)} if seconds is not None else {}),
    }
    command = program("pytest", arguments)
    kept = (journal.fileno(),) if journal is not None else ()
    with Forwarding() as forwarding, contextlib.ExitStack() as stack:
        out, error = (stack.enter_context(_Sink(stream)) for stream in (sys.stdout, sys.stderr))
        with subprocess.Popen(command, env=environment, pass_fds=kept, stdout=out.given, stderr=error.given) as process:
            out.copy(process.stdout)
            error.copy(process.stderr)
            forwarding.to(process)
            status = process.wait()
    return status, forwarding.asked


class _Sink:
    """Where a process is to write: the file of a stream, or a pipe to a stream that has none, such as a test's."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._thread: threading.Thread | None = None
        self.given: int = subprocess.PIPE
        with contextlib.suppress(OSError, AttributeError, ValueError):
            stream.flush()
            self.given = stream.fileno()

    def __enter__(self) -> _Sink:
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._thread.join()

    def copy(self, source: IO[bytes] | None) -> None:
        """Begin to copy, where a pipe was given."""
        if source is not None:
            self._thread = threading.Thread(target=self._pump, args=(source,), daemon=True)
            self._thread.start()

    def _pump(self, source: IO[bytes]) -> None:
        for line in iter(source.readline, b""):
            self._stream.write(line.decode(errors="replace"))
