"""What a command answers: its exit status where it has none of its own, and with --json one object.

A target that a command calls writes to the standard output of its process what it likes: a line without an end, bytes
that are no text, or nothing any more since it has closed it. So where another process answers for a command
(`properties.commands.answering`), the object goes to that one through a pipe of its own, which prints it.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Generator, Mapping
from typing import Any

from properties.guards.printable import printable

USAGE = 2
"""Exit status where something was asked for that cannot be done."""
HARNESS_ERROR = 3
"""Exit status where the harness could not run."""
INTERRUPTED = 128 + 2
"""Exit status of a process that Ctrl-C has ended where nobody listened to it, as shells have it."""


class _Channel:
    def __init__(self) -> None:
        self.pipe: int | None = None
        self.told = False


_channel = _Channel()


def hand_to(pipe: int) -> None:
    """From now on the object goes to this file descriptor."""
    _channel.pipe = pipe


def told() -> bool:
    """Whether the object of this command has been printed, or handed on."""
    return _channel.told


def tell(answer: Mapping[str, Any]) -> None:
    """Print the object of --json on one line, or hand it to the process that prints it.

    NaN and infinities, for which JSON has no words, are null.

    Raises:
        OSError: nobody reads it.
    """
    strict = json.loads(json.dumps(answer), parse_constant=lambda _: None)
    line = json.dumps(strict, allow_nan=False) + "\n"
    _channel.told = True
    if _channel.pipe is None:
        sys.stdout.write(line)
        sys.stdout.flush()
        return
    left = memoryview(line.encode())
    while left:
        left = left[os.write(_channel.pipe, left) :]


def refusal(sentence: str, status: int = USAGE) -> dict[str, Any]:
    """The object of --json where there is no answer: why, and the exit status."""
    return {"error": printable(sentence), "exit": status}


@contextlib.contextmanager
def progress_on_stderr(active: bool) -> Generator[None]:
    """Send everything that is printed meanwhile to stderr, by workers too."""
    if not active:
        yield
        return
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        sys.stdout.flush()
        os.dup2(saved, 1)
        os.close(saved)
