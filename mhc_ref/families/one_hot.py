"""One-hot: stream 0 begins as h and the others as zeros."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mhc_ref.dialect import Dialect


def expand(h: Float[Tensor, "*tokens C"], n: int, dialect: Dialect) -> Float[Tensor, "*tokens n C"]:
    """h, 0, ..., 0."""
    others = torch.zeros_like(h).unsqueeze(-2).repeat_interleave(n - 1, -2)
    return torch.cat([h.unsqueeze(-2), others], -2)
