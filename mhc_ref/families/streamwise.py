"""Streamwise: a branch reads the sum of the streams, each times a gate of its own (arXiv 2409.19606)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from mhc_ref.block import Params, squash
from mhc_ref.dialect import Dialect


def width(n: int, dialect: Dialect) -> int:
    """One logit a stream."""
    return n


def beyond(dialect: Dialect) -> int:
    """Every column of phi gives logits."""
    return 0


def affine(dialect: Dialect) -> bool:
    """Logits have gates and biases."""
    return True


def share(n: int, dialect: Dialect) -> float:
    """The products with phi are as they are."""
    return 1.0


def completed(
    logits: Float[Tensor, "*tokens B"], n: int, params: Params, dialect: Dialect
) -> Float[Tensor, "*tokens B"]:
    """Logits are as they are."""
    return logits


def weights(
    logits: Float[Tensor, "*tokens n"], x: Float[Tensor, "*tokens n C"], params: Params, dialect: Dialect
) -> Float[Tensor, "*tokens n"]:
    """pre(logits) + pre_eps."""
    return squash(logits, dialect.pre, dialect) + dialect.pre_eps
