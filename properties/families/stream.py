"""Stream: the rms of each stream by itself."""

from __future__ import annotations

from torch import Tensor

from mhc_ref import Dialect
from mhc_ref.families import stream as formulas
from properties.bounds.rms import over_rms, over_rms_gradient
from properties.core.norms import Norm
from properties.core.rounding import Approx, Rounding


class Stream(Norm):
    """Hyper-connections, arXiv 2409.19606."""

    name = "stream"
    words = "the norm is taken over each stream"
    source = "arXiv 2409.19606"
    OVER = formulas.OVER

    def bound(self, x: Approx, weight: Tensor | None, dialect: Dialect, r: Rounding) -> tuple[Approx, Tensor]:
        return over_rms(x, weight, formulas.OVER, dialect, r)

    def pullback(
        self, x: Approx, cotangent: Approx, through: Tensor, shared: Tensor, dialect: Dialect, r: Rounding
    ) -> Approx:
        return over_rms_gradient(x, cotangent, through, shared, formulas.OVER, dialect, r)


NORM = Stream()
