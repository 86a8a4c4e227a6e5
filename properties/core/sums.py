"""How many tokens a gradient by parameters adds up, where a bound is asked for a few of them that come again.

A sum of T terms may be off by gamma_T of the sum of their magnitudes, in whatever order they are added (Higham,
Accuracy and Stability of Numerical Algorithms, section 4.2). A sweep through sizes derives what each of a few tokens
adds, and what many tokens make of these: the T of its bounds is the number of all of them.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator


class _Now(threading.local):
    tokens: int = 0


_now = _Now()


def added_up(tokens: int) -> int:
    """The terms of a sum over these tokens: as many as they are, or as stand for them in `adding_up`."""
    return max(tokens, _now.tokens)


@contextlib.contextmanager
def adding_up(tokens: int) -> Generator[None]:
    """Within it sums over tokens have so many terms at least."""
    before, _now.tokens = _now.tokens, tokens
    try:
        yield
    finally:
        _now.tokens = before
