"""Rows in which every two levels of two factors meet: a covering array of strength two."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Row = dict[str, Any]
"""A level of each factor, by its name."""


def pairwise(factors: Mapping[str, Sequence[Any]], allowed: Callable[[Row], bool] = lambda row: True) -> list[Row]:
    """So few rows that every two levels of two factors are together in one, where any row may have them together.

    A row begins with the first pair that none has yet; the other factors take, one after the other, the level that
    brings the most new pairs, and among those the one that was taken least. That is the greedy construction of D. Cohen
    et al. (The AETG system, 1997), without its random choices: the rows are the same in every run.

    Arguments:
        factors: the levels of each factor, at least one.
        allowed: whether these levels may come together; asked of some factors before the others are chosen, too, where
            it may say yes although no levels of the others fit.
    """
    names = list(factors)
    left = {
        frozenset(((a, one), (b, other)))
        for a, b in itertools.combinations(names, 2)
        for one, other in itertools.product(factors[a], factors[b])
    }
    order = [
        ((a, one), (b, other))
        for a, b in itertools.combinations(names, 2)
        for one, other in itertools.product(factors[a], factors[b])
    ]
    rows: list[Row] = []
    taken: Counter[tuple[str, Any]] = Counter()

    def filled(row: Row) -> Row | None:
        """The row with a level of every factor; levels that leave none for a later factor are taken back."""
        if not allowed(row):
            return None
        name = next((one for one in names if one not in row), None)
        if name is None:
            return row

        def worth(level: Any) -> tuple[int, int]:
            new = sum(frozenset(((name, level), other)) in left for other in row.items())
            return new, -taken[name, level]

        tried = sorted(factors[name], key=worth, reverse=True)
        return next((found for level in tried if (found := filled({**row, name: level})) is not None), None)

    for pair in order:
        if frozenset(pair) not in left:
            continue
        row = filled(dict(pair))
        left.discard(frozenset(pair))  # in this row, or in none that is allowed
        if row is not None:
            rows.append({name: row[name] for name in names})
            left -= {frozenset(two) for two in itertools.combinations(row.items(), 2)}
            taken.update(row.items())
    return rows or [{name: levels[0] for name, levels in factors.items()}]
