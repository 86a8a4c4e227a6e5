"""Last pre in mpmath: the streams end as a sum gated by the h_pre of the last block, DeepSeek-V4.1's last pre-mix."""

from __future__ import annotations

from mhc_ref.dialect import Dialect
from mhc_ref.exact.lists import Matrix, Vector
from mhc_ref.exact.numbers import Reals

LAST = True


def collapse(x: Matrix, h_pre: Vector, dialect: Dialect, real: Reals) -> Vector:
    """sum_j h_pre_j x_j in every channel."""
    return [real.dot(h_pre, [stream[c] for stream in x]) for c in range(len(x[0]))]
