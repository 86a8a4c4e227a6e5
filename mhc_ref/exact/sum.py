"""Sum in mpmath: the streams end as their sum."""

from __future__ import annotations

from mhc_ref.dialect import Dialect
from mhc_ref.exact.lists import Matrix, Vector, transpose
from mhc_ref.exact.numbers import Reals

HEAD = False


def collapse(x: Matrix, h_pre: Vector | None, dialect: Dialect, real: Reals) -> Vector:
    """The sum over the streams."""
    return [real.sum(channel) for channel in transpose(x)]
