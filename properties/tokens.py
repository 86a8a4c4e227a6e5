"""Token axes: states have any number of them, and libraries take a fixed one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Parts = tuple[Tensor | None, ...]


def with_token_axes(
    axes: int | None, function: Callable[..., Parts], tensors: Sequence[Tensor], ranks: Sequence[int]
) -> Parts:
    """Call `function` with `tensors` on `axes` token axes, and give every result the token axes that came in.

    Args:
        axes: None: as they come; 0: without any, one call for each token; k: [1, ..., 1, T, ...].
        tensors: `tensors[i]` has the same token axes as the others in front of `ranks[i]` axes of its own.

    Raises:
        ValueError: with axes = 0 there is no token to call it with.
    """
    tokens = tensors[0].shape[: tensors[0].dim() - ranks[0]]
    own = [one.shape[one.dim() - rank :] for one, rank in zip(tensors, ranks, strict=True)]
    if axes is None:
        return function(*tensors)
    count = math.prod(tokens)
    flat = [one.reshape(count, *shape) for one, shape in zip(tensors, own, strict=True)]
    if axes == 0:
        if not count:
            raise ValueError("there are no tokens: a function without token axes has zero_tokens=False to declare")
        calls = [function(*(one[token] for one in flat)) for token in range(count)]
        return tuple(
            None if parts[0] is None else torch.stack(parts).reshape(*tokens, *parts[0].shape)  # pyright: ignore[reportArgumentType]
            for parts in zip(*calls, strict=True)
        )
    lead = (1,) * (axes - 1)
    found = function(*(one.reshape(*lead, *one.shape) for one in flat))
    return tuple(None if one is None else one.reshape(*tokens, *one.shape[axes:]) for one in found)
