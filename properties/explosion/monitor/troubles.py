"""What goes wrong in the monitor itself: it is said once and counted, and never ends what is watched."""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import Any

from properties.guards.printable import message_of, printable

logger = logging.getLogger("properties.monitor")


class Wanted(RuntimeError):
    """The one exception that a monitor lets through: it was asked for."""


class Nothing(ValueError):
    """There was nothing to measure: that is said once, and is no trouble."""


class Troubles:
    """Counts troubles, and says the first of each kind. A copy goes on from the same count."""

    def __init__(self) -> None:
        self.count = 0
        self._said: set[str] = set()
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        return {"count": self.count, "_said": set(self._said)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()

    def say(self, kind: str, sentence: str) -> None:
        """Count a trouble, and say the first of its kind."""
        with self._lock:
            self.count += 1
        if self._first(kind):
            warn("%s. The model runs on; what else goes wrong so is counted in Monitor.troubles", printable(sentence))

    def note(self, sentence: str) -> None:
        """Say what is no trouble, once, and count nothing."""
        if self._first(sentence):
            warn("%s. The model runs on", printable(sentence))

    def _first(self, kind: str) -> bool:
        with self._lock:
            first = kind not in self._said
            self._said.add(kind)
            return first

    def instead(self, kind: str, what: str) -> Instead:
        """A trouble instead of an exception: nothing that the monitor does may end what it watches."""
        return Instead(self, kind, what)


class Instead:
    """See `Troubles.instead`. A class, for it is entered some times in every layer."""

    __slots__ = ("_kind", "_troubles", "_what")

    def __init__(self, troubles: Troubles, kind: str, what: str) -> None:
        self._troubles, self._kind, self._what = troubles, kind, what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, Exception) or isinstance(error, Wanted):  # and so neither Ctrl-C nor an exit
            return False
        if isinstance(error, Nothing):
            self._troubles.note(message_of(error))
            return True
        # Whatever it is: a disk, torch's refusals, or a function of the user's.
        self._troubles.say(self._kind, f"{self._what}: {type(error).__name__}: {message_of(error)}")
        return True


def warn(text: str, *parts: Any) -> None:
    """A warning of the logger `properties.monitor`."""
    with contextlib.suppress(Exception):  # a handler of the user's that raises must not end the training either
        logger.warning(text, *parts)
