"""Controls of the Cayley transform: by an inverse, by a product, from the right, and with an elimination by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from properties.core.slips import Controls
from properties.families.steps.cayley import CayleySteps, identity_of, turns

CONTROLS = Controls()
control = CONTROLS.control


@control("cayley-inverse", turns)
class CayleyInverse(CayleySteps):
    """M = 2 (I - S)^-1 - I."""

    full_range = True

    def cayley(self, s: Tensor) -> Tensor:
        return 2 * torch.linalg.inv(self.lower(s)) - identity_of(s)


@control("cayley-product", turns)
class CayleyProduct(CayleySteps):
    """M = (I + S) (I - S)^-1, an inverse and a product: the two factors commute."""

    full_range = True

    def solved(self, lower: Tensor, upper: Tensor) -> Tensor:
        return upper @ torch.linalg.inv(lower)


@control("cayley-from-the-right", turns)
class CayleyFromTheRight(CayleySteps):
    """M solves M (I - S) = I + S."""

    full_range = True

    def solved(self, lower: Tensor, upper: Tensor) -> Tensor:
        return torch.linalg.solve(lower, upper, left=False)


class Eliminated(torch.autograd.Function):
    """Gauss and Jordan without pivots; backwards two products with the inverse, as autograd through elimination would
    lose what its squares grow to."""

    @staticmethod
    def forward(ctx: Any, s: Tensor) -> Tensor:
        one = identity_of(s)
        both, n = torch.cat([one - s, one + s, one], -1), s.shape[-1]
        for k in range(n):
            pivot = both[..., k : k + 1, :] / both[..., k : k + 1, k : k + 1]
            rest = both - both[..., :, k : k + 1] * pivot
            both = torch.cat([rest[..., :k, :], pivot, rest[..., k + 1 :, :]], -2)
        ctx.save_for_backward(both[..., 2 * n :])
        return both[..., n : 2 * n].contiguous()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Tensor:
        (inverse,) = ctx.saved_tensors
        return 2 * inverse.mT @ grad_outputs[0] @ inverse.mT


@control("cayley-elimination", turns)
class CayleyElimination(CayleySteps):
    """Gauss and Jordan without pivots, which a matrix with the symmetric part I does not need; a gradient by hand."""

    full_range = True

    def cayley(self, s: Tensor) -> Tensor:
        found: Any = Eliminated.apply(s)
        return found
