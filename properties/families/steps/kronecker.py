"""Kronecker products step by step: the coefficients of a factor, the factor, and the product of all."""

from __future__ import annotations

import torch
from torch import Tensor

from mhc_ref import Dialect
from mhc_ref.families import kronecker as formulas
from mhc_ref.packing import streams_of_logits
from properties.core.deviant import Deviant


def multiplies(dialect: Dialect) -> bool:
    """h_res is a Kronecker product."""
    return dialect.residual == "kronecker"


class KroneckerSteps(Deviant):
    """U_1 x ... x U_K of softmax mixtures, each of size 2 as [[p, 1 - p], [1 - p, p]]."""

    def project(self, logits: Tensor) -> Tensor:
        return self.kronecker(self.widened(logits)) if multiplies(self.computed) else super().project(logits)

    def kronecker(self, logits: Tensor) -> Tensor:
        n = streams_of_logits(logits.shape, self.computed)
        sizes = formulas.factors(n, self.computed)
        flat = logits.flatten(-len(formulas.shape(n, self.computed)))
        weights = self.weights(formulas.by_factor(flat, sizes))
        return self.multiplied([self.factor_matrix(one, k) for one, k in zip(weights, sizes, strict=True)])

    def weights(self, logits: list[Tensor]) -> list[Tensor]:
        """The coefficients of every factor [..., k!]."""
        return [one.softmax(-1) for one in logits]

    def factor_matrix(self, weights: Tensor, k: int) -> Tensor:
        if k != 2:
            return torch.einsum("...p,pij->...ij", weights, self.permutations_of(k).to(weights))
        p = self.kept_share(weights)
        q = self.complement(p)
        return torch.stack([p, q, q, p], -1).unflatten(-1, (2, 2))

    def kept_share(self, weights: Tensor) -> Tensor:
        """The share p of the identity among the two permutations of a pair."""
        return weights[..., 0]

    def complement(self, p: Tensor) -> Tensor:
        return 1 - p

    def permutations_of(self, k: int) -> Tensor:
        return formulas.permutation_matrices(k)

    def multiplied(self, factors: list[Tensor]) -> Tensor:
        m, *others = factors
        for other in others:
            m = self.kron(m, other)
        return m

    def kron(self, left: Tensor, right: Tensor) -> Tensor:
        return formulas.product(left, right)


STEPS = {"mix": KroneckerSteps}
