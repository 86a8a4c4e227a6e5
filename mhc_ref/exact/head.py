"""Head in mpmath: the streams end as a sum gated like h_pre, not normalised, DeepSeek-V4's hc_head."""

from __future__ import annotations

from mhc_ref.dialect import Dialect
from mhc_ref.exact.lists import Matrix, Vector, transpose
from mhc_ref.exact.numbers import Reals

HEAD = True


def collapse(x: Matrix, h_pre: Vector, dialect: Dialect, real: Reals) -> Vector:
    """h_pre x, with the h_pre of parameters of its own."""
    return [real.dot(h_pre, channel) for channel in transpose(x)]
