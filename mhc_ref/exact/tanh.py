"""Tanh in mpmath: products with phi held between -1 and 1, arXiv 2409.19606 eq. (10)-(13)."""

from __future__ import annotations

from mhc_ref.dialect import Dialect
from mhc_ref.exact.lists import Vector
from mhc_ref.exact.numbers import Reals


def activate(products: Vector, dialect: Dialect, real: Reals) -> Vector:
    """tanh of every product."""
    return [real.tanh(product) for product in products]
