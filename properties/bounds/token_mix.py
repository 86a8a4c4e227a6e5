"""A branch that mixes tokens, as attention does, with its bound: F(u) = S (w u), of which each token has a part."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from properties.core.rounding import Approx, Rounding
from properties.core.truth import wide


@dataclass(frozen=True)
class TokenMix:
    """F(u) = S (w u), S [tokens, tokens], w [C].

    Attributes:
        matrix: S, of rows with two entries that are powers of two.
        weight: w.
    """

    matrix: Tensor
    weight: Tensor

    def returned(self, u: Approx, r: Rounding) -> Approx:
        """F(u) for u [tokens, C], before it is stored."""
        return self._applied(wide(self.matrix), u, r)

    def pulled(self, g: Approx, r: Rounding) -> Approx:
        """The gradient by u for one by F(u), before it is stored: w S^T g."""
        return self._applied(wide(self.matrix).mT, g, r)

    def _applied(self, matrix: Tensor, one: Approx, r: Rounding) -> Approx:
        """The product with w, two products with powers of two, and their sum: each is rounded to the dtype of the
        state at most once."""
        weight = wide(self.weight)
        value = matrix @ (weight * one.value)
        moved = matrix.abs() @ (weight.abs() * one.error)
        size = matrix.abs() @ (weight.abs() * (one.value.abs() + one.error))
        unit = max(r.unit, r.state_unit)  # of a state that is not narrower than the rest the latter is 0
        own = 3 * unit / (1 - 3 * unit) * size + 4 * max(r.tiny, r.state_tiny)
        error = torch.where(size.isfinite(), moved + own, torch.inf)
        return Approx(value, error)
