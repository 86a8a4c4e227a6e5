"""How long a search may take."""

from __future__ import annotations

import time


class Budget:
    """Seconds of computing: those of this thread, so that a busy machine ends no search early.

    A target in another process computes elsewhere, so the clock on the wall counts too, three times as generously.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._computed, self._began = time.thread_time(), time.monotonic()

    @property
    def spent(self) -> bool:
        """Whether it is used up."""
        computed, passed = time.thread_time() - self._computed, time.monotonic() - self._began
        return computed > self.seconds or passed > 3 * self.seconds
