"""sparse-hyper-connections (0.1.2): `shc.layers.cayley.BatchedCayleyTransform`.

Its routing is sum_i alpha_i Q_i, alpha a softmax of a mean over the tokens of a *sequence*, and Q_i Cayley transforms
of parameters: no dialect makes one matrix for many tokens, and what remains is Q. h_pre and h_post are such matrices,
too, in place of a gate for each stream.
"""

from __future__ import annotations

import math
from functools import lru_cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

import mhc_ref
from properties.core.implementation import Implementation


class Cayley(Implementation):
    """`BatchedCayleyTransform`: (I + A)^-1 (I - A), A = Z - Z^T, of whose entries above the diagonal it is made."""

    dialect = mhc_ref.CAYLEY.with_(reach=-1.0)
    streams = (1, 2, 3, 4, 5, 8)
    dtypes = (torch.float64, torch.float32)

    def __init__(self) -> None:
        import_module("shc.layers.cayley")  # so that a missing library is found out before anything runs

    def project(self, logits: Tensor) -> Tensor:
        n, batch = logits.shape[-1], math.prod(logits.shape[:-2])
        row, column = torch.triu_indices(n, n, offset=1, device=logits.device)
        flat = logits.reshape(batch, n, n)
        above = flat[:, row, column] - flat[:, column, row]  # A itself: its lower half is made of this
        return functional_call(transform(n, batch), {"params": above}, ()).reshape(logits.shape)


@lru_cache(maxsize=32)
def transform(n: int, count: int) -> nn.Module:
    """The module for so many matrices; its own parameters are never read."""
    made: Any = import_module("shc.layers.cayley").BatchedCayleyTransform
    with torch.inference_mode(False):  # its indices are buffers, which serve calls with gradients, too
        return made(n, count)
