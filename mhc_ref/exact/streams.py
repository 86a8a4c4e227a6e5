"""Streams in mpmath: the rms over all n*C numbers of a token, arXiv 2512.24880 eq. (7), (15)."""

from __future__ import annotations

from mhc_ref.dialect import Dialect
from mhc_ref.exact.lists import Matrix, flat, rows
from mhc_ref.exact.numbers import Reals
from mhc_ref.exact.rms import over_rms


def normalise(x: Matrix, dialect: Dialect, real: Reals) -> Matrix:
    """x over its rms."""
    return rows(over_rms(flat(x), dialect, real), len(x))
