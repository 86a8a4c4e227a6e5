"""Cayley: an orthogonal matrix of skew logits, M = (I - S)^-1 (I + S), S = reach (Z - Z^T) (A. Cayley, 1846)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mhc_ref.dialect import Dialect
from mhc_ref.registry import Field

BY_STREAM = True
MOST_STREAMS = None

FIELDS = {
    "reach": Field(
        0.5,
        lambda v: isinstance(v, float) and 1e-3 <= abs(v) <= 100,  # below, what it makes is the identity
        "a number from 0.001 to 100, or as far below 0",
        "S / (Z - Z^T)",
    )
}


def shape(n: int, dialect: Dialect) -> tuple[int, ...]:
    """One logit an entry of Z, of which the differences to those across the diagonal are read."""
    return (n, n)


def skew(logits: Float[Tensor, "*tokens n n"], dialect: Dialect) -> Float[Tensor, "*tokens n n"]:
    """S = reach (Z - Z^T); with a negative reach M is the transpose."""
    return dialect.reach * (logits - logits.mT)


def project(logits: Float[Tensor, "*tokens n n"], dialect: Dialect) -> Float[Tensor, "*tokens n n"]:
    """M = (I - S)^-1 (I + S). No singular value of I - S is below 1: (I - S)^T (I - S) = I + S^T S."""
    s = skew(logits, dialect)
    eye = torch.eye(s.shape[-1], dtype=s.dtype, device=s.device).expand_as(s)
    return torch.linalg.solve(eye - s, eye + s)
