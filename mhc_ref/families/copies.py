"""Copies: every stream begins as the same h, as in every published implementation."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from mhc_ref.dialect import Dialect


def expand(h: Float[Tensor, "*tokens C"], n: int, dialect: Dialect) -> Float[Tensor, "*tokens n C"]:
    """n copies of h."""
    return h.unsqueeze(-2).repeat_interleave(n, -2)
