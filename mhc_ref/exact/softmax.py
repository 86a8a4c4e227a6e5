"""Softmax in mpmath: the gates of a token share 1 among the streams."""

from __future__ import annotations

from mhc_ref.dialect import Dialect
from mhc_ref.exact.lists import Vector
from mhc_ref.exact.numbers import Reals


def gates(logits: Vector, dialect: Dialect, real: Reals) -> Vector:
    """exp(z_i) / sum_j exp(z_j)."""
    return real.softmax(logits)
