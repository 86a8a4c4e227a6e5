"""The Cayley transform step by step: the skew matrix, the two factors, and what is solved."""

from __future__ import annotations

import torch
from torch import Tensor

from mhc_ref import Dialect
from properties.core.deviant import Deviant


def turns(dialect: Dialect) -> bool:
    """h_res is a Cayley transform."""
    return dialect.residual == "cayley"


def identity_of(s: Tensor) -> Tensor:
    """I, in the shape of a batch of matrices."""
    return torch.eye(s.shape[-1], dtype=s.dtype, device=s.device).expand_as(s)


class CayleySteps(Deviant):
    """M solves (I - S) M = I + S, S = reach (Z - Z^T)."""

    def project(self, logits: Tensor) -> Tensor:
        return self.cayley(self.skew(self.widened(logits))) if turns(self.computed) else super().project(logits)

    def skew(self, logits: Tensor) -> Tensor:
        return self.computed.reach * (logits - logits.mT)

    def cayley(self, s: Tensor) -> Tensor:
        return self.solved(self.lower(s), self.upper(s))

    def lower(self, s: Tensor) -> Tensor:
        return identity_of(s) - s

    def upper(self, s: Tensor) -> Tensor:
        return identity_of(s) + s

    def solved(self, lower: Tensor, upper: Tensor) -> Tensor:
        return torch.linalg.solve(lower, upper)


STEPS = {"mix": CayleySteps}
