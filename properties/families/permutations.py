"""Permutations: what a mixture of permutation matrices guarantees, and the rest that is known of it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mhc_ref import Dialect
from mhc_ref.families import permutations as formulas
from mhc_ref.families.permutations import permutation_matrices
from properties.bounds.arithmetic import contracted, softmax, softmax_gradient
from properties.core.family import BOTH, Guarantees, Mix
from properties.core.rounding import Approx, Projection, Rounding, known


class Permutations(Mix):
    """arXiv 2601.05732."""

    name = "permutations"
    words = "a mixture of permutations"
    source = "arXiv 2601.05732"
    BY_STREAM = formulas.BY_STREAM
    MOST_STREAMS = formulas.MOST_STREAMS
    CAPTURABLE = False

    def shape(self, n: int, dialect: Dialect) -> tuple[int, ...]:
        return formulas.shape(n, dialect)

    def beginning(self, n: int, dialect: Dialect, far: float = 0.0) -> Tensor:
        """The first permutation is the identity."""
        logits = torch.full(self.shape(n, dialect), -far, dtype=torch.float64)
        logits[0] = 0.0
        return logits

    def guarantees(self, dialect: Dialect) -> Guarantees:
        """Convex combinations of permutation matrices are doubly stochastic (Birkhoff); the only one for n = 1 is 1."""
        return Guarantees(nonnegative=True, sums=BOTH, alone=True)

    def bound(self, logits: Approx, dialect: Dialect, r: Rounding) -> Projection:
        """(n-1)! coefficients make an entry; the others contribute exact zeros."""
        coefficients = softmax(logits, r)
        count = coefficients.value.shape[-1]
        n = next(k for k in range(1, formulas.MOST_STREAMS + 1) if math.factorial(k) == count)
        matrices = permutation_matrices(n).to(coefficients.value.device)
        value = torch.einsum("...k,kij->...ij", coefficients.value, matrices)
        error = torch.einsum("...k,kij->...ij", coefficients.error, matrices) + r.dot(count) * value
        error = known(error)
        return Projection(value, error, torch.zeros_like(value), error.sum(-1))

    def pullback(self, logits: Approx, cotangent: Approx, dialect: Dialect, r: Rounding) -> Approx:
        """The cotangent summed over each permutation, then pulled back by the softmax."""
        n = cotangent.value.shape[-1]
        chosen = contracted("...ij,kij->...k", cotangent, Approx.exact(permutation_matrices(n)), n * n, r)
        return softmax_gradient(logits, chosen, r)


MIX = Permutations()
