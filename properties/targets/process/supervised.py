"""A process that is spoken to in JSON lines, watched while it works, and told apart from its failures."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from properties.guards.printable import printable
from properties.targets.process import memory
from properties.targets.process.lines import read_line
from properties.targets.process.protocol import BadAnswer, Limits, NoAnswer, ProcessDied, TooMuchMemory, shortened

_GUARDIAN = Path(__file__).with_name("guardian.py")
_LINUX = sys.platform == "linux"
_TICK = 0.02 if _LINUX else 0.1  # a look at memory costs microseconds where there is /proc
_CHUNK = 1 << 18
_GRACE_SECONDS = 1.0
"""For the guardian to start, and for a process whose stdout is closed to end."""


class Supervised:
    """A command that answers line by line; it is started by `start` and may be started again after it was stopped.

    Nothing that it does holds up this process: its pipes are read and written only when they are ready, and every wait
    has a deadline, whether the process is silent, writes without an end, or does not read. A guardian stands between
    the two (`properties.targets.process.guardian`), so that it ends with this process, with all that it started.

    Attributes:
        what: how messages call it.
        watched: the process that does the work, its own unless it works through a child of its own.
        constants: whether NaN and Infinity may stand in its lines, as Python writes them.
    """

    def __init__(
        self,
        command: Sequence[str],
        limits: Limits,
        *,
        what: str = "the process",
        environment: Mapping[str, str] | None = None,
        constants: bool = False,
    ) -> None:
        self.command, self.limits, self.what, self.constants = list(command), limits, what, constants
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
    def unread(self) -> int:
        """Bytes of messages that it has not taken yet."""
        return self._life.unread if self._life is not None else 0

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
        life: _Life | None = None
        try:
            life = _Life(self.command, self._environment)
            life.begin(self.limits.start_seconds)
        except (OSError, ValueError) as error:  # ValueError: a null byte in the command
            if life is not None:
                life.end()
            raise ProcessDied(f"{self.what} could not be started: {printable(str(error))}") from error
        except BaseException:
            if life is not None:
                life.end()
            raise
        self._life = life
        self.watched = life.pid
        self._held, self._most = 0, self.limits.start_memory
        memory.watched(self._most)
        self._finalizer = weakref.finalize(self, life.end)

    def ready(self) -> None:
        """Take what it holds now as its own; only memory on top of that counts against the limit."""
        self._held, self._most = self._memory(), self.limits.memory

    def stop(self) -> None:
        """Kill it and everything it started."""
        if self._life is not None:
            self._finalizer()
            self._life = None

    def send(self, message: dict[str, Any]) -> None:
        """Hand a message over; returns at once, and `receive` writes what the process did not take yet."""
        assert self._life is not None
        self._life.give(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    def receive(self, seconds: float) -> tuple[dict[str, Any], float]:
        """Its next message, and the seconds that it took.

        Raises:
            ProcessDied, NoAnswer, TooMuchMemory, BadAnswer: what happened instead. It is not stopped by that.
        """
        try:
            return self._receive(seconds)
        except NoAnswer as error:
            raise NoAnswer(f"no answer within {seconds:.3g} s; {self.what} was stopped{error}") from None

    def wait_for_reply(self, spent: float = 0.0) -> tuple[dict[str, Any], float]:
        """`receive` within what `patience` leaves of a call that has taken `spent` seconds so far; the new total."""
        patience = self.patience
        try:
            message, seconds = self._receive(max(patience - spent, 0.001))
        except NoAnswer as error:
            shorter = f" (shortened from {self.limits.call_seconds:g} s after an earlier call never came back)"
            note = shorter if patience < self.limits.call_seconds else ""
            self._hung = True
            raise NoAnswer(f"no answer within {patience:g} s{note}; {self.what} was stopped{error}") from None
        self._slowest = max(self._slowest, spent + seconds)
        return message, spent + seconds

    def _receive(self, seconds: float) -> tuple[dict[str, Any], float]:
        """As `receive`; `NoAnswer` says only what the process did meanwhile."""
        life = self._life
        assert life is not None
        now = began = time.monotonic()
        look = now + _TICK
        while True:
            line = self._line(life)
            if line is not None:
                message = read_line(line, self.what, self.constants)
                if life.unread and "died" not in message:
                    raise BadAnswer(
                        f"{self.what} answered before it had read the whole request ({life.unread} bytes were left): "
                        f"{shortened(message)}"
                    )
                return message, time.monotonic() - began
            if life.over:
                raise ProcessDied(f"{self.what} {life.ending()}")
            now = time.monotonic()
            if now >= look:
                look = now + _TICK
                if self._memory() - self._held > self._most:
                    raise TooMuchMemory(f"{self.what} took more than {size(self._most)} of memory and was stopped")
            if now - began >= seconds:
                raise NoAnswer(self._meanwhile(life))
            life.turn(min(look, began + seconds) - now)

    def _line(self, life: _Life) -> bytes | None:
        """The next line that is not empty, where there is a whole one."""
        line = life.line()
        if life.blank > self.limits.blank:
            raise BadAnswer(f"{self.what} wrote more than {self.limits.blank} bytes of empty lines to stdout")
        if line is not None:
            life.blank = 0
        if len(life.buffer if line is None else line) > self.limits.line:
            start = shortened(bytes((life.buffer if line is None else line)[:60]).decode(errors="replace"))
            raise BadAnswer(f"{self.what} wrote a line of more than {size(self.limits.line)} to stdout: {start}")
        return line

    def _memory(self) -> int:
        """Bytes that it and everything it started hold; 0 where that cannot be found out."""
        return (memory.memory_of(self._life.guardian) or 0) if self._life is not None else 0

    def _meanwhile(self, life: _Life) -> str:
        """What it did while no answer came: where memory comes slowly, a flood looks like a hang."""
        taken = self._memory() - self._held if self._held else 0
        found = f", with {size(taken)} more memory than at the start" if taken >= self.limits.memory // 64 else ""
        if life.unread:
            found += f", with {life.unread} bytes of the request unread"
        if life.buffer:
            found += f", after the first {len(life.buffer)} bytes of a line"
        return found


class _Life:
    """One start of a process: its guardian, its pipes, and what went through them.

    Attributes:
        guardian, pid: the numbers of the guardian and of the process.
        buffer: what came on stdout and is no whole line yet.
        blank: bytes of empty lines since the last line.
        over: nothing more will come on stdout.
    """

    def __init__(self, command: Sequence[str], environment: dict[str, str] | None) -> None:
        if not hasattr(select, "poll"):
            raise OSError("processes of their own need pipes that can be waited for, as Linux and macOS have")
        lifeline, self._lifeline = os.pipe()
        self._report, report = os.pipe()
        self._open = {self._lifeline, self._report}
        self._program = command[0]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_GUARDIAN), str(lifeline), str(report), *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                env=environment,
                pass_fds=(lifeline, report),
                start_new_session=True,  # Ctrl-C is ours alone
            )
        except BaseException:
            self._close(*self._open)
            raise
        finally:
            os.close(lifeline)
            os.close(report)
        pipes = (self._process.stdin, self._process.stdout, self._process.stderr)
        self._stdin, self._stdout, self._stderr = (os.dup(pipe.fileno()) for pipe in pipes if pipe is not None)
        for pipe in pipes:
            if pipe is not None:
                pipe.close()
        self._open |= {self._stdin, self._stdout, self._stderr}
        for descriptor in self._open:
            os.set_blocking(descriptor, False)
        self.guardian, self.pid = self._process.pid, 0
        self.buffer, self._searched, self.blank = bytearray(), 0, 0
        self.over = False
        self._out, self._written = b"", 0
        self._reported = b""
        self._words = b""
        self._status: int | None = None
        self._lost = False  # the guardian is gone, and with it the status

    def begin(self, seconds: float) -> None:
        """Wait until the guardian has started the process.

        Raises:
            OSError: there is no such program, or the guardian could not start.
        """
        until = time.monotonic() + seconds
        while not self.pid:
            if self._lost or time.monotonic() >= until:
                raise OSError(f"its guardian did not start; its last words: {self._last_words()!r}")
            self.turn(until - time.monotonic(), listening=False)
        if self.pid < 0:
            raise OSError(-self.pid, os.strerror(-self.pid), self._program)

    @property
    def unread(self) -> int:
        """Bytes of requests that the process has not taken."""
        return len(self._out) - self._written

    def give(self, data: bytes) -> None:
        """Put a request behind what was not taken yet, and write what can be written at once."""
        self._out, self._written = self._out[self._written :] + data, 0
        self._write()

    def turn(self, seconds: float, listening: bool = True) -> None:
        """Wait until a pipe is ready, `seconds` at most, and read or write what it takes without waiting."""
        work: dict[int, Callable[[], object]] = {self._report: self._hear, self._stderr: self._listen}
        if self.unread:
            work[self._stdin] = self._write
        if listening and not self.over:
            work[self._stdout] = self._read
        poll = select.poll()
        for descriptor in work:
            if descriptor in self._open:
                poll.register(descriptor, select.POLLOUT if descriptor == self._stdin else select.POLLIN)
        ended = self._status is not None or self._lost
        for descriptor, _ in poll.poll(0 if ended else max(0.0, seconds) * 1000):
            work[descriptor]()
        if ended and not self.over and self._next_line() < 0 and not self._read():
            self.over = True  # what it wrote before it ended was in the pipe, whoever else holds that open

    def line(self) -> bytes | None:
        """The next whole line that is not empty; empty ones are counted in `blank`."""
        if self.buffer[:1].isspace():
            plain = self.buffer.lstrip()
            self.blank += len(self.buffer) - len(plain)
            self.buffer, self._searched = plain, 0
        end = self._next_line()
        if end < 0:
            return None
        line = bytes(memoryview(self.buffer)[:end])
        del self.buffer[: end + 1]
        self._searched = 0
        return line

    def ending(self) -> str:
        """How it ended, in words: "was killed by SIGSEGV"."""
        until = time.monotonic() + _GRACE_SECONDS
        while self._status is None and not self._lost and time.monotonic() < until:
            self.turn(until - time.monotonic())
        if self._status is None:
            return "was lost with its guardian" if self._lost else "closed its stdout and lived on"
        words = self._last_words() if self._status > 0 else ""
        return ended(self._status) + (f'; its last words: "{words}"' if words else "")

    def end(self) -> None:
        """End it and everything that it started."""
        self._close(*self._open)
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:  # a guardian that was stopped, say
            self._process.kill()
            with contextlib.suppress(OSError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()

    def _next_line(self) -> int:
        """Where the next line feed is; -1 where there is none."""
        found = self.buffer.find(b"\n", self._searched)
        self._searched = len(self.buffer) if found < 0 else found
        return found

    def _write(self) -> None:
        try:
            while self.unread and self._stdin in self._open:
                self._written += os.write(self._stdin, memoryview(self._out)[self._written : self._written + _CHUNK])
        except BlockingIOError:
            return
        except OSError:  # it reads no more; what it says or how it ends is told by the other pipes
            self._close(self._stdin)
        self._out, self._written = b"", 0

    def _read(self) -> bool:
        """Whether something came on stdout."""
        found = self._taken(self._stdout)
        if found == b"":
            self.over = True
        self.buffer += found or b""
        return bool(found)

    def _listen(self) -> None:
        self._words = (self._words + (self._taken(self._stderr) or b""))[-4096:]

    def _hear(self) -> None:
        """What the guardian says."""
        found = self._taken(self._report)
        self._lost = found == b"" and self._status is None
        *lines, self._reported = (self._reported + (found or b"")).split(b"\n")
        for line in lines:
            word, _, number = line.partition(b" ")
            if word == b"pid":
                self.pid = int(number)
            elif word == b"failed":
                self.pid = -int(number)
            else:
                self._status = int(number)

    def _taken(self, descriptor: int) -> bytes | None:
        """What can be read at once: nothing where the pipe is closed, None where nothing came yet."""
        if descriptor not in self._open:
            return b""
        try:
            found = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            return None
        except OSError:
            found = b""
        if not found:
            self._close(descriptor)
        return found

    def _close(self, *descriptors: int) -> None:
        for descriptor in descriptors:
            if descriptor in self._open:
                self._open.discard(descriptor)
                os.close(descriptor)

    def _last_words(self) -> str:
        """The last line on stderr that says something."""
        for _ in range(64):  # what it wrote before it ended is in the pipe, and a descendant may write for ever
            if not self._taken_words():
                break
        lines = self._words.decode(errors="replace").splitlines()
        return printable(next((line.strip() for line in reversed(lines) if line.strip()), ""), 200)

    def _taken_words(self) -> bool:
        before = self._words
        self._listen()
        return self._words != before


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
