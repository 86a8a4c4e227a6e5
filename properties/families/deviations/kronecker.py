"""Deviations of Kronecker products: their factors, which of two permutations is which, and 1 - p."""

from __future__ import annotations

import torch
from torch import Tensor

from properties.core.deviant import through
from properties.core.slips import MUTATION, Slips
from properties.families.steps.kronecker import KroneckerSteps, multiplies

SLIPS = Slips()
eps = SLIPS.step("eps")
dtype = SLIPS.step("dtype")
gradient = SLIPS.step("gradient")
missing = SLIPS.step("missing-term")
normalisation = SLIPS.step("normalisation")
orientation = SLIPS.step("orientation")
packing = SLIPS.step("packing")


@packing("kronecker-reversed", f"{MUTATION}: U_K x ... x U_1, the fastest index first", multiplies)
class KroneckerReversed(KroneckerSteps):
    """The factors are multiplied from the last to the first."""

    def multiplied(self, factors: list[Tensor]) -> Tensor:
        return super().multiplied(factors[::-1])


@orientation("kronecker-swap-first", f"{MUTATION}: get_2x2_perm_matrices in the other order", multiplies)
class KroneckerSwapFirst(KroneckerSteps):
    """The first coefficient of a pair is that of the exchange, and the second that of the identity."""

    def kept_share(self, weights: Tensor) -> Tensor:
        return weights[..., 1]


@packing("kronecker-not-interleaved", f"{MUTATION}: a reshape of U[i, j] V[k, l] that leaves out i k j l", multiplies)
class KroneckerNotInterleaved(KroneckerSteps):
    """The product of entries i j and k l stands at i j, k l of a matrix that is read as i k, j l."""

    def kron(self, left: Tensor, right: Tensor) -> Tensor:
        size = left.shape[-1] * right.shape[-1]
        return torch.einsum("...ij,...kl->...ijkl", left, right).flatten(-4).unflatten(-1, (size, size))


@missing("kronecker-sum", f"{MUTATION}: a Kronecker sum, which is doubly stochastic when it is halved", multiplies)
class KroneckerSum(KroneckerSteps):
    """In place of a product the mean of U x I and I x V is taken."""

    def kron(self, left: Tensor, right: Tensor) -> Tensor:
        one, other = (torch.eye(m.shape[-1]).to(m).expand_as(m) for m in (left, right))
        return (super().kron(left, other) + super().kron(one, right)) / 2


@packing("kronecker-first-factor-repeated", f"{MUTATION}: the coefficients of the loop's first pass", multiplies)
class KroneckerFirstFactorRepeated(KroneckerSteps):
    """Every factor of one size has the coefficients of the first."""

    def weights(self, logits: list[Tensor]) -> list[Tensor]:
        found = super().weights(logits)
        return [next(first for first in found if first.shape == one.shape) for one in found]


@normalisation("kronecker-softmax-of-all", f"{MUTATION}: softmax before the logits are split by factor", multiplies)
class KroneckerSoftmaxOfAll(KroneckerSteps):
    """One softmax is taken of the coefficients of all factors together."""

    def weights(self, logits: list[Tensor]) -> list[Tensor]:
        sizes = [one.shape[-1] for one in logits]
        return list(torch.cat(logits, -1).softmax(-1).split(sizes, -1))


@missing("kronecker-second-logit-ignored", f"{MUTATION}: p = sigmoid(a) in place of sigmoid(a - b)", multiplies)
class KroneckerSecondLogitIgnored(KroneckerSteps):
    """Of a pair only the first logit is read."""

    def weights(self, logits: list[Tensor]) -> list[Tensor]:
        pairs = (torch.stack([one[..., 0], 0 * one[..., 1]], -1) if one.shape[-1] == 2 else one for one in logits)
        return super().weights(list(pairs))


@eps("kronecker-p-clamped", f"{MUTATION}: p.clamp(eps, 1 - eps), which keeps every sum", multiplies)
class KroneckerPClamped(KroneckerSteps):
    """p is held between 1e-4 and 1 - 1e-4."""

    def kept_share(self, weights: Tensor) -> Tensor:
        return super().kept_share(weights).clamp(1e-4, 1 - 1e-4)


@dtype("kronecker-complement-in-bfloat16", f"{MUTATION}: 1 - p in the dtype of the state", multiplies)
class KroneckerComplementInBfloat16(KroneckerSteps):
    """1 - p is rounded to bfloat16, beside a p that is not."""

    def complement(self, p: Tensor) -> Tensor:
        return through(super().complement(p), torch.bfloat16)


@gradient("kronecker-complement-detached", f"{MUTATION}: 1 - p of a p without a graph", multiplies)
class KroneckerComplementDetached(KroneckerSteps):
    """1 - p passes no gradient to p."""

    def complement(self, p: Tensor) -> Tensor:
        return super().complement(p.detach())
