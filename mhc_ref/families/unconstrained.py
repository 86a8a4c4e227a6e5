"""Unconstrained: M is its logits (hyper-connections before the manifold, arXiv 2409.19606)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from mhc_ref.dialect import Dialect

BY_STREAM = True
MOST_STREAMS = None


def shape(n: int, dialect: Dialect) -> tuple[int, ...]:
    """One logit an entry of M."""
    return (n, n)


def project(logits: Float[Tensor, "*tokens n n"], dialect: Dialect) -> Float[Tensor, "*tokens n n"]:
    """M = Z."""
    return logits
