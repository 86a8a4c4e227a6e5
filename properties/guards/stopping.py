"""How a run ends before its time: signals leave a report, and no process outlives the one that started it."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

PARENT = "MHC_PROPERTIES_PARENT"
"""The environment variable with the number of the process with which this one is to end."""

SAME = 1.0
"""Seconds within which a second signal is the first one again: Ctrl-C reaches every process of a terminal, and the one
that started this one hands it on."""
GRACE = 10.0
"""Seconds that a run has to end after a signal; a call that does not come back is not waited for any longer."""

STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stopping:
    """Makes SIGINT, SIGTERM and SIGHUP a KeyboardInterrupt, which pytest takes as the end of the run.

    Where it is swallowed on its way (by a target's broad except, or in a callback of the garbage collector), `ask` has
    already asked for the end after the law in hand. Where the call in hand never comes back, `last` is called from
    another thread and the process is killed.

    A process that was started for the run alone (`alone`) ends right after it: from its report on a signal changes
    nothing there, and raises nothing in the last steps of pytest and of Python, where nobody would handle it.
    """

    def __init__(self, ask: Callable[[str], None], last: Callable[[], None], alone: bool = False) -> None:
        self.asked = ""
        self.held = False
        """While it is true a signal is noted and nothing is raised: a report is being written."""
        self._ask, self._last, self._alone = ask, last, alone
        self._when = 0.0
        self._over = threading.Event()
        self._kept: dict[int, object] = {}
        self._reader = self._writer = self._woken = -1

    def install(self) -> None:
        """Begin to listen, in the main thread; signals that somebody else handles or ignores are left alone."""
        if threading.current_thread() is not threading.main_thread():
            return
        usual = (signal.SIG_DFL, signal.default_int_handler)
        for number in STOPPING:
            if signal.getsignal(number) in usual:
                self._kept[number] = signal.signal(number, self._handle)
        if not self._kept:
            return
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._woken = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="mhc-properties-signals", daemon=True).start()

    def finish(self) -> None:
        """The run has ended and its report is written: nothing is lost any more."""
        self.held = self._alone
        self._over.set()

    def remove(self) -> None:
        """Everything as it was before."""
        self.finish()
        for number, handler in self._kept.items():
            if not self._alone:
                signal.signal(number, handler)  # pyright: ignore[reportArgumentType]  # what getsignal returned
        if self._writer >= 0:
            signal.set_wakeup_fd(self._woken)
            os.close(self._writer)
        self._kept, self._writer = {}, -1

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first = not self.asked
        if not first and time.monotonic() - self._when < SAME:
            return
        self._when = time.monotonic()
        self.asked = signal.Signals(number).name
        self._ask(self.asked)
        if not self.held:
            raise KeyboardInterrupt(f"stopped by {self.asked}")

    def _watch(self) -> None:
        """Outside of the main thread, which may be in a call that does not come back."""
        with contextlib.suppress(OSError):
            while heard := os.read(self._reader, 64):
                if not set(heard) & {int(one) for one in STOPPING}:
                    continue  # somebody else's signal
                if not self._over.wait(GRACE):
                    with contextlib.suppress(Exception):  # whatever it was, the process has to end
                        self._last()
                    os.kill(os.getpid(), signal.SIGKILL)
        with contextlib.suppress(OSError):
            os.close(self._reader)


def end_with(parent: int) -> None:
    """Let this process end when the process of that number does, however that one ends.

    On Linux the kernel sees to it, also while this process hangs; elsewhere a thread looks once a second. Where a
    launcher stands between the two, as on Windows, nothing is known of the parent and nothing is done.
    """
    if os.name != "posix":
        return
    if sys.platform.startswith("linux"):
        import ctypes

        death_signal = 1
        ctypes.CDLL(None).prctl(death_signal, int(signal.SIGKILL))
    else:
        threading.Thread(target=_look_for, args=(parent,), name="mhc-properties-parent", daemon=True).start()
    if os.getppid() != parent:  # it has ended meanwhile
        os._exit(1)


def _look_for(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
