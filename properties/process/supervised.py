"""A process that is spoken to in JSON lines, watched while it works, and told apart from its failures."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from properties.process.protocol import BadAnswer, Limits, NoAnswer, ProcessDied, TooMuchMemory, shortened

_LONGEST_LINE = 1 << 30
_LINUX = sys.platform == "linux"
_TICK = 0.02 if _LINUX else 0.25  # where there is no /proc, looking at memory costs a process


class Supervised:
    """A command that answers line by line; it is started by `start` and may be started again after it was stopped.

    Its stdout is read by a thread and its stdin written by another, so that a process which neither reads nor writes
    cannot hold up this one.

    Attributes:
        what: how messages call it.
        watched: the process whose memory counts, its own unless it works through a child of its own.
    """

    def __init__(
        self,
        command: Sequence[str],
        limits: Limits,
        *,
        what: str = "the process",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.command, self.limits, self.what = list(command), limits, what
        self.watched = 0
        self._environment = None if environment is None else dict(environment)
        self._life: _Life | None = None
        self._hung = False
        self._slowest = 0.0
        self._held = 0  # bytes that do not count against `_most`
        self._most = 0

    @property
    def running(self) -> bool:
        """Whether it was started and not stopped since; it may have died meanwhile."""
        return self._life is not None

    @property
    def pid(self) -> int:
        """The process that was started; 0 where none runs."""
        return self._life.pid if self._life is not None else 0

    @property
    def patience(self) -> float:
        """Seconds that a call may take.

        Once a call has not come back within the full limit, later ones get 20 times the slowest answer so far and at
        least 2 s: every smaller input that is tried in search of the smallest would cost the full limit otherwise.
        """
        full = self.limits.call_seconds
        return min(full, max(2.0, 20 * self._slowest)) if self._hung else full

    def start(self) -> None:
        """Start it.

        Raises:
            ProcessDied: there is no such program.
        """
        self.stop()
        try:
            self._life = _Life(self.command, self._environment)
        except OSError as error:
            raise ProcessDied(f"{self.what} could not be started: {error}") from error
        self.watched = self._life.pid
        self._held, self._most = 0, self.limits.start_memory
        self._finalizer = weakref.finalize(self, self._life.end)

    def ready(self) -> None:
        """Take what it holds now as its own; only memory on top of that counts against the limit."""
        self._held, self._most = _resident(self.watched), self.limits.memory

    def stop(self) -> None:
        """Kill it and everything it started."""
        if self._life is not None:
            self._finalizer()
            self._life = None

    def send(self, message: dict[str, Any]) -> None:
        """Hand a message over; returns at once."""
        assert self._life is not None
        self._life.outbox.put(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    def receive(self, seconds: float) -> tuple[dict[str, Any], float]:
        """Its next message, and the seconds that it took.

        Raises:
            ProcessDied, NoAnswer, TooMuchMemory, BadAnswer: what happened instead. It is not stopped by that.
        """
        assert self._life is not None
        began = time.monotonic()
        while True:
            try:
                line = self._life.inbox.get(timeout=min(_TICK, seconds))
            except queue.Empty:
                if _resident(self.watched) - self._held > self._most:
                    raise TooMuchMemory(
                        f"{self.what} took more than {size(self._most)} of memory and was stopped"
                    ) from None
                if time.monotonic() - began >= seconds:
                    raise NoAnswer(f"no answer within {seconds:g} s; {self.what} was stopped{self._taken()}") from None
                continue
            if line is None:
                raise ProcessDied(f"{self.what} {self._life.ending()}")
            if not line.strip():
                continue
            return self._parsed(line), time.monotonic() - began

    def wait_for_reply(self, spent: float = 0.0) -> tuple[dict[str, Any], float]:
        """`receive` within what `patience` leaves of a call that has taken `spent` seconds so far; the new total."""
        patience = self.patience
        try:
            message, seconds = self.receive(max(patience - spent, 0.001))
        except NoAnswer:
            shorter = f" (shortened from {self.limits.call_seconds:g} s after an earlier call never came back)"
            note = shorter if patience < self.limits.call_seconds else ""
            self._hung = True
            raise NoAnswer(f"no answer within {patience:g} s{note}; {self.what} was stopped{self._taken()}") from None
        self._slowest = max(self._slowest, spent + seconds)
        return message, spent + seconds

    def _taken(self) -> str:
        """What it has taken since it was ready, in words: where memory comes slowly, a flood looks like a hang."""
        taken = _resident(self.watched) - self._held if self._held else 0
        return f", with {size(taken)} more memory than at the start" if taken >= self.limits.memory // 64 else ""

    def _parsed(self, line: bytes) -> dict[str, Any]:
        try:
            message: Any = json.loads(line)
        except ValueError as error:
            raise BadAnswer(
                f"{self.what} wrote {shortened(line.decode(errors='replace').rstrip())} to stdout, which is not JSON"
                + (f" ({error})" if line[:1] in b"{[" else "; print to stderr")
            ) from None
        if not isinstance(message, dict):
            raise BadAnswer(f"{self.what} wrote {shortened(message)} to stdout; expected a JSON object")
        return message


class _Life:
    """One start of a process and the threads that talk to it."""

    def __init__(self, command: Sequence[str], environment: dict[str, str] | None) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # it is stopped with all that it started, and Ctrl-C is ours alone
        )
        streams = (self._process.stdout, self._process.stdin, self._process.stderr)
        self.pid = self._process.pid
        self.inbox: queue.Queue[bytes | None] = queue.Queue(maxsize=64)
        self.outbox: queue.Queue[bytes | None] = queue.Queue()
        self._last_words: deque[str] = deque(maxlen=20)
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=work, args=(stream,), daemon=True)
            for work, stream in zip((self._read, self._write, self._listen), streams, strict=True)
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, stream: IO[bytes]) -> None:
        with contextlib.suppress(OSError, ValueError), stream:
            while not self._over.is_set():
                line = stream.readline(_LONGEST_LINE)
                if not line:
                    break
                self._put(line)
        self._put(None)

    def _put(self, line: bytes | None) -> None:
        while not self._over.is_set():
            with contextlib.suppress(queue.Full):
                self.inbox.put(line, timeout=0.1)
                return

    def _write(self, stream: IO[bytes]) -> None:
        with contextlib.suppress(OSError, ValueError):
            while (line := self.outbox.get()) is not None:
                stream.write(line)
                stream.flush()
        with contextlib.suppress(OSError, ValueError):
            stream.close()

    def _listen(self, stream: IO[bytes]) -> None:
        with contextlib.suppress(OSError, ValueError), stream:
            while line := stream.readline(4096):
                self._last_words.append(line.decode(errors="replace").rstrip())

    def ending(self) -> str:
        """How it ended, in words: "was killed by SIGSEGV"."""
        try:
            status = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "closed its stdout"
        self._threads[2].join(timeout=1)
        words = next((line for line in reversed(self._last_words) if line.strip()), "")
        return ended(status) + (f'; its last words: "{words[:200]}"' if words and status > 0 else "")

    def end(self) -> None:
        """Kill it, its descendants in its session, and the threads."""
        self._over.set()
        self.outbox.put(None)
        if self._process.returncode is None:  # not waited for yet, so nobody else can have its number
            with contextlib.suppress(OSError):
                if hasattr(os, "killpg"):
                    os.killpg(self.pid, signal.SIGKILL)
                else:
                    self._process.kill()
            self._process.wait()
        for thread in self._threads:
            thread.join(timeout=1)


def ended(status: int) -> str:
    """The words for an exit status; negative ones are signals, as in `subprocess`."""
    if status >= 0:
        return f"exited with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


def size(count: int) -> str:
    """Bytes in words."""
    return f"{round(count / (1 << 30), 1):g} GiB" if count >= 1 << 30 else f"{round(count / (1 << 20)):g} MiB"


def _resident(pid: int) -> int:
    """Bytes of resident memory of a process and its children; 0 where that cannot be found out."""
    try:
        if not _LINUX:
            listed = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, check=False)
            return int(listed.stdout or 0) * 1024
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(_resident(int(child)) for child in children)
