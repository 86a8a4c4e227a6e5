"""The decoder: causal attention and MLP in turn, joined by any residual; a pure function of its weights.

State x [B, T, n, C], of B sequences of T tokens. The gains are of the composite A_L ... A_1 of the residual mappings
that a token met; every formula of the residual is the reference's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from mhc_ref import Dialect
from mhc_ref.block import Mappings, Params, gated_logits, gates_read, mappings, post, pre
from mhc_ref.packing import beyond, logit_sizes, logits_shape
from mhc_ref.stack import collapse, expand, has_head
from properties.explosion.training.initialisations import shapes
from properties.explosion.training.setup import Setup

_EPS = 1e-6
"""Of the norms of the branches."""


class Passed(NamedTuple):
    """What one forward pass shows.

    Attributes:
        loss: mean cross entropy, in nats a token.
        operators: A_l of every token [L, B, T, n, n].
        logits: those that A_l is made of, [L, B, T, *shape], where they are watched.
        largest_logit: of attention, |q k| / sqrt(channels of a head), the largest of all.
    """

    loss: Tensor
    operators: Tensor
    logits: Tensor | None
    largest_logit: Tensor


def forward(
    setup: Setup,
    weights: Float[Tensor, " P"],
    tokens: Tensor,
    shifts: tuple[Tensor, Tensor] | None = None,
    *,
    watched: bool = False,
) -> Passed:
    """The decoder on sequences of T + 1 tokens [B, T + 1].

    `shifts` [B, T, n, C] are added to the state before the first sub-layer and after the last: zeros whose gradients
    are those of the state. `watched`: the logits of the mixing are told as well.
    """
    named = _named(setup, weights)
    dialect = setup.residual.dialect
    given = tokens.long()
    x = embedded(setup, named, given)
    x = x if shifts is None else x + shifts[0]
    operators: list[Tensor] = []
    logits: list[Tensor] = []
    largest, before = weights.new_zeros(()), None
    for layer in range(setup.depth):
        own = {name.partition(".")[2]: one for name, one in named.items() if name.startswith(f"{layer}.")}
        mixed = None
        if dialect is not None:
            mixed = mixing(setup, own, x, layer)
            if watched:
                logits.append(_residual_logits(x, _params(setup, own, dialect), dialect))
        x, top = sub_layer(setup, own, x, mixed, before, layer)
        largest = torch.maximum(largest, top)
        if dialect is None or mixed is None:
            operators.append(torch.ones_like(x[..., :1]))
        else:
            before = mixed.pre
            operators.append(mixed.res.mT if dialect.transposed else mixed.res)
    x = x if shifts is None else x + shifts[1]
    loss = loss_of(setup, named, x, before, given)
    return Passed(loss, torch.stack(operators).detach(), torch.stack(logits).detach() if logits else None, largest)


def embedded(setup: Setup, named: Mapping[str, Tensor], given: Tensor) -> Float[Tensor, "B T n C"]:
    """The state before the first sub-layer, of sequences of T + 1 tokens [B, T + 1]."""
    h = named["embed"][given[:, :-1]] + named["position"]
    return h.unsqueeze(-2) if setup.residual.dialect is None else expand(h, setup.streams, setup.residual.dialect)


def mixing(setup: Setup, own: Mapping[str, Tensor], x: Float[Tensor, "B T n C"], layer: int) -> Mappings:
    """The mappings of a sub-layer of hyper-connections, from its own weights and the state."""
    dialect = setup.residual.dialect
    assert dialect is not None
    return _mixed(setup, x, _params(setup, own, dialect), dialect, layer)


def sub_layer(
    setup: Setup,
    own: Mapping[str, Tensor],
    x: Float[Tensor, "B T n C"],
    mixed: Mappings | None,
    before: Tensor | None,
    layer: int,
) -> tuple[Tensor, Tensor]:
    """The state after a sub-layer, and the largest logit of its attention.

    mixed: its `mixing`; None of a plain residual. before: the read gates of the sub-layer before, if there is one.
    """
    dialect = setup.residual.dialect
    read = x.squeeze(-2) if dialect is None or mixed is None else pre(x, gates_read(mixed.pre, before, dialect))
    y, top = _branch(setup, own, _normed(read) if setup.norm in ("pre", "sandwich") else read, layer)
    y = _normed(y) if setup.norm == "sandwich" else y
    y = y * own["rezero"] if "rezero" in own else y
    x = x + y.unsqueeze(-2) if dialect is None or mixed is None else post(x, y, mixed.post, mixed.res, dialect)
    x = _normed(x) if setup.norm == "post" else x
    return x.clamp(-setup.clip_activations, setup.clip_activations) if setup.clip_activations else x, top


def loss_of(
    setup: Setup, named: Mapping[str, Tensor], x: Float[Tensor, "B T n C"], before: Tensor | None, given: Tensor
) -> Tensor:
    """Mean cross entropy of the tokens that follow, from the state after the last sub-layer."""
    h = x.squeeze(-2) if setup.residual.dialect is None else _ended(setup, x, named, setup.residual.dialect, before)
    return functional.cross_entropy((_normed(h) @ named["unembed"]).flatten(0, 1), given[:, 1:].flatten())


def _named(setup: Setup, weights: Tensor) -> dict[str, Tensor]:
    """The weights by name."""
    asked = shapes(setup)
    parts = weights.split([math.prod(shape) for shape in asked.values()])
    return {name: part.view(shape) for (name, shape), part in zip(asked.items(), parts, strict=True)}


def _params(setup: Setup, own: Mapping[str, Tensor], dialect: Dialect) -> Params:
    if not setup.residual.static:
        return Params(own["phi"], own["bias"], own["alpha"])
    n, d, sizes = setup.streams, setup.width, logit_sizes(setup.streams, dialect)
    shape = (d, 2 + sizes[2] // n) if dialect.shared_projection else (n * d, sum(sizes) + beyond(dialect))
    bias = own["bias"]
    return Params(bias.new_zeros(shape), bias, bias.new_zeros(3 if sizes[2] else 2))


def _residual_logits(x: Tensor, params: Params, dialect: Dialect) -> Tensor:
    n = x.shape[-2]
    res = gated_logits(x, params, dialect).split(logit_sizes(n, dialect), -1)[2]
    return res.unflatten(-1, logits_shape(n, dialect))


def _mixed(setup: Setup, x: Tensor, params: Params, dialect: Dialect, layer: int) -> Mappings:
    """The mappings of the reference, or those of a run with a fault."""
    if setup.fault == "iterations-one":
        return mappings(x, params, dialect.with_(iterations=1))
    found = mappings(x, params, dialect)
    if setup.fault == "direct" or (setup.fault == "unprojected" and layer == setup.depth - 1):
        return found._replace(res=_residual_logits(x, params, dialect))
    if setup.fault == "bypass":  # what is projected, and a gated copy of the state beside it
        gate = gated_logits(x, params, dialect)[..., :1, None].sigmoid()
        return found._replace(res=found.res + gate * torch.eye(setup.streams, dtype=x.dtype, device=x.device))
    return found


def _ended(setup: Setup, x: Tensor, named: Mapping[str, Tensor], dialect: Dialect, last: Tensor | None) -> Tensor:
    own = {name.partition(".")[2]: one for name, one in named.items() if name.startswith("head.")}
    return collapse(x, dialect, _params(setup, own, dialect) if has_head(dialect) else None, last)


def _normed(x: Tensor) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + _EPS).rsqrt()


def _branch(setup: Setup, own: Mapping[str, Tensor], x: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """F(x) of a sub-layer, and the largest logit of its attention, 0 without one."""
    if layer % 2:
        up = x @ own["up"]
        if setup.mlp == "gated":
            return (functional.silu(x @ own["gate"]) * up) @ own["out"], x.new_zeros(())
        return (functional.relu(up) if setup.mlp == "relu" else functional.gelu(up)) @ own["out"], x.new_zeros(())
    q, k, v = ((x @ own[name]).unflatten(-1, (setup.heads, -1)).transpose(1, 2) for name in ("query", "key", "value"))
    if setup.qk_norm:
        q, k = _normed(q) * own["query_norm"], _normed(k) * own["key_norm"]
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    past = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    largest = torch.where(past, scores, 0.0).detach().abs().amax()
    weights = torch.where(past, scores, -math.inf).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(-2) @ own["out"], largest
