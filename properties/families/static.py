"""Static: the logits are the bias alone."""

from __future__ import annotations

import torch
from torch import Tensor

from mhc_ref import Dialect
from properties.core.family import Dynamic
from properties.core.rounding import Approx, Rounding


class Static(Dynamic):
    """Static hyper-connections, arXiv 2409.19606 section 2.2."""

    name = "static"
    words = "there is no dynamic part: the logits are the bias alone"
    source = "arXiv 2409.19606 section 2.2, static hyper-connections; tokenbender's mHC"
    constant = True

    def bound(self, products: Approx, dialect: Dialect, r: Rounding) -> Approx:
        """0, which nothing rounds."""
        return Approx.exact(torch.zeros_like(products.value))

    def pullback(self, products: Approx, activated: Approx, cotangent: Approx, dialect: Dialect, r: Rounding) -> Approx:
        """0: the products are not read."""
        return Approx.exact(torch.zeros_like(products.value))

    def inverse(self, activated: Tensor, dialect: Dialect) -> Tensor | None:
        """None: nothing is to be read off it."""
        return None


DYNAMIC = Static()
