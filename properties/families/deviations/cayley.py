"""Deviations of the Cayley transform: its skew matrix, its signs, and how far it is solved."""

from __future__ import annotations

import torch
from torch import Tensor

from properties.core.deviant import through
from properties.core.slips import MUTATION, Slips
from properties.families.steps.cayley import CayleySteps, identity_of, turns

SLIPS = Slips()
dtype = SLIPS.step("dtype")
eps = SLIPS.step("eps")
gradient = SLIPS.step("gradient")
initialisation = SLIPS.step("initialisation")
iterations = SLIPS.step("iterations")
missing = SLIPS.step("missing-term")
orientation = SLIPS.step("orientation")
packing = SLIPS.step("packing")
orientation_of_reach = SLIPS.dialect("orientation")
scaling_of_reach = SLIPS.dialect("scaling")


@orientation("cayley-symmetric", f"{MUTATION}: A + A.T in place of A - A.T", turns)
class CayleySymmetric(CayleySteps):
    """S = reach (Z + Z^T) is symmetric: the sign of the transpose is lost."""

    def skew(self, logits: Tensor) -> Tensor:
        return self.computed.reach * (logits + logits.mT)


orientation_of_reach(
    "cayley-inverted",
    "M is (I + S)^-1 (I - S), the transpose, which is orthogonal as well.",
    "shc 0.1.2 has (I + A)^-1 (I - A), JPmHC (I - A)^-1 (I + A)",
    lambda d: d.with_(reach=-d.reach),
    turns,
)

scaling_of_reach(
    "cayley-whole-difference",
    "S is twice as large, and M orthogonal as well.",
    f"{MUTATION}: A - A.T in place of half of it",
    lambda d: d.with_(reach=2 * d.reach),
    turns,
)


@packing("cayley-upper-triangle", "shc 0.1.2: parameters of the upper triangle alone", turns)
class CayleyUpperTriangle(CayleySteps):
    """S is made of what stands above the diagonal of Z, and what stands below is not read."""

    def skew(self, logits: Tensor) -> Tensor:
        return super().skew(2 * logits.triu(1))


@iterations("cayley-truncated", "JPmHC, arXiv 2602.18308: a fixed-point iteration that is broken off", turns)
class CayleyTruncated(CayleySteps):
    """M is the fourth iterate of M <- I + S (I + M), which is orthogonal in the limit alone."""

    def cayley(self, s: Tensor) -> Tensor:
        one = identity_of(s)
        m = one
        for _ in range(4):
            m = one + s @ (one + m)
        return m


@missing("cayley-second-factor-missing", f"{MUTATION}: (I - S)^-1 without I + S", turns)
class CayleySecondFactorMissing(CayleySteps):
    """I + S is left out: the inverse of I - S alone, which shrinks."""

    def upper(self, s: Tensor) -> Tensor:
        return identity_of(s)


@missing("cayley-exponential", f"{MUTATION}: another map from skew to orthogonal matrices", turns)
class CayleyExponential(CayleySteps):
    """The exponential of 2 S in place of the transform, which is orthogonal and near it for a small S."""

    def cayley(self, s: Tensor) -> Tensor:
        return torch.linalg.matrix_exp(2 * s)


@eps("cayley-ridge", f"{MUTATION}: an eps on the diagonal of what is solved", turns)
class CayleyRidge(CayleySteps):
    """1e-4 is added to the diagonal of I - S."""

    def lower(self, s: Tensor) -> Tensor:
        return super().lower(s) + 1e-4 * identity_of(s)


@gradient("cayley-inverse-detached", f"{MUTATION}: the inverse under no_grad", turns)
class CayleyInverseDetached(CayleySteps):
    """The gradient is that of I + S alone, and none passes through the inverse."""

    def lower(self, s: Tensor) -> Tensor:
        return super().lower(s).detach()


@dtype("cayley-in-bfloat16", f"{MUTATION}: S in the dtype of the state", turns)
class CayleyInBfloat16(CayleySteps):
    """S is rounded to bfloat16; M is orthogonal as well."""

    def skew(self, logits: Tensor) -> Tensor:
        return through(super().skew(logits), torch.bfloat16)


@initialisation("cayley-signs-of-columns", f"{MUTATION}: a determinant of -1 for all n", turns)
class CayleySignsOfColumns(CayleySteps):
    """The first column has its sign changed, as of a reflection: M is orthogonal, and never the identity."""

    def cayley(self, s: Tensor) -> Tensor:
        m = super().cayley(s)
        return torch.cat([-m[..., :1], m[..., 1:]], -1)
