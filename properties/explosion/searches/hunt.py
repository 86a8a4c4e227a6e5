"""A search that is under way: its question, its time, the best so far, and all that may stop it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

import torch

from properties.explosion.answer import Answer
from properties.explosion.configurations import Configuration
from properties.explosion.searches.hypothesise import BudgetSpent, Clock
from properties.guards.interruption import watched

if TYPE_CHECKING:
    from properties.explosion.questions.question import Question

C = TypeVar("C", bound=Configuration)
Stopped = Literal["", "interrupted", "budget"]


class Hunt(Generic[C]):
    """One search. It ends when its question is answered, its budget spent, or at Ctrl-C, with the best so far.

    Attributes:
        question: what is asked. A search may fill in what was left open (`settle`).
        clock: its time; every `tick` may be the end.
        known: what is known so far.
        build: makes the best configuration so far; None where there is none.
        stopped: what ended it before it was done, or "".
    """

    def __init__(self, question: Question[C], clock: Clock) -> None:
        self.question = question
        self.clock = clock
        self.known = Answer(None, None, False, "The search was stopped before it found anything.")
        self.build: Callable[[], C] | None = None
        self.stopped: Stopped = ""

    def keep(self, known: Answer, found: C | None = None) -> None:
        """What is known by now, and what reaches the threshold, better than what was kept before."""
        self.known, self.build = known, None if found is None else lambda: found

    def promise(self, known: Answer, build: Callable[[], C]) -> None:
        """The same of what takes a while to make: it is made when the search is over."""
        self.known, self.build = known, build

    def settle(self, question: Question[C]) -> None:
        """The same question, with what was left open."""
        self.question = question

    def run(self) -> None:
        """Search until there is an answer, or something stops it."""
        try:
            known = self.question.solve(self)
            if self.build is None:
                self.known = known
        except BudgetSpent:
            self.stopped = "budget"
        except KeyboardInterrupt:
            self.stopped = "interrupted"


@contextmanager
def one_thread() -> Generator[None]:
    """On matrices as small as these, threads cost more than they bring, and much more on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def deadline(seconds: float) -> Generator[None]:
    """BudgetSpent a second after the budget, for a target may hang; where the alarm of this process is free."""
    main = threading.current_thread() is threading.main_thread()
    if not main or not hasattr(signal, "setitimer") or signal.getitimer(signal.ITIMER_REAL)[0]:
        with watched():
            yield
        return
    open_ = True

    def spent(*_: object) -> None:
        if open_:
            raise BudgetSpent

    before = signal.signal(signal.SIGALRM, spent)
    signal.setitimer(signal.ITIMER_REAL, min(seconds + 1, 1e6), 1)  # again each second, for a target may swallow it
    try:
        with watched():
            yield
    finally:
        open_ = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
