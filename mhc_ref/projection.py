"""Logits to h_res: the residual mapping of every dialect."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mhc_ref.dialect import Dialect
from mhc_ref.packing import streams_of_logits
from mhc_ref.registry import formulas


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision of every stage for a state of `dtype`: float64 for float64, otherwise float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def project(logits: Tensor, dialect: Dialect) -> Float[Tensor, "*tokens n n"]:
    """h_res as emitted, before `transposed`: [..., *logits_shape(n)] -> [..., n, n], by the mix of the dialect.

    Raises:
        ValueError: the logits are not floating point or not of the shape that the dialect needs.
    """
    if not logits.is_floating_point():
        raise ValueError(f"logits are {logits.dtype}; expected a floating-point dtype")
    streams_of_logits(logits.shape, dialect)
    return formulas("mix", dialect.residual).project(logits.to(compute_dtype(logits.dtype)), dialect)
