"""When a run ends before all of its laws were tried, as it was asked to: its time is up, or enough causes are known.

A law that is not reached is skipped with a note of why, so that it is counted. The one in hand when the time is up is
stopped by a signal: what it had found by then stands. Where it does not come back from a call, the process is ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from properties.guards.stopping import GRACE

_ALARM: signal.Signals | None = getattr(signal, "SIGXCPU", None)
"""Nobody else's: SIGALRM is that of timeouts, and of targets. Where there is none, the law in hand goes on."""


class OutOfTime(KeyboardInterrupt):
    """The time of the run is up; of the class of what ends a run, so that nobody takes it for a failure."""


class Ending:
    """Why no further law is begun, in each process that examines laws.

    Args:
        seconds: after how many the run ends, from now on; None for a run without an end.
        given: the time that the whole run was given, for the words.
        halt: a file that all processes of the run know; once it is there, no law is begun, and it says why.

    Attributes:
        last: called before this process is ended as a call does not come back.
    """

    def __init__(self, seconds: float | None, given: float | None, halt: Path | None) -> None:
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._words = f"in {given:g} s" if given is not None else ""
        self.halt = halt or Path(tempfile.gettempdir()) / f"mhc-properties-{os.getpid()}-{time.time_ns()}"
        self._ours = halt is None
        self._why = ""
        self.last: Callable[[], None] = lambda: None
        self._armed = False
        self._over = threading.Event()
        self._before: object = None
        self._thread: threading.Thread | None = None

    @property
    def left(self) -> float | None:
        """Seconds until the time is up; None where there is no end."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def why(self) -> str:
        """Why no law is begun any more, as in "in 60 s"; empty while laws are."""
        if not self._why:
            if self.left == 0.0:
                self._why = self._words
            else:
                with contextlib.suppress(OSError):
                    self._why = self.halt.read_text()
        return self._why

    def stop(self, why: str) -> None:
        """No law is begun any more, in any process of this run on this machine."""
        self._why = self._why or why
        with contextlib.suppress(OSError):  # then the workers go on, and all that they find is counted
            self.halt.write_text(why)

    @contextlib.contextmanager
    def within(self) -> Generator[None]:
        """Around the law in hand: raises `OutOfTime` there when the time is up."""
        self._listen()
        self._armed = True
        try:
            if self.left == 0.0:
                raise OutOfTime(self._words)
            yield
        finally:
            self._armed = False

    def _listen(self) -> None:
        ours = _ALARM is not None and threading.current_thread() is threading.main_thread()
        if self._thread is not None or self._deadline is None or not ours:
            return
        assert _ALARM is not None
        self._before = signal.signal(_ALARM, self._handle)
        self._thread = threading.Thread(target=self._watch, name="mhc-properties-time", daemon=True)
        self._thread.start()

    def _handle(self, *_: object) -> None:
        if self._armed:
            raise OutOfTime(f"the time of the run, {self._words.removeprefix('in ')}, is up")

    def _watch(self) -> None:
        """Outside of the main thread, which may be in a call that does not come back."""
        assert _ALARM is not None
        main = threading.main_thread().ident
        if main is None or self._over.wait(self.left):
            return
        signal.pthread_kill(main, _ALARM)
        end = time.monotonic() + GRACE
        while time.monotonic() < end:
            if self._over.wait(0.1) or not self._armed:
                return
        with contextlib.suppress(Exception):  # whatever it was, the process has to end
            self.last()
        os.kill(os.getpid(), signal.SIGKILL)

    def remove(self) -> None:
        """Everything as it was before."""
        self._over.set()
        if self._thread is not None and _ALARM is not None:
            self._thread.join()
            signal.signal(_ALARM, self._before)  # pyright: ignore[reportArgumentType]  # what `signal` returned
            self._thread = None
        if self._ours:
            with contextlib.suppress(OSError):
                self.halt.unlink(missing_ok=True)


ENDING: pytest.StashKey[Ending] = pytest.StashKey()
"""Why a run ends before its laws do, in every process of it."""


def ending_of(config: pytest.Config) -> Ending:
    """Why a run of this configuration ends; it does not before its laws do where nobody asked for laws."""
    return config.stash.setdefault(ENDING, Ending(None, None, None))


UNREACHED = "mhc_properties_unreached"
"""The property of a report of a law that was not reached: why."""
