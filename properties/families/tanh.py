"""Tanh: products with phi held between -1 and 1."""

from __future__ import annotations

from torch import Tensor

from mhc_ref import Dialect
from properties.bounds.arithmetic import capped, times
from properties.core.family import Dynamic
from properties.core.rounding import Approx, Rounding, known


class Tanh(Dynamic):
    """Hyper-connections, arXiv 2409.19606 eq. (10)-(13)."""

    name = "tanh"
    words = "the dynamic part passes a tanh"
    source = "arXiv 2409.19606 eq. (10)-(13)"

    def inverse(self, activated: Tensor, dialect: Dialect) -> Tensor | None:
        """artanh, of what lies between -1 and 1."""
        return None if bool((activated.abs() >= 1).any()) else activated.atanh()

    def slope(self, activated: Tensor, dialect: Dialect) -> Tensor:
        """1 - tanh^2."""
        return 1 - activated.square()

    def bound(self, products: Approx, dialect: Dialect, r: Rounding) -> Approx:
        """tanh is 1-Lipschitz and absolutely accurate to 4 units."""
        return Approx(products.value.tanh(), capped(products.error, 2.0) + 4 * r.unit)

    def pullback(self, products: Approx, activated: Approx, cotangent: Approx, dialect: Dialect, r: Rounding) -> Approx:
        """tanh' = 1 - tanh^2, a number unless nothing is claimed of tanh."""
        p = activated
        moved = known(2 * p.value.abs() * p.error + p.error.square() + 3 * r.unit)
        return times(cotangent, Approx(1 - p.value.square(), capped(moved, 1.0)), r)


DYNAMIC = Tanh()
