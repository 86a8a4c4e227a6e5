"""A process that is spoken to in JSON lines, watched while it works, and told apart from its failures."""

from __future__ import annotations

import json
import sys
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from properties.guards.printable import printable
from properties.targets.process import memory
from properties.targets.process.life import Life
from properties.targets.process.lines import read_line
from properties.targets.process.protocol import BadAnswer, Limits, NoAnswer, ProcessDied, TooMuchMemory, shortened

_LINUX = sys.platform == "linux"
_TICK = 0.02 if _LINUX else 0.1  # a look at memory costs microseconds where there is /proc


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
        self._life: Life | None = None
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
        life: Life | None = None
        try:
            life = Life(self.command, self._environment)
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

    def _line(self, life: Life) -> bytes | None:
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

    def _meanwhile(self, life: Life) -> str:
        """What it did while no answer came: where memory comes slowly, a flood looks like a hang."""
        taken = self._memory() - self._held if self._held else 0
        found = f", with {size(taken)} more memory than at the start" if taken >= self.limits.memory // 64 else ""
        if life.unread:
            found += f", with {life.unread} bytes of the request unread"
        if life.buffer:
            found += f", after the first {len(life.buffer)} bytes of a line"
        return found


def size(count: int) -> str:
    """Bytes in words."""
    return f"{round(count / (1 << 30), 1):g} GiB" if count >= 1 << 30 else f"{round(count / (1 << 20)):g} MiB"
