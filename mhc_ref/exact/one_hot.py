"""One-hot in mpmath: stream 0 begins as h and the others as zeros."""

from __future__ import annotations

from mhc_ref.dialect import Dialect
from mhc_ref.exact.lists import Matrix, Vector
from mhc_ref.exact.numbers import Reals


def expand(h: Vector, n: int, dialect: Dialect, real: Reals) -> Matrix:
    """h, and n - 1 times zeros."""
    return [list(h), *([0 * a for a in h] for _ in range(n - 1))]
