"""Static in mpmath: logits without a dynamic part, arXiv 2409.19606 section 2.2."""

from __future__ import annotations

from mhc_ref.dialect import Dialect
from mhc_ref.exact.lists import Vector
from mhc_ref.exact.numbers import Reals


def activate(products: Vector, dialect: Dialect, real: Reals) -> Vector:
    """0 in the place of every product."""
    return [real.mp.zero for _ in products]
