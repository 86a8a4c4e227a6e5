"""One stage of a search: Hypothesis generates until a condition holds, then shrinks what it found."""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random
from typing import TypeVar

from hypothesis import Phase, Verbosity, find, settings
from hypothesis.errors import NoSuchExample
from hypothesis.strategies import SearchStrategy

T = TypeVar("T")
Progress = Callable[[str], None]


class BudgetSpent(BaseException):
    """Time is up. Not an Exception: Hypothesis would take one for the failure that it looks for, and shrink it."""


class Clock:
    """The time of one search. `tick` ends it when the budget is spent and reports at most five times a second."""

    def __init__(self, budget: float, progress: Progress | None = None) -> None:
        self._start = time.monotonic()
        self._budget = budget
        self._progress = progress
        self._reported = float("-inf")
        self.stage = ""
        self.best = "nothing yet"

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def tick(self) -> None:
        seconds = self.seconds
        if seconds > self._budget:
            raise BudgetSpent
        if self._progress is not None and seconds - self._reported >= 0.2:
            self._reported = seconds
            self._progress(f"{self.stage}: best {self.best}")


def smallest(
    strategy: SearchStrategy[T], condition: Callable[[T], bool], *, seed: int, clock: Clock, examples: int
) -> T | None:
    """The simplest value of `strategy` that meets `condition`, as Hypothesis shrinks it; None where none was met.

    The same seed gives the same answer: nothing is read from or written to a database of examples.
    """

    def observed(value: T) -> bool:
        clock.tick()
        return condition(value)

    stage = settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        verbosity=Verbosity.quiet,
    )
    try:
        return find(strategy, observed, settings=stage, random=Random(seed))
    except NoSuchExample:
        return None
