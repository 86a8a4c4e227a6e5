"""Controls of Kronecker products: by logarithms, by a sigmoid and 1 less it, and as one mixture of permutations."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from mhc_ref.families import kronecker as formulas
from mhc_ref.packing import streams_of_logits
from properties.core.slips import Controls
from properties.families.steps.kronecker import KroneckerSteps, multiplies

CONTROLS = Controls()
control = CONTROLS.control


@control("kronecker-logarithms", multiplies)
class KroneckerLogarithms(KroneckerSteps):
    """The logarithms of the entries of all factors are added up."""

    full_range = True

    def weights(self, logits: list[Tensor]) -> list[Tensor]:
        return [one.log_softmax(-1) for one in logits]

    def factor_matrix(self, weights: Tensor, k: int) -> Tensor:
        there = self.permutations_of(k).to(weights) > 0  # [k!, k, k]
        lowest = torch.finfo(weights.dtype).min / 8
        return torch.where(there, weights[..., None, None], lowest).logsumexp(-3)

    def multiplied(self, factors: list[Tensor]) -> Tensor:
        def added(left: Tensor, right: Tensor) -> Tensor:
            return (left[..., :, None, :, None] + right[..., None, :, None, :]).flatten(-4, -3).flatten(-2)

        return functools.reduce(added, factors).exp()


@control("kronecker-sigmoid", multiplies)
class KroneckerSigmoid(KroneckerSteps):
    """Of a pair p is a sigmoid of the difference of its logits, and 1 - p stands beside it."""

    full_range = True

    def weights(self, logits: list[Tensor]) -> list[Tensor]:
        return [
            (one[..., :1] - one[..., 1:]).sigmoid() if one.shape[-1] == 2 else soft
            for one, soft in zip(logits, super().weights(logits), strict=True)
        ]


@control("kronecker-one-mixture", multiplies)
class KroneckerOneMixture(KroneckerSteps):
    """The products of the permutations of all factors are mixed at once, by the products of their coefficients."""

    full_range = True

    def kronecker(self, logits: Tensor) -> Tensor:
        n = streams_of_logits(logits.shape, self.computed)
        sizes = formulas.factors(n, self.computed)
        flat = logits.flatten(-len(formulas.shape(n, self.computed)))
        weights, matrices = logits.new_ones(*flat.shape[:-1], 1), logits.new_ones(1, 1, 1)
        for one, k in zip(self.weights(formulas.by_factor(flat, sizes)), sizes, strict=True):
            weights = (weights[..., :, None] * one[..., None, :]).flatten(-2)
            matrices = formulas.product(matrices[:, None], self.permutations_of(k).to(logits)).flatten(0, 1)
        return torch.einsum("...p,pij->...ij", weights, matrices)
