"""Deviations of the mixture of permutations: its matrices, and how soft it is."""

from __future__ import annotations

from torch import Tensor

from properties.core.slips import MUTATION, Slips
from properties.families.steps.permutations import PermutationSteps, mixes_permutations

SLIPS = Slips()
gamed = SLIPS.step("gamed")
orientation = SLIPS.step("orientation")
packing = SLIPS.step("packing")


@gamed("hardened-matrix", MUTATION, mixes_permutations)
class HardenedMatrix(PermutationSteps):
    """The mixture is replaced by its most likely permutation, which is doubly stochastic."""

    def project(self, logits: Tensor) -> Tensor:
        return super().project((logits - logits.amax(-1, keepdim=True)) * 1e6)


@orientation("permutations-inverted", f"{MUTATION}: P_k[i, p(i)] read as P_k[p(i), i]", mixes_permutations)
class PermutationsInverted(PermutationSteps):
    """Every permutation matrix of the mixture is its inverse."""

    def matrices(self, count: int) -> Tensor:
        return super().matrices(count).mT


@packing(
    "permutations-reordered",
    f"{MUTATION}: another enumeration of the n! permutations",
    mixes_permutations,
)
class PermutationsReordered(PermutationSteps):
    """The permutations are enumerated in reverse."""

    def matrices(self, count: int) -> Tensor:
        return super().matrices(count).flip(0)
