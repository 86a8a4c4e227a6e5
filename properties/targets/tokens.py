"""Token axes: states have any number of them, and libraries take a fixed one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from properties.guards.plain import oddity

Parts = tuple[Tensor | None, ...]


def with_token_axes(
    axes: int | None, function: Callable[..., Parts], tensors: Sequence[Tensor], ranks: Sequence[int]
) -> Parts:
    """Call `function` with `tensors` on `axes` token axes, and give every result the token axes that came in.

    What is no plain tensor among the results is handed on as it is.

    Args:
        axes: None: as they come; 0: without any, one call for each token; k: [1, ..., 1, T, ...].
        tensors: `tensors[i]` has the same token axes as the others in front of `ranks[i]` axes of its own.

    Raises:
        ValueError: with axes = 0 there is no token to call it with; or a result has other tokens than went in.
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
        return tuple(_stacked(parts, tokens) for parts in zip(*calls, strict=True))
    lead = (1,) * (axes - 1)
    found = function(*(one.reshape(*lead, *one.shape) for one in flat))
    return tuple(_unfolded(one, (*lead, count), tokens) for one in found)


def _stacked(parts: Sequence[Any], tokens: torch.Size) -> Any:
    odd = [one for one in parts if oddity(one) is not None]
    if odd:
        return odd[0]
    shapes = {tuple(one.shape) for one in parts}
    if len(shapes) > 1:
        raise ValueError(f"the results for {len(parts)} tokens have shapes {sorted(shapes)}; expected one shape")
    return torch.stack(list(parts)).reshape(*tokens, *parts[0].shape)


def _unfolded(part: Any, given: tuple[int, ...], tokens: torch.Size) -> Any:
    if oddity(part) is not None:
        return part
    if tuple(part.shape[: len(given)]) != given:
        raise ValueError(f"a result has shape {list(part.shape)}; expected it to begin with the tokens {list(given)}")
    return part.reshape(*tokens, *part.shape[len(given) :])
