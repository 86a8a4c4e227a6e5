"""How long a search may take."""

from __future__ import annotations

import time

PATIENCE = 10.0
"""Seconds on the wall for one of computing, where a target computes in another process."""


class Budget:
    """Seconds of computing: those of this thread, so that a busy machine ends no search early.

    Arguments:
        elsewhere: a target in another process computes there, which is not seen here; so the clock on the wall counts
            as well, `PATIENCE` times as generously.
    """

    def __init__(self, seconds: float, elsewhere: bool = False) -> None:
        self.seconds, self.elsewhere = seconds, elsewhere
        self._computed, self._began = time.thread_time(), time.monotonic()

    @property
    def spent(self) -> bool:
        """Whether it is used up."""
        if time.thread_time() - self._computed > self.seconds:
            return True
        return self.elsewhere and time.monotonic() - self._began > PATIENCE * self.seconds
