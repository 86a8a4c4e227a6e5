"""One start of a process: its guardian, its pipes, what goes through them, and how it ended."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from properties.guards.child import ended
from properties.guards.printable import printable

_GUARDIAN = Path(__file__).with_name("guardian.py")
_CHUNK = 1 << 18
_GRACE_SECONDS = 1.0
"""For the guardian to start, and for a process whose stdout is closed to end."""


class Life:
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
