"""Linear: gates or products as they are (hyper-connections, arXiv 2409.19606)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from mhc_ref.dialect import Dialect


def gates(logits: Float[Tensor, "*tokens n"], dialect: Dialect) -> Float[Tensor, "*tokens n"]:
    """The logits themselves."""
    return logits


def activate(products: Float[Tensor, "*tokens m"], dialect: Dialect) -> Float[Tensor, "*tokens m"]:
    """The products themselves."""
    return products
