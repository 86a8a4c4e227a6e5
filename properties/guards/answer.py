"""The one object that a command prints with --json, and whom it tells.

A target that a command calls writes to the standard output of its process what it likes: a line without an end, bytes
that are no text, or nothing any more since it has closed it. So where another process answers for a command
(`properties.plugin.launch.answers_for`), the object goes to that one through a pipe of its own, which prints it.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Generator, Mapping
from typing import Any


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
