"""Linear in mpmath: gates or products as they are, arXiv 2409.19606."""

from __future__ import annotations

from mhc_ref.dialect import Dialect
from mhc_ref.exact.lists import Vector
from mhc_ref.exact.numbers import Reals


def gates(logits: Vector, dialect: Dialect, real: Reals) -> Vector:
    """The logits themselves."""
    return logits


def activate(products: Vector, dialect: Dialect, real: Reals) -> Vector:
    """The products themselves."""
    return products
