"""Exact answers, kept by what was asked.

A question of mpmath takes as long as a hundred calls of an implementation, and many searches ask the same one: the
simplest examples of a law are the same for every implementation of a dialect, and so are all of them where they are
drawn alike (the kill matrix, tests). The answer hangs on the numbers of the question alone, whoever is judged by it.
"""

from __future__ import annotations

import functools
import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar, cast

from torch import Tensor

from mhc_ref import Mappings
from properties.core.case import BranchSpec
from properties.core.truth import wide

Answered = TypeVar("Answered")

MOST = 2**26
"""Bytes of the answers that are kept."""
_EACH = 800
"""Bytes that a tensor takes beside its numbers, with its place in a list and in the memory: a process grows by 796 for
each answer of four numbers."""


class Answers:
    """Answers by the digest of their question, the one used last at the end."""

    def __init__(self, most: int = MOST) -> None:
        self.most = most
        self._begin()
        if hasattr(os, "register_at_fork"):  # another thread may hold the lock at that moment, half way through
            os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self._kept: OrderedDict[bytes, Any] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: bytes) -> Any:
        """A copy of the answer, None where there is none."""
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return _copied(self._kept[key])

    def put(self, key: bytes, answer: Any) -> None:
        """Keep a copy of the answer; those unused for longest go where there are too many bytes. What alone has too
        many is not kept."""
        if _bytes(answer) > self.most:
            return
        with self._lock:
            self._bytes += _bytes(answer) - _bytes(self._kept.pop(key, ()))
            self._kept[key] = _copied(answer)
            while self._bytes > self.most:
                self._bytes -= _bytes(self._kept.popitem(last=False)[1])

    def forget(self) -> None:
        """Let go of all of them."""
        with self._lock:
            self._kept.clear()
            self._bytes = 0


ANSWERS = Answers()
"""What this process has been told."""


def remembered(method: Callable[..., Answered]) -> Callable[..., Answered]:
    """A method of an exact truth that computes the answer to a question once.

    Its owner has `dialect`, `asked`, and `lasting`: whether the formulas of its dialect stay what they are.
    """

    @functools.wraps(method)
    def answering(self: Any, *arguments: Any) -> Answered:
        if not self.lasting:
            return method(self, *arguments)
        key = _digest(type(self), method.__name__, self.dialect, arguments)
        kept = ANSWERS.get(key)
        if kept is not None:
            self.asked += 1
            return kept
        answer = method(self, *arguments)
        ANSWERS.put(key, answer)
        return answer

    return answering


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, Mappings):
        return Mappings(*map(_copied, value))
    return type(value)(map(_copied, value))


def _bytes(value: Any) -> int:
    return _EACH + 8 * value.numel() if isinstance(value, Tensor) else sum(map(_bytes, value))


def _digest(*question: Any) -> bytes:
    """A name for a question: every number of it, its shapes and dtypes, and all else as it is written."""
    digest = hashlib.blake2b(digest_size=16)
    for part in _parts(question):
        digest.update(part)
    return digest.digest()


def _parts(value: Any) -> Iterator[bytes]:
    if isinstance(value, Tensor):
        yield f"{tuple(value.shape)} {value.dtype}:".encode()
        yield wide(value).numpy().tobytes()  # every number of a shorter dtype is one of float64
    elif isinstance(value, BranchSpec):
        yield f"branch {value.kind}".encode()
        yield from _parts(value.weight)
    elif isinstance(value, (tuple, list)):
        yield b"("
        for part in cast("Iterable[Any]", value):
            yield from _parts(part)
        yield b")"
    else:
        yield f"{value!r},".encode()
