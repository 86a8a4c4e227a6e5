"""Stream in mpmath: the rms of each stream by itself, arXiv 2409.19606."""

from __future__ import annotations

from mhc_ref.dialect import Dialect
from mhc_ref.exact.lists import Matrix
from mhc_ref.exact.numbers import Reals
from mhc_ref.exact.rms import over_rms


def normalise(x: Matrix, dialect: Dialect, real: Reals) -> Matrix:
    """Each stream over its rms."""
    return [over_rms(stream, dialect, real) for stream in x]
