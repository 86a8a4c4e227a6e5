"""Identity: every stream keeps to itself, M = I whatever the logits; with n = 1 the plain residual.

Parameters may have a part for the logits that are ignored, as where a mixing is switched off, or none (Hy4's iHC).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mhc_ref.dialect import Dialect
from mhc_ref.registry import Field

BY_STREAM = True
MOST_STREAMS = None
FIELDS = {
    "res_columns": Field(
        True,
        lambda given: isinstance(given, bool),
        "True or False: whether phi, bias and alpha have a part for the residual logits, which is ignored",
        "phi, bias and alpha have a part for the residual logits, which is ignored",
    )
}


def shape(n: int, dialect: Dialect) -> tuple[int, ...]:
    """One logit an entry of M, none of which is read; or none."""
    return (n, n if dialect.res_columns else 0)


def project(logits: Float[Tensor, "*tokens n m"], dialect: Dialect) -> Float[Tensor, "*tokens n n"]:
    """M = I."""
    n = logits.shape[-2]
    return torch.eye(n, dtype=logits.dtype, device=logits.device).expand(*logits.shape[:-1], n)
