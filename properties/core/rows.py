"""Many cases in one pass: which case each token is of, and where the pass computes.

Tokens are independent, so that hundreds of cases of one law can be the tokens of one call, one truth and one bound.
What a bound takes over all tokens of a case (the most products that are added up, `bounds.arithmetic.addends`) it takes
case by case here, and what is judged in float64 stays where the implementation computes. Outside of `together` there
is one case, and it is judged on the CPU.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """Tokens of many cases.

    Attributes:
        of: the case of each token, [tokens], in `place`.
        cases: how many cases there are.
        place: where the pass computes.
    """

    of: Tensor
    cases: int
    place: torch.device

    def most(self, each: Tensor) -> Tensor:
        """The largest number of each case, [cases], of numbers [tokens] that are not below 0."""
        return each.new_zeros(self.cases).scatter_reduce(0, self.of, each, "amax", include_self=True)

    def total(self, each: Tensor) -> Tensor:
        """The sum over each case, [cases], of numbers [tokens]."""
        return each.new_zeros(self.cases).scatter_add(0, self.of, each)


class _Now(threading.local):
    rows: Rows | None = None


_now = _Now()
_CPU = torch.device("cpu")


def rows() -> Rows | None:
    """The cases of the pass that is under way; None where there is one case."""
    return _now.rows


def place() -> torch.device:
    """Where numbers are judged: the CPU, or the device of the pass that is under way."""
    return _CPU if _now.rows is None else _now.rows.place


@contextlib.contextmanager
def together(those: Rows) -> Generator[None]:
    """A pass over many cases."""
    before, _now.rows = _now.rows, those
    try:
        yield
    finally:
        _now.rows = before


Count = int | Tensor
"""How many roundings: of every token, or of each, [tokens]."""


def most_of(counts: Tensor) -> Count:
    """The largest of some counts [tokens]: of all tokens, or in a pass over many cases of the case of each token."""
    if (those := _now.rows) is None:
        return int(counts.amax()) if counts.numel() else 0
    return those.most(counts)[those.of]


def beside(count: Count, ndim: int) -> Count:
    """A count that multiplies numbers of so many axes, the first of which has the tokens."""
    return count.reshape(-1, *[1] * (ndim - 1)) if isinstance(count, Tensor) else count


def at_most(count: Count, most: int) -> Count:
    """The smaller of the two."""
    return count.clamp(max=most) if isinstance(count, Tensor) else min(count, most)
