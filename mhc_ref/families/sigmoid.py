"""Sigmoid: each gate by itself between 0 and 1 (mHC, arXiv 2512.24880 eq. 8)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from mhc_ref.dialect import Dialect


def gates(logits: Float[Tensor, "*tokens n"], dialect: Dialect) -> Float[Tensor, "*tokens n"]:
    """1 / (1 + exp(-z))."""
    return logits.sigmoid()
