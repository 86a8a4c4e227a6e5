"""Logits to h_res: the residual mapping of every dialect."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mhc_ref.dialect import Dialect
from mhc_ref.registry import formulas


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision of every stage for a state of `dtype`: float64 for float64, otherwise float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def project(logits: Tensor, dialect: Dialect) -> Float[Tensor, "*tokens n n"]:
    """h_res as emitted, before `transposed`: [..., *logits_shape(n)] -> [..., n, n].

    Raises:
        ValueError: the logits are not floating point or not of the shape that the dialect needs.
    """
    if not logits.is_floating_point():
        raise ValueError(f"logits are {logits.dtype}; expected a floating-point dtype")
    streams_of_logits(logits.shape, dialect)
    return _mix(dialect).project(logits.to(compute_dtype(logits.dtype)), dialect)


def _mix(dialect: Dialect) -> Any:
    return formulas("mix", dialect.residual)


def logits_shape(n: int, dialect: Dialect) -> torch.Size:
    """The shape of one token's residual logits: (n, n), or what the family of the dialect says."""
    return torch.Size(_mix(dialect).shape(n, dialect))


def residual_size(n: int, dialect: Dialect) -> int:
    """R, the number of residual logits of a token."""
    return math.prod(logits_shape(n, dialect))


def most_streams(dialect: Dialect) -> int | None:
    """The largest n that the dialect is for; None where there is none."""
    return _mix(dialect).MOST_STREAMS


def streams_of_logits(shape: torch.Size, dialect: Dialect) -> int:
    """The n for which the logits of a token have the last sizes of `shape`.

    Raises:
        ValueError: there is none.
    """
    shapes: list[torch.Size] = []
    for n in range(1, (most_streams(dialect) or max(shape, default=0)) + 1):
        shapes.append(logits_shape(n, dialect))
        if shape[len(shape) - len(shapes[-1]) :] == shapes[-1]:
            return n
    known = ", ".join(str(tuple(one)) for one in shapes[:4])
    raise ValueError(
        f"logits have shape {tuple(shape)}; residual={dialect.residual!r} takes [..., *s] for s one of {known}, ..."
    )
