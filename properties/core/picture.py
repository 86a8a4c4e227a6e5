"""Numbers as a reader looks at them: a window of a tensor, small enough to be drawn and to travel in a report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

WINDOW = 16
"""Rows and columns at most."""

Drawn = float | str
"""A number, or the name of one that JSON has no word for: "nan", "inf" or "-inf"."""


@dataclass(frozen=True)
class Window:
    """Which entries of a tensor are shown: those of its last two axes around one of them.

    Attributes:
        shape: of the whole tensor.
        start: the index of the first entry that is shown, on every axis; 0 on one that the tensor does not have.
        rows, columns: how many of each.
    """

    shape: tuple[int, ...]
    start: tuple[int, ...]
    rows: int
    columns: int

    @classmethod
    def around(cls, shape: Sequence[int], index: Sequence[int]) -> Window:
        """The window of a tensor of that shape in which the entry at `index` is."""
        height, width = (1, 1, *shape)[-2:]
        row, column = (0, 0, *index)[-2:]
        first = [max(0, min(at - WINDOW // 2, size - WINDOW)) for at, size in ((row, height), (column, width))]
        start = (*index[:-2], *first[2 - min(2, len(shape)) :])
        return cls(tuple(shape), start, min(height, WINDOW), min(width, WINDOW))

    def of(self, values: Any, digits: int = 9) -> list[list[Drawn]]:
        """The entries of an array of that shape, row by row, to so many digits."""
        plane = np.asarray(values, dtype=np.float64)
        plane = plane.reshape((1,) * max(0, 2 - plane.ndim) + plane.shape)
        plane = plane[tuple(self.start[: max(0, len(self.shape) - 2)])]
        row, column = (0, 0, *self.start)[-2:]
        cut = plane[row : row + self.rows, column : column + self.columns]
        return [[drawn(value, digits) for value in line] for line in cut.tolist()]


def sparse(rows: list[list[Drawn]]) -> list[list[Drawn]] | dict[str, Any]:
    """The same entries, as {rows, columns, entries: [[row, column, number]]} where most of them are 0."""
    entries = [[i, j, number] for i, row in enumerate(rows) for j, number in enumerate(row) if number != 0]
    size = len(rows) * len(rows[0]) if rows else 0
    if 3 * len(entries) >= size:
        return rows
    return {"rows": len(rows), "columns": len(rows[0]), "entries": entries}


def drawn(value: float, digits: int = 9) -> Drawn:
    """A number to so many digits."""
    return float(f"{value:.{digits}g}") if math.isfinite(value) else str(float(value))


@dataclass(frozen=True)
class Picture:
    """What was given and what belongs there, around the place where they differ most.

    Attributes:
        window: what is shown of the output.
        index: the place of the largest error / bound.
        got, exact, error, bound: the numbers, row by row.
    """

    window: Window
    index: tuple[int, ...]
    got: list[list[Drawn]]
    exact: list[list[Drawn]]
    error: list[list[Drawn]]
    bound: list[list[Drawn]]

    @classmethod
    def of(cls, index: Sequence[int], got: Any, exact: Any, error: Any, bound: Any) -> Picture:
        """Of arrays of one shape [...]."""
        window = Window.around(np.shape(got), index)
        return cls(window, tuple(index), window.of(got), window.of(exact), window.of(error, 3), window.of(bound, 3))

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "shape": list(self.window.shape),
            "start": list(self.window.start),
            "index": list(self.index),
            **{name: sparse(getattr(self, name)) for name in ("got", "exact", "error", "bound")},
        }


# -- how near ratios come to 1 -----------------------------------------------------------------------------------------

LEAST = -32
"""The bin of ratios below 10^-16, those of 0 among them."""
MOST = 32
"""The bin of ratios from 10^16 on, infinite ones among them."""


def bin_of(ratio: float) -> int:
    """The half decade of a ratio error / bound: b holds those from 10^(b/2) to 10^((b+1)/2)."""
    if not ratio > 0:
        return LEAST
    if not math.isfinite(ratio):
        return MOST
    return max(LEAST, min(MOST, math.floor(2 * math.log10(ratio))))


def add_nearness(so_far: dict[str, dict[int, int]], more: Iterable[tuple[str, dict[int, int]]]) -> None:
    """Count further ratios: what was judged -> bin -> how many times."""
    for what, bins in more:
        mine = so_far.setdefault(what, {})
        for one, count in bins.items():
            mine[one] = mine.get(one, 0) + count


def behaviours(nearness: Mapping[str, Mapping[int, int]]) -> set[str]:
    """How near each thing that was judged came to its bound, in words that another search may come to, too."""
    return {f"{what} at {power}" for what, bins in nearness.items() for power in bins}
