"""Copies in mpmath: every stream begins as the same h."""

from __future__ import annotations

from mhc_ref.dialect import Dialect
from mhc_ref.exact.lists import Matrix, Vector
from mhc_ref.exact.numbers import Reals


def expand(h: Vector, n: int, dialect: Dialect, real: Reals) -> Matrix:
    """n copies of h."""
    return [list(h) for _ in range(n)]
