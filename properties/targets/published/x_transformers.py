"""x-transformers (2.31.10), `x_transformers.x_transformers`: `HyperConnection`, its `sinkhorn`, `GatedMultiResidual`.

Streams are packed into the batch, `(b s) n d`. Two parts of `HyperConnection` are outside every dialect: its norm is a
LayerNorm without bias, so the mean of a stream is subtracted, and the dynamic part of h_post passes a sigmoid of its
own before it is gated, 2 sigma(alpha 2 sigma(x^ phi) + bias). A block is therefore not compared: what differed might be
either. h_res of static logits is, since it sees neither: dynamic_alpha_fn is 0, as it is in a new module.
"""

from __future__ import annotations

import math
from functools import cache
from importlib import import_module
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.func import functional_call

import mhc_ref
from mhc_ref import Branch, Dialect, Params
from properties.core.implementation import Implementation
from properties.targets.published.tuning import Tunable

COLUMNS_LAST = Dialect(
    # sinkhorn: softmax(-2), then `iters` times l1-normalised over -1 and over -2, F.normalize clamping at 1e-12.
    start="softmax",
    start_axis="column",
    last_axis="column",
    iterations=5,
    denominator="clamp",
    denominator_eps=1e-12,
    # prepare: '... s t, ... s d -> ... t d'.
    transposed=True,
    norm_over="stream",
    shared_projection=True,
    rms_eps=1e-5,
)
"""What `HyperConnection` says it computes, with its default `sinkhorn_iters`."""


class Sinkhorn(Tunable):
    """`sinkhorn` by itself."""

    dialect = COLUMNS_LAST
    streams = (2, 3, 4, 5, 8)  # AttentionLayers makes a HyperConnection where num_residual_streams > 1
    dtypes = (torch.float32,)  # sinkhorn casts to float32
    tunable = frozenset({"iterations"})
    full_range = True  # no limit of the logits is documented

    def __init__(self) -> None:
        self._library: Any = import_module("x_transformers.x_transformers")

    def project(self, logits: Tensor) -> Tensor:
        return self._library.sinkhorn(logits, self.dialect.iterations)


class XTransformers(Sinkhorn):
    """`HyperConnection.prepare`: what it makes of its static logits, overheard where `sinkhorn` returns it."""

    full_range = False  # what `sinkhorn` loses is said of it by itself

    def project(self, logits: Tensor) -> Tensor:
        n, batch = logits.shape[-1], logits.shape[:-2]
        matrices = [self._residual(one) for one in logits.reshape(math.prod(batch), n, n)]
        return torch.stack(matrices).reshape(logits.shape) if matrices else logits.clone()

    def _residual(self, logits: Tensor) -> Tensor:
        n = logits.shape[-1]
        module = self._library.HyperConnection(
            CHANNELS, layer_index=0, num_residual_streams=n, sinkhorn_iters=self.dialect.iterations
        ).to(logits.dtype)  # a model is made once, whatever torch's default dtype is when it is called
        weights = {"static_alpha": torch.cat([module.static_alpha.detach()[:, :1], logits], -1)}
        heard: list[Tensor] = []

        def overheard(given: Tensor, iters: int) -> Tensor:
            heard.append(sinkhorn(given, iters))
            return heard[-1]

        module.forward = module.prepare
        sinkhorn = self._library.sinkhorn
        with patch.object(self._library, "sinkhorn", overheard):
            functional_call(module, weights, (logits.new_zeros(n, 1, CHANNELS),))
        return heard[-1].reshape(n, n)


CHANNELS = 2
"""Of a state that does not matter where dynamic_alpha_fn is 0."""


class GatedMultiResidual(Implementation):
    """`GatedMultiResidual` with one input view, as `AttentionLayers(gated_multi_residual=True)` applies it."""

    streams = (1, 2, 3, 4, 5, 8)
    dtypes = (torch.float64, torch.float32)  # a bfloat16 model rounds the normalised state, and every product of it

    def __init__(self) -> None:
        import_module("x_transformers.x_transformers")  # so that a missing library is found out before anything runs
        self.dialect = mhc_ref.PRESETS["QWEN4_EXP"].with_(
            one_bottleneck=True,
            norm_offset=0.0,
            rms_eps_from="compute",  # nn.RMSNorm(dim) has no eps of its own
            collapse="sum",
        )

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        from mhc_ref.families.bottleneck import to_write  # the other adapters here do without that family

        n, channels = x.shape[-2:]
        rank = self.dialect.rank
        weight = params.norm_weight
        own = {
            "read_gain": params.phi.new_ones(n, channels) if weight is None else weight.view(n, channels),
            "static_read_logit": params.phi[:, -rank - 1].view(1, n, channels),
            "static_write_logit": params.bias[rank : rank + n],
            "to_bottleneck.weight": params.phi[:, :rank].T,
            "to_read_gate.weight": params.phi[:, -rank:],
            "to_write_gate.weight": to_write(params.phi, n, self.dialect),
            "dynamic_gate_scale": params.alpha[0],
        }
        packed = x.reshape(-1, n, channels).movedim(-2, 0)  # (b s) n d, b = 1
        weights = {f"gated.{name}": value for name, value in own.items()}
        given = (packed, branch, x.shape[:-2])
        applied = functional_call(applying(n, channels, rank), weights, given, strict=True)
        return applied.movedim(0, -2).reshape(x.shape)


class Applied(nn.Module):
    """`prepare`, the branch, `forward`, as `AttentionLayers` calls them."""

    def __init__(self, gated: Any) -> None:
        super().__init__()
        self.gated = gated

    def forward(self, packed: Tensor, branch: Branch, tokens: torch.Size) -> Tensor:
        read, streams, gates = self.gated.prepare(packed)
        return self.gated(branch(read.reshape(*tokens, read.shape[-1])).reshape(read.shape), streams, **gates)


@cache
def applying(n: int, channels: int, rank: int) -> nn.Module:
    """The module of a size; its own parameters are never read."""
    made: Any = import_module("x_transformers.x_transformers").GatedMultiResidual
    return Applied(made(channels, layer_index=0, num_residual_streams=n, read_gate_rank=rank))
