"""Streamwise: a branch reads the sum of the streams, each times a gate of its own."""

from __future__ import annotations

from mhc_ref import Dialect, Params
from properties.bounds.arithmetic import affine
from properties.bounds.stages import squash_gradient, squashed
from properties.core.reads import Read
from properties.core.rounding import Approx, Rounding


class Streamwise(Read):
    """mHC, arXiv 2512.24880 eq. (3)."""

    name = "streamwise"
    words = "a branch reads the streams by a gate for each"
    source = "arXiv 2409.19606; mHC, arXiv 2512.24880 eq. (3)"
    by_stream = True
    plain = True

    def bound(self, logits: Approx, x: Approx, params: Params, dialect: Dialect, r: Rounding) -> Approx:
        return affine(squashed(logits, dialect.pre, dialect, r), 1.0, dialect.pre_eps, r)

    def pullback(
        self, logits: Approx, x: Approx, params: Params, cotangent: Approx, dialect: Dialect, r: Rounding, kept: str
    ) -> tuple[Approx, None, None, None]:
        return squash_gradient(logits, cotangent, dialect.pre, dialect, r), None, None, None


READ = Streamwise()
