"""Another process of this Python that works for this one: how it starts, ends, and hears of signals."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Any

from properties.guards.answer import INTERRUPTED
from properties.guards.printable import printable
from properties.guards.stopping import GRACE, STOPPING

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


def program(module: str, words: Sequence[str]) -> list[str]:
    """The command `python -m MODULE WORDS` with the path of this process, and nothing of it in the environment: what
    the other process starts in its turn may be another Python."""
    return [sys.executable, "-P", "-c", _START, module, json.dumps([one for one in sys.path if one]), *words]


class Forwarding:
    """Signals that would end this process are handed on to the one that it watches, which ends with a report."""

    def __init__(self) -> None:
        self.asked = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._kept: dict[int, Any] = {}
        self._timer: threading.Timer | None = None

    def __enter__(self) -> Forwarding:
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


def ended(status: int, asked: str = "") -> str:
    """The words for an exit status; negative ones are signals, as in `subprocess`.

    `asked`: the signal that had asked it to end; who does not, is killed for that, and not for want of memory.
    """
    if status >= 0:
        return f"exited with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    if asked and name == "SIGKILL":
        return f"was asked to end by {asked}, and was killed as it did not"
    return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


def say(text: str) -> None:
    """One line on stderr."""
    with contextlib.suppress(OSError):  # whom nobody listens to still has an exit status
        print(printable(text, 20000), file=sys.stderr, flush=True)
