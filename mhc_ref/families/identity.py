"""Identity: every stream keeps to itself, M = I whatever the logits; with n = 1 the plain residual."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mhc_ref.dialect import Dialect

BY_STREAM = True
MOST_STREAMS = None


def shape(n: int, dialect: Dialect) -> tuple[int, ...]:
    """One logit an entry of M."""
    return (n, n)


def project(logits: Float[Tensor, "*tokens n n"], dialect: Dialect) -> Float[Tensor, "*tokens n n"]:
    """M = I."""
    return torch.eye(logits.shape[-1], dtype=logits.dtype, device=logits.device).expand(logits.shape)
