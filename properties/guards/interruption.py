"""What stops a run from outside: a signal whose handler raises. It is never taken for an exception of a target.

Python runs the handler of a signal wherever the main thread happens to be: inside a target, inside a callback of the
garbage collector (where whatever it raises is dropped), inside Hypothesis (which takes a timeout for a failing
example). While code of strangers runs, handlers are therefore wrapped: what one of them raises is noted first, and
raised again at the next `checkpoint` if somebody swallowed it on the way.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

ENDS = frozenset(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name))
"""Signals that ask the whole run to end. Any other one, such as SIGALRM of a timeout, is about the law at hand."""


class Interrupted(KeyboardInterrupt):
    """The handler of a signal raised `error`: nothing about what was running. Hypothesis lets a KeyboardInterrupt pass.

    Attributes:
        error: what the handler raised.
        signal: the name of the signal, such as "SIGALRM".
        final: whether the run is asked to end, and not only what was running.
    """

    def __init__(self, error: BaseException, number: int) -> None:
        super().__init__()
        self.error = error
        self.signal = signal.Signals(number).name
        leaves = (KeyboardInterrupt, SystemExit, GeneratorExit)
        # pytest.exit, without importing pytest
        self.final = number in ENDS or issubclass(type(error), leaves) or type(error).__name__ == "Exit"


class _Watch:
    """Handlers that are wrapped at present, and what one of them raised."""

    def __init__(self) -> None:
        self.open = True
        self.pending: Interrupted | None = None
        self.handlers: dict[int, tuple[Any, Any]] = {}

    def begin(self) -> None:
        for number in signal.valid_signals():
            before = signal.getsignal(number)
            if callable(before) and not isinstance(before, signal.Handlers):
                within = self.noting(before)
                self.handlers[number] = before, within
                signal.signal(number, within)

    def noting(self, handler: Callable[[int, Any], Any]) -> Callable[[int, Any], Any]:
        def noted(number: int, frame: Any) -> Any:
            if not self.open:
                return handler(number, frame)
            try:
                return handler(number, frame)
            except Interrupted:
                raise
            except BaseException as error:
                self.pending = Interrupted(error, number)
            raise self.pending

        return noted

    def end(self) -> None:
        self.open = False
        for number, (before, within) in self.handlers.items():
            if signal.getsignal(number) is within:  # somebody else's, set meanwhile, stays
                signal.signal(number, before)


_watches: list[_Watch] = []
"""The open one, if any. Signals reach the main thread alone, and so does this list."""


def watching() -> bool:
    """Whether an exception of this thread is known to come from a signal or not. In other threads none ever does."""
    return bool(_watches) or threading.current_thread() is not threading.main_thread()


def checkpoint() -> None:
    """A place where the run may stop: raises what a handler raised and somebody has swallowed.

    Raises:
        Interrupted: once such a thing has happened, at every checkpoint until `watched` is left.
    """
    if _watches and _watches[-1].pending is not None and threading.current_thread() is threading.main_thread():
        raise _watches[-1].pending


@contextmanager
def watched() -> Generator[None]:
    """Around whatever calls strangers: inside, a signal's exception is an `Interrupted`; outside, it is itself again.

    Within another one, and in any thread but the main one, it changes nothing.
    """
    if _watches or threading.current_thread() is not threading.main_thread():
        yield
        return
    watch = _Watch()
    _watches.append(watch)
    stopped: Interrupted | None = None
    try:
        watch.begin()
        yield
    except Interrupted as stop:
        stopped = stop
    finally:
        _watches.remove(watch)
        watch.end()
    stopped = stopped or watch.pending
    if stopped is not None:
        raise stopped.error


def settled() -> None:
    """What was raised from outside has been dealt with, and is not raised again: a timeout that was about one law."""
    if _watches:
        _watches[-1].pending = None
