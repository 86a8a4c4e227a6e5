"""The Cayley transform in mpmath: (I - S) M = I + S for a skew S, by elimination, and its gradient."""

from __future__ import annotations

import contextlib
from typing import Any

from mhc_ref.dialect import Dialect
from mhc_ref.exact.lists import Matrix, Vector, flat, rows, transpose
from mhc_ref.exact.numbers import Reals


def shape(n: int, dialect: Dialect) -> tuple[int, ...]:
    """One logit an entry."""
    return (n, n)


def project(z: Vector, n: int, dialect: Dialect, real: Reals) -> Matrix:
    """(I - S)^-1 (I + S), S = reach (Z - Z^T)."""
    with _enough(z, dialect, real):
        s = _skew(z, n, dialect, real)
        return _solved(_plus_identity(s, -1), _plus_identity(s, 1))


def project_vjp(z: Vector, bar: Matrix, dialect: Dialect, real: Reals) -> Vector:
    """reach (G - G^T), G = 2 B^-T C B^-T with B = I - S, C the cotangent; B^T = I + S."""
    n = len(bar)
    with _enough(z, dialect, real):
        s = _skew(z, n, dialect, real)
        left = _solved(_plus_identity(s, 1), bar)  # B^-T C
        g = _solved(_plus_identity(s, -1), transpose(left))  # B^-1 (B^-T C)^T = G^T / 2
        reach = 2 * real.mp.convert(dialect.reach)
        return flat([[reach * (g[j][i] - g[i][j]) for j in range(n)] for i in range(n)])


def _enough(z: Vector, dialect: Dialect, real: Reals) -> contextlib.AbstractContextManager[Any]:
    """Digits for elimination: what it subtracts is of the size of S^2 at most, times what it was begun with."""
    largest = 1 + abs(dialect.reach) * 2 * max(abs(real.value(entry)) for entry in z)
    return real.mp.extraprec(4 * max(1, int(real.mp.mag(largest))) + 16)


def _skew(z: Vector, n: int, dialect: Dialect, real: Reals) -> Matrix:
    logits, reach = rows(z, n), real.mp.convert(dialect.reach)
    return [[reach * (logits[i][j] - logits[j][i]) for j in range(n)] for i in range(n)]


def _plus_identity(s: Matrix, sign: int) -> Matrix:
    """I + sign S."""
    return [[(i == j) + sign * entry for j, entry in enumerate(row)] for i, row in enumerate(s)]


def _solved(a: Matrix, b: Matrix) -> Matrix:
    """a^-1 b by Gauss and Jordan, for an a whose symmetric part is I: what is left of it at each step has one of I and
    more, so that no pivot is below 1."""
    n = len(a)
    both = [[*left, *right] for left, right in zip(a, b, strict=True)]
    for k in range(n):
        pivot = [entry / both[k][k] for entry in both[k]]
        for i in range(n):
            if i != k:
                factor = both[i][k]
                both[i] = [x - factor * y for x, y in zip(both[i], pivot, strict=True)]
        both[k] = pivot
    return [row[n:] for row in both]
