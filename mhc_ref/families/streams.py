"""Streams: the rms over all n*C numbers of a token (mHC, arXiv 2512.24880 eq. 7, 15)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from mhc_ref.dialect import Dialect
from mhc_ref.rms import over_rms

OVER = (-2, -1)
"""The dims of x [..., n, C] that the norm is taken over."""


def normalise(x: Float[Tensor, "*tokens n C"], dialect: Dialect) -> Float[Tensor, "*tokens n C"]:
    """x over its rms."""
    return over_rms(x, OVER, dialect)
