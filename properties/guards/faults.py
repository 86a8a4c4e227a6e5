"""Whose fault a failure is: the harness's, an adapter's, or the target's. Nobody is blamed for somebody else's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar

from properties.guards.interruption import Interrupted, checkpoint, watching
from properties.guards.printable import message_of, name_of, printable

T = TypeVar("T")


class HarnessError(Exception):
    """The suite itself is at fault, or cannot tell: never a verdict on the implementation."""


class AdapterError(HarnessError):
    """The code between the suite and an implementation (`properties.modules`, `properties.arrays`) cannot hand a call
    on: the message says what was given, what was expected, and what to declare."""


class Lost(Exception):
    """A call without an answer, as it takes place in another process.

    Attributes:
        sign: of what: time (it never came back, or its process died), memory, or a contract of processes.
    """

    sign: Literal["time", "memory", "contract"] = "time"


class TargetFault(Exception):
    """What a target raised while it was called: an error, an exit, a skip of a test runner, whatever it was.

    It is made in one place, `answered`, so that nothing which the suite itself raises can be taken for it. As text it
    is one line, and no long one; but for what is ours, that a process has died, with its last words.

    Attributes:
        error: what the target raised.
        kind: the name of its class.
        message: its text, as a terminal may show it.
    """

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.kind = name_of(error)
        self.message = message_of(error)
        text = described(error)
        super().__init__(text if issubclass(type(error), Lost) else _in_a_line(text))


_LINE = 600
"""Characters of an exception in a sentence: both ends of a longer one are told."""


def _in_a_line(text: str) -> str:
    """The text as a part of a sentence: what somebody's exception says may have a thousand lines."""
    return printable(" ".join(text.split()), _LINE)


def answered(call: Callable[[], T]) -> T:
    """What code of a stranger gives when it is called.

    Raises:
        TargetFault: it raised something, no matter what.
        HarnessError: raised by what it called back, an adapter or a branch of ours.
        Interrupted: something from outside stopped it, even where it swallowed that (`properties.guards.interruption`).
        KeyboardInterrupt: outside of `watched`, where it cannot be told whose it is.
    """
    checkpoint()
    raised: BaseException | None = None
    got: list[T] = []
    try:
        got.append(call())
    except BaseException as error:  # a target may raise anything, and all of it is an answer
        if issubclass(type(error), AdapterError):  # whoever wrote it says that it is an adapter
            raise
        # TargetFault by a branch, about what it was given.
        if issubclass(type(error), (Interrupted, HarnessError, TargetFault)) and _raised_here(error):
            raise
        if issubclass(type(error), KeyboardInterrupt) and not watching():
            raise
        raised = error
    checkpoint()
    if raised is not None:
        # Hypothesis tells bugs apart by the place of the last frame: that of the target's own.
        raise TargetFault(raised).with_traceback(traceback_of(raised))
    return got[0]


def described(error: BaseException) -> str:
    """``ValueError: too many``, for a terminal, whatever somebody's exception does when it is asked."""
    return ": ".join(filter(None, (name_of(error), message_of(error))))


def raised_at(error: BaseException) -> tuple[str, int] | None:
    """File and line of the last frame that it came from; None where that is not known."""
    trace = traceback_of(error)
    if trace is None:
        return None
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code.co_filename, trace.tb_lineno


def located(error: BaseException) -> str:
    """``ValueError: too many (mixing.py:12)``, the file and line of the last frame, where they are known."""
    place = raised_at(error)
    return described(error) + (f" ({Path(place[0]).name}:{place[1]})" if place else "")


_PACKAGE = Path(__file__).parents[1]


def _raised_here(error: BaseException) -> bool:
    """Whether code of this package raised it; a target may raise what this package defines, and it is the target's."""
    place = raised_at(error)
    return place is not None and _PACKAGE in Path(place[0]).parents


def traceback_of(error: BaseException) -> TracebackType | None:
    """Where it came from, also of somebody's exception that has a property of that name."""
    traceback: Any = vars(BaseException)["__traceback__"]  # not a stranger's property of that name
    return traceback.__get__(error)


def placed(error: BaseException) -> str:
    """`` (file.py:12)``: where it was raised, for somebody who will look for it; nothing where that is not known."""
    place = raised_at(error)
    return "" if place is None else f" ({Path(place[0]).name}:{place[1]})"
