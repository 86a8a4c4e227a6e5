"""Whose fault a failure is: the harness's, an adapter's, or the target's. Nobody is blamed for somebody else's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from properties.interruption import Interrupted, checkpoint, watching
from properties.printable import message_of, name_of

T = TypeVar("T")


class HarnessError(Exception):
    """The suite itself is at fault, or cannot tell: never a verdict on the implementation."""


class AdapterError(HarnessError):
    """The code between the suite and an implementation (`properties.modules`, `properties.arrays`) cannot hand a call
    on: the message says what was given, what was expected, and what to declare."""


class TargetFault(Exception):
    """What a target raised while it was called: an error, an exit, a skip of a test runner, whatever it was.

    It is made in one place, `answered`, so that nothing which the suite itself raises can be taken for it.

    Attributes:
        error: what the target raised.
        kind: the name of its class.
        message: its text, as a terminal may show it.
    """

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.kind = name_of(error)
        self.message = message_of(error)
        super().__init__(described(error))


def answered(call: Callable[[], T]) -> T:
    """What code of a stranger gives when it is called.

    Raises:
        TargetFault: it raised something, no matter what.
        HarnessError: raised by what it called back, an adapter or a branch of ours.
        Interrupted: something from outside stopped it, even where it swallowed that (see `properties.interruption`).
        KeyboardInterrupt: outside of `watched`, where it cannot be told whose it is.
    """
    checkpoint()
    raised: BaseException | None = None
    got: list[T] = []
    try:
        got.append(call())
    except (Interrupted, HarnessError, TargetFault):  # the last by a branch, about what it was given
        raise
    except BaseException as error:  # a target may raise anything, and all of it is an answer
        if issubclass(type(error), KeyboardInterrupt) and not watching():
            raise
        raised = error
    checkpoint()
    if raised is not None:
        # Hypothesis tells bugs apart by the place of the last frame: that of the target's own.
        raise TargetFault(raised).with_traceback(raised.__traceback__)
    return got[0]


def described(error: BaseException) -> str:
    """``ValueError: too many``, for a terminal, whatever somebody's exception does when it is asked."""
    return ": ".join(filter(None, (name_of(error), message_of(error))))


def placed(error: BaseException) -> str:
    """`` (file.py:12)``: where it was raised, for somebody who will look for it; nothing where that is not known."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f" ({Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno})"
