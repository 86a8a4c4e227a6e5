"""Stream: the rms of each stream by itself (hyper-connections, arXiv 2409.19606)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from mhc_ref.dialect import Dialect
from mhc_ref.rms import over_rms

OVER = (-1,)
"""The dims of x [..., n, C] that the norm is taken over."""


def normalise(x: Float[Tensor, "*tokens n C"], dialect: Dialect) -> Float[Tensor, "*tokens n C"]:
    """x over its rms."""
    return over_rms(x, OVER, dialect)
