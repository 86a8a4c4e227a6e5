"""Tanh: products with phi held between -1 and 1 (hyper-connections, arXiv 2409.19606 eq. 10-13)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from mhc_ref.dialect import Dialect


def activate(products: Float[Tensor, "*tokens m"], dialect: Dialect) -> Float[Tensor, "*tokens m"]:
    """tanh of every product."""
    return products.tanh()
