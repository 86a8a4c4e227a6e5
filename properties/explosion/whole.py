"""The operator that a whole block applies, of an implementation that shows no projection by itself.

A block returns A x + h_post^T F(h_pre x). With a branch F that returns zeros that is A x; and of the state whose first
n channels are one stream each, x = [I 0], it is A, entry by entry: a sum of one entry and zeros has no rounding.
Nothing but the bias of the residual logits is given, so that A is what the block makes of these.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mhc_ref import Params
from mhc_ref.packing import logits_shape, params_shapes, residual_size, streams_of_logits
from properties.core.implementation import Implementation, next_multiple

WORDS = "its matrices are what its blocks make of one stream at a time, with a branch of zeros"


def applied(implementation: Implementation, logits: Tensor, dtype: torch.dtype) -> Tensor:
    """A [..., n, n] of the logits [..., *shape] in the dtype of parameters, as a block applies it to states of `dtype`.

    One call of `block` for each matrix; of an implementation that has `layers` only, of one layer.
    """
    dialect = implementation.dialect
    n = streams_of_logits(logits.shape, dialect)
    batch = logits.shape[: -len(logits_shape(n, dialect))]
    channels = next_multiple(max(n, 2), implementation.channel_multiple)
    x = torch.zeros(n, channels, dtype=dtype)
    x[:, :n] = torch.eye(n, dtype=dtype)
    found: list[Tensor] = []
    for one in logits.reshape(math.prod(batch), residual_size(n, dialect)):
        left = implementation.block(x.clone(), _params(one, n, channels, implementation), torch.zeros_like)
        found.append(_first(left, (n, channels))[:, :n])
    return torch.stack(found).reshape(*batch, n, n) if found else logits.new_zeros(*batch, n, n)


def _params(logits: Tensor, n: int, channels: int, implementation: Implementation) -> Params:
    shapes = params_shapes(n, channels, implementation.dialect)
    bias = torch.cat([logits.new_zeros(shapes.bias[0] - len(logits)), logits])
    return Params(logits.new_zeros(shapes.phi), bias, logits.new_ones(shapes.alpha))


def _first(left: Tensor, shape: tuple[int, int]) -> Tensor:
    if not isinstance(left, Tensor) or tuple(left.shape) != shape:  # pyright: ignore[reportUnnecessaryIsInstance]
        what = tuple(left.shape) if isinstance(left, Tensor) else type(left).__name__  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"a block returned {what} for a state {shape}; expected a state of that shape")
    return left
