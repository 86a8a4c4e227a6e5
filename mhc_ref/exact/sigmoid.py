"""Sigmoid in mpmath: each gate by itself between 0 and 1, arXiv 2512.24880 eq. (8)."""

from __future__ import annotations

from mhc_ref.dialect import Dialect
from mhc_ref.exact.lists import Vector
from mhc_ref.exact.numbers import Reals


def gates(logits: Vector, dialect: Dialect, real: Reals) -> Vector:
    """1 / (1 + exp(-z))."""
    return [1 / (1 + real.exp(-logit)) for logit in logits]
