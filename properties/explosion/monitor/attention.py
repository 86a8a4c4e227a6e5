"""A cap of attention logits, from what queries and keys are: |q . k| <= |q| |k|, whatever turns them afterwards.

Kernels do not give their logits away. Seen are modules that have their projections, or the norms behind them, as
children of usual names, and torch's `MultiheadAttention`; the cap is of the sampled tokens.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from torch import Tensor, nn

from properties.explosion.monitor.measures import sampled

_PAIRS = (("q_norm", "k_norm"), ("q_proj", "k_proj"), ("to_q", "to_k"), ("query", "key"), ("wq", "wk"), ("q", "k"))
_HEADS = ("num_heads", "n_heads", "heads", "num_attention_heads", "n_head")


class Heads(NamedTuple):
    """The modules that queries and keys come out of, and the width of a head."""

    queries: nn.Module
    keys: nn.Module
    width: int


def heads_of(module: nn.Module) -> Heads | None:
    """Of a module that attends; None: it is none, or does not say how many heads it has."""
    for first, second in _PAIRS:
        queries, keys = getattr(module, first, None), getattr(module, second, None)
        if isinstance(queries, nn.Module) and isinstance(keys, nn.Module):
            width = _width(module)
            return None if width is None else Heads(queries, keys, width)
    return None


def _width(module: nn.Module) -> int | None:
    if isinstance(own := getattr(module, "head_dim", None), int):
        return own
    projection = next((getattr(module, one) for one, _ in _PAIRS[1:] if hasattr(module, one)), None)
    for owner in (module, getattr(module, "config", None)):
        for name in _HEADS:
            count, whole = getattr(owner, name, None), getattr(projection, "out_features", None)
            if isinstance(count, int) and isinstance(whole, int) and count > 0 and whole % count == 0:
                return whole // count
    return None


def largest(projected: Any, width: int, tokens: int) -> Tensor | None:
    """The largest norm of a head in queries or keys [..., heads * width] or [..., width]."""
    if not isinstance(projected, Tensor) or projected.shape[-1] % width or not projected.numel():
        return None
    rows = sampled(projected.detach().reshape(-1, projected.shape[-1]), tokens).double()
    return rows.unflatten(-1, (-1, width)).norm(dim=-1).amax()


def packed(module: nn.MultiheadAttention, query: Tensor, key: Tensor, tokens: int) -> Tensor | None:
    """The cap of torch's own attention, from what it is given."""
    weight: Any = module.in_proj_weight  # None where queries and keys have other widths
    bias: Any = module.in_proj_bias
    if weight is None:
        return None
    found: list[Tensor] = []
    for place, given in enumerate((query, key)):
        part = slice(place * module.embed_dim, (place + 1) * module.embed_dim)
        rows = sampled(given.detach().reshape(-1, given.shape[-1]), tokens).to(weight.dtype)
        made = nn.functional.linear(rows, weight[part].detach(), None if bias is None else bias[part].detach())
        one = largest(made, module.head_dim, tokens)
        if one is None:
            return None
        found.append(one)
    return cap(found[0], found[1], module.head_dim)


def cap(query: Tensor, key: Tensor, width: int) -> Tensor:
    return query * key / math.sqrt(width)
