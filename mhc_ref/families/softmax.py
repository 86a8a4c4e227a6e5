"""Softmax: the gates of a token share 1 among the streams."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from mhc_ref.dialect import Dialect


def gates(logits: Float[Tensor, "*tokens n"], dialect: Dialect) -> Float[Tensor, "*tokens n"]:
    """exp(z_i) / sum_j exp(z_j)."""
    return logits.softmax(-1)
