"""Head in mpmath: the streams end as a sum gated like h_pre, not normalised, DeepSeek-V4's hc_head."""

from __future__ import annotations

from typing import Any

from mhc_ref.dialect import Dialect
from mhc_ref.exact.lists import Matrix, Vector, by_channel, transpose
from mhc_ref.exact.numbers import Reals

HEAD = True


def collapse(x: Matrix, h_pre: Any, dialect: Dialect, real: Reals) -> Vector:
    """h_pre x, with the h_pre of parameters of its own."""
    pairs = zip(by_channel(h_pre, len(x[0])), transpose(x), strict=True)
    return [real.dot(weights, channel) for weights, channel in pairs]
