"""A failing case with fewer tokens.

Hypothesis shrinks what it draws from the front, and draws what comes after a token otherwise once that token is gone: a
failure of the last token would keep those before it, with zeros in them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from properties.core.case import Case
from properties.engine.misfits import TENSORS, misfit, sizes_of
from properties.engine.subject import Subject

BY_TOKEN = frozenset({*TENSORS, "logits", "other", "cotangent", "cotangents"})
"""What has the tokens as its first axis."""
MOST = 16
"""Tokens of which a case is tried with fewer; of more, Hypothesis has left all for a reason."""


def fewer_tokens(case: Case, subject: Subject) -> Iterator[Case]:
    """The case with each of its tokens alone, then without each of them: those whose values fit one another."""
    values, dialect = dict(case.items()), subject.implementation.dialect
    if not {"x", "h", "logits", "matrix"} & set(values) or values.get("axes") or misfit(case, dialect, subject.dtype):
        return
    count = sizes_of(values, values.get("dialect", dialect)).T or 0
    if not 1 < count <= MOST:
        return
    each = list(range(count))
    kept = [[one] for one in each] + ([[other for other in each if other != one] for one in each] if count > 2 else [])
    for those in kept:
        smaller = case.with_(**{name: _of(values[name], count, those) for name in BY_TOKEN & set(values)})
        if misfit(smaller, dialect, subject.dtype) is None:
            yield smaller


def _of(value: Any, count: int, tokens: list[int]) -> Any:
    """Of a tensor, or of each of several, only these of `count` tokens."""
    if isinstance(value, (tuple, list)):
        return tuple(_of(one, count, tokens) for one in value)
    return value[tokens] if isinstance(value, Tensor) and value.ndim and value.shape[0] == count else value
