"""Permutations step by step: the matrices and their mixture."""

from __future__ import annotations

import torch
from torch import Tensor

from mhc_ref import Dialect
from mhc_ref.families.permutations import permutation_matrices
from mhc_ref.packing import streams_of_logits
from properties.core.deviant import Deviant


def mixes_permutations(dialect: Dialect) -> bool:
    """h_res is a mixture of permutations."""
    return dialect.residual == "permutations"


class PermutationSteps(Deviant):
    """sum_k softmax(logits)_k P_k."""

    def project(self, logits: Tensor) -> Tensor:
        return self.mixture(self.widened(logits)) if mixes_permutations(self.computed) else super().project(logits)

    def mixture(self, logits: Tensor) -> Tensor:
        return torch.einsum("...k,kij->...ij", logits.softmax(-1), self.matrices(logits.shape[-1]).to(logits))

    def matrices(self, count: int) -> Tensor:
        return permutation_matrices(streams_of_logits(torch.Size((count,)), self.computed))


STEPS = {"mix": PermutationSteps}
