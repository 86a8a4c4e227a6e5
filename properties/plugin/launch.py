"""The laws in a pytest of their own process, watched by this one, which imports no torch.

An implementation can end the process that it is called in, with any exit status. So the verdict is the report's, and
what the process said counts only where it agrees with that. Where it died while a law was examined, a new process goes
on: it takes what was found over, tries that law again with the target in a process of its own, and holds the target
apart from there on.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any

from properties.guards.answer import hand_to
from properties.guards.printable import printable
from properties.guards.stopping import GRACE, PARENT, SAME, STOPPING, end_with
from properties.plugin.gathering import JOURNAL, Journal, entry
from properties.report.report import ERROR_ONLY, Line, ReportError, exit_code, read, sentence, table, write

QUIET = (
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
    *("-W", "ignore::pytest.PytestUnraisableExceptionWarning"),
)
"""For a pytest that is started from Python: it finds modules imported that it would like to rewrite, to no harm; and a
signal that falls into a callback of the garbage collector is noted there already, so that no traceback has to tell."""

USAGE = 2
"""Exit status where something was asked for that cannot be done."""
_PYTEST_USAGE = 4
_LIVES = 20
"""After how many deaths of its processes a run is given up."""


def most_workers() -> int:
    """How many workers a run may ask for."""
    return max(32, 4 * (os.cpu_count() or 1))


@dataclass(frozen=True)
class Outcome:
    """The exit status of a run, and its report where it left one."""

    status: int
    report: dict[str, Any] | None


def launch(arguments: Sequence[str], folder: Path) -> Outcome:
    """Run pytest with `arguments`, which report to `folder`, and look at what it left.

    Whatever goes to the file descriptors 1 and 2 goes to `sys.stdout` and `sys.stderr` of this process.
    """
    path = folder / "report.json"
    try:
        path.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        say(f"mhc-properties: --report {printable(str(folder), 200)}: expected a folder that can be written: {why}")
        return Outcome(USAGE, None)
    with _journal() as journal:
        status, stopped = 0, ""
        for _ in range(_LIVES):
            status, stopped = _run(arguments, journal)
            left = _left(journal)
            if stopped or not left.open or left.last is None or _report(path, whole=True):
                break
            death = _ended(status)
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


ANSWER = "MHC_PROPERTIES_ANSWER"
"""The environment variable with the file descriptor on which a command says its exit status before it ends."""


_OURS = ("ref", "control", "deviation", "published")


def calls_a_stranger(words: Sequence[str]) -> bool:
    """Whether a command calls a target that does not come with this package."""
    match words[:1]:
        case ["replay"]:
            return any(word == "--trust" or word.startswith("--impl") for word in words)
        case ["identify"]:
            return any(":" in word and word.partition(":")[0] not in _OURS for word in words[1:])
        case ["explode"]:
            return any(word.startswith("target:") for word in words[1:])
        case _:
            return False


def answers_for(words: Sequence[str]) -> int | None:
    """Run a command in a process of its own; its exit status, or 3 where it ended without saying one.

    None in that process itself, and where there is no way to hear from one. With --json this process prints the object,
    so that nothing which the target prints stands before, within or behind it.
    """
    if os.name != "posix" or ANSWER in os.environ:
        return None
    as_json = "--json" in words
    hearing, saying = os.pipe()
    with open(hearing, "rb", buffering=0) as heard, _Forwarding() as forwarding:
        environment = {
            **os.environ,
            ANSWER: str(saying),
            PARENT: str(os.getpid()),
        }
        command = _python("properties.cli", words)
        out = _stderr() if as_json else None
        with subprocess.Popen(command, env=environment, pass_fds=(saying,), stdout=out) as process:
            os.close(saying)
            forwarding.to(process)
            said = _heard(heard.fileno(), process)
            status = process.wait()
    *objects, answer = said.decode(errors="replace").split("\n")
    sentence = "there is no answer; what stderr has says why" if status else ""
    if answer != str(status):
        sentence = f"the process {_ended(status)} before it had an answer: its target may have ended it"
        if forwarding.asked:
            sentence = f"stopped by {forwarding.asked}"
        say(f"mhc-properties: {sentence}")
        status, objects = ERROR_ONLY, []
    if as_json and (objects or sentence):
        with contextlib.suppress(OSError):  # whom nobody listens to still has an exit status
            print(objects[0] if objects else json.dumps({"error": sentence, "exit": status}), flush=True)
    return status


def _stderr() -> int:
    """File descriptor 2; nowhere, where that is closed."""
    try:
        os.fstat(2)
    except OSError:
        return subprocess.DEVNULL
    return 2


_LOOK = 0.05


def _heard(pipe: int, process: subprocess.Popen[bytes]) -> bytes:
    """What a process says until it ends; what it has started, and who outlives it, may hold the pipe open."""
    os.set_blocking(pipe, False)
    said = b""
    while True:
        over = process.poll() is not None
        select.select([pipe], [], [], 0 if over else _LOOK)
        try:
            more = os.read(pipe, 1 << 16)
        except BlockingIOError:
            more = None
        if more == b"" or (more is None and over):
            return said
        said += more or b""


@contextlib.contextmanager
def answering() -> Generator[None]:
    """Around a command: where another process answers for this one, say the exit status to it, and end with it."""
    given = os.environ.pop(ANSWER, "")
    if not given.isdigit():
        yield
        return
    os.set_inheritable(int(given), False)
    if "--json" in sys.argv:
        hand_to(int(given))
    if (parent := os.environ.pop(PARENT, "")).isdigit():
        end_with(int(parent))
    once = _Once()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, once)
    status = 1
    try:
        yield
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            os.write(int(given), str(status).encode())


class _Once:
    """A KeyboardInterrupt for the first SIGINT of a second: Ctrl-C comes from the terminal and from the parent."""

    def __init__(self) -> None:
        self._when = -math.inf

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if time.monotonic() - self._when >= SAME:
            self._when = time.monotonic()
            raise KeyboardInterrupt


def say(text: str) -> None:
    """One line on stderr."""
    with contextlib.suppress(OSError):  # whom nobody listens to still has an exit status
        print(printable(text, 20000), file=sys.stderr, flush=True)


def _judged(path: Path, status: int, left: Journal, stopped: str) -> Outcome:
    """The exit status: the report's where it is whole; otherwise 2 or above, whatever the process said."""
    report = _report(path)
    if report is not None and report["complete"]:
        told = exit_code(report["totals"])
        if told == 1 or (not left.open and status in (told, *range(2, 6))):
            return Outcome(1 if told == 1 else status, report)
        say(f"mhc-properties: the report in {path} is whole, but then the process {_ended(status)}")
        return Outcome(told or ERROR_ONLY, report)
    if stopped and not left.lines and report is None:
        say(f"mhc-properties: stopped by {stopped} before any law had been tried")
        return Outcome(USAGE, None)
    if not left.open and status in range(2, 6):
        return Outcome(USAGE if status == _PYTEST_USAGE else status, report)
    report = _recovered(path, left) or report
    found = f"; what it had found is in {path}" if report is not None else ""
    done = "completed" if report is not None else "written"
    say(f"mhc-properties: the process {_ended(status)} before it had {done} its report{found}")
    return Outcome(ERROR_ONLY, report)


def _report(path: Path, whole: bool = False) -> dict[str, Any] | None:
    try:
        found = read(path)
    except ReportError:
        return None
    return None if whole and not found["complete"] else found


def _recovered(path: Path, left: Journal) -> dict[str, Any] | None:
    """The report that a process had no time to write, and the messages that it had no time to print."""
    if not left.lines:
        return None
    lines: list[Line] = list(left.lines.values())
    for law, line in left.lines.items():
        if line.status == "failed":
            say(left.messages[law])
    for text in table(lines):
        say(text)
    try:
        report = write(path, lines, max(left.collected, len(lines)), {}, complete=False)
    except OSError as error:
        say(f"mhc-properties: {path} could not be written: {error.strerror or error}")
        return None
    say(sentence(report["totals"]))
    return report


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


INTERRUPTED = 128 + 2
"""Exit status of a process that Ctrl-C has ended where nobody listened to it, as shells have it."""
_START = f"""
try:
    import json, runpy, sys
    module = sys.argv.pop(1)
    sys.path[:] = json.loads(sys.argv.pop(1))
    runpy.run_module(module, run_name="__main__", alter_sys=True)
except KeyboardInterrupt:
    raise SystemExit({INTERRUPTED}) from None
"""
"""While pytest and torch are imported nothing was found that could be lost, and a traceback would tell nobody more."""


def _python(module: str, words: Sequence[str]) -> list[str]:
    """The command `python -m MODULE WORDS` with the path of this process, and nothing of it in the environment: what
    the other process starts in its turn may be another Python."""
    return [sys.executable, "-P", "-c", _START, module, json.dumps([one for one in sys.path if one]), *words]


def _run(arguments: Sequence[str], journal: IO[bytes] | None) -> tuple[int, str]:
    """The exit status of one process, negative for a signal, and the signal by which this one was asked to stop."""
    environment = {
        **os.environ,
        PARENT: str(os.getpid()),
        **({JOURNAL: str(journal.fileno())} if journal is not None else {}),
    }
    command = _python("pytest", arguments)
    kept = (journal.fileno(),) if journal is not None else ()
    with _Forwarding() as forwarding, contextlib.ExitStack() as stack:
        out, error = (stack.enter_context(_Sink(stream)) for stream in (sys.stdout, sys.stderr))
        with subprocess.Popen(command, env=environment, pass_fds=kept, stdout=out.given, stderr=error.given) as process:
            out.copy(process.stdout)
            error.copy(process.stderr)
            forwarding.to(process)
            status = process.wait()
    return status, forwarding.asked


class _Forwarding:
    """Signals that would end this process are handed on to the one that it watches, which ends with a report."""

    def __init__(self) -> None:
        self.asked = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._kept: dict[int, Any] = {}
        self._timer: threading.Timer | None = None

    def __enter__(self) -> _Forwarding:
        if threading.current_thread() is threading.main_thread():
            for number in STOPPING:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._kept[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._kept.items():
            signal.signal(number, handler)
        if self._timer is not None:
            self._timer.cancel()

    def to(self, process: subprocess.Popen[bytes]) -> None:
        """From now on; and at once, where one has come already."""
        self._process = process
        if self.asked:
            process.send_signal(getattr(signal, self.asked))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.asked = signal.Signals(number).name
        if self._process is None:
            return
        self._process.send_signal(number)
        if self._timer is None:  # it ends by itself within its own grace, unless even its threads hang
            self._timer = threading.Timer(2 * GRACE, self._process.kill)
            self._timer.daemon = True
            self._timer.start()


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


def _ended(status: int) -> str:
    """The words for an exit status; negative ones are signals."""
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"
