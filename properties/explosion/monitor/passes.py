"""The passes of a watched model that are running, and what each has recorded so far."""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass, field
from typing import Any

import torch

from mhc_ref import Dialect
from properties.explosion.monitor.births import Course
from properties.explosion.monitor.measures import Layer, State


@dataclass
class Pass:
    """One pass of the model: its layers so far."""

    recorded: bool
    handled: BaseException | None = None  # the exception that was being handled when the pass began
    depth: int = 0  # of the stack of calls
    thread: int = field(default_factory=threading.get_ident)
    records: list[tuple[Layer, Dialect | None]] = field(default_factory=list)
    missed: bool = False  # a layer's operator could not be read
    waiting: list[tuple[object, State]] = field(default_factory=list)  # modules whose forward is running
    course: Course | None = None  # what went through the innermost modules
    finite: Any = None  # 0-dim: whether what the model returned is
    attention: list[Any] = field(default_factory=list)  # caps of logits that belong to the layer that ends next
    queries: dict[int, Any] = field(default_factory=dict)  # by attention: the largest norm of its queries
    counted: bool = True  # and not a part of a backward pass, which recomputes it
    regular: bool = True  # recorded by its turn, as in every other rank
    step: int | None = None  # of the clock that the user gave
    number: int = 0  # of the pass within its step

    def entered(self, module: object) -> State | None:
        """What entered a module whose forward ends now."""
        for place in reversed(range(len(self.waiting))):
            if self.waiting[place][0] is module:
                found = self.waiting[place][1]
                del self.waiting[place:]  # what came after it did not end, by an exception that somebody caught
                return found
        return None


class Running(threading.local):
    """The passes that are running in a thread, the innermost last."""

    def __init__(self) -> None:
        self.passes: list[Pass] = []
        self._readings = 0

    def __enter__(self) -> None:
        """A function of the user's runs, which may call the model."""
        self._readings += 1

    def __exit__(self, *_: object) -> None:
        self._readings -= 1

    @property
    def busy(self) -> bool:
        """Whether such a function runs: what it calls is no pass."""
        return self._readings > 0


def recomputing() -> bool:
    """Whether a backward pass is running in this thread, which calls modules again where it has a checkpoint."""
    task = getattr(torch._C, "_current_graph_task_id", None)  # pyright: ignore[reportPrivateUsage]
    return task is not None and task() != -1


def calls() -> int:
    """How many calls are running in this thread."""
    depth, frame = 0, sys._getframe()  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        depth, frame = depth + 1, frame.f_back
    return depth
