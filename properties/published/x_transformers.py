"""x-transformers (2.31.10): `x_transformers.x_transformers.HyperConnection`, and the `sinkhorn` that it calls.

Streams are packed into the batch, `(b s) n d`. Two parts of the module are outside every dialect: its norm is a
LayerNorm without bias, so the mean of a stream is subtracted, and the dynamic part of h_post passes a sigmoid of its
own before it is gated, 2 sigma(alpha 2 sigma(x^ phi) + bias). Of the mappings only h_res is compared, overheard where
`sinkhorn` returns it; h_post of a block differs from the dialect's unless its gate is 0.
"""

from __future__ import annotations

import copy
import math
from importlib import import_module
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mhc_ref import Branch, Dialect, Mappings, Params
from properties.implementation import Implementation

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


class XTransformers(Implementation):
    """`HyperConnection.prepare` and `.forward`, and `sinkhorn` by itself."""

    dialect = COLUMNS_LAST
    streams = (2, 3, 4, 5, 8)  # AttentionLayers makes a HyperConnection where num_residual_streams > 1
    dtypes = (torch.float32,)  # sinkhorn casts to float32
    tunable = frozenset({"iterations"})
    emits = ("res",)
    norm_weight = False  # one weight [C] for all streams

    def __init__(self) -> None:
        self._library: Any = import_module("x_transformers.x_transformers")

    def project(self, logits: Tensor) -> Tensor:
        return self._library.sinkhorn(logits, self.dialect.iterations)

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        n = x.shape[-2]
        heard: list[Tensor] = []

        def overheard(logits: Tensor, iters: int) -> Tensor:
            heard.append(sinkhorn(logits, iters))
            return heard[-1]

        sinkhorn = self._library.sinkhorn
        with patch.object(self._library, "sinkhorn", overheard):
            self._run(x, params, None)
        absent: Any = None  # consumed where they are computed, and not of this dialect
        return Mappings(absent, absent, heard[-1].reshape(*x.shape[:-2], n, n))

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        return self._run(x, params, branch)

    def tuned(self, **fields: Any) -> Implementation:
        if set(fields) - self.tunable:
            return super().tuned(**fields)
        tuned = copy.copy(self)
        tuned.dialect = self.dialect.with_(**fields)
        return tuned

    def _run(self, x: Tensor, params: Params, branch: Branch | None) -> Tensor:
        """One block; None is the identity."""
        if params.norm_weight is not None:
            raise ValueError("Params.norm_weight is given; expected None: the module has one weight for all streams")
        n, channels = x.shape[-2:]
        connection = self._library.HyperConnection(
            channels, layer_index=0, num_residual_streams=n, sinkhorn_iters=self.dialect.iterations
        )
        streams = x.reshape(math.prod(x.shape[:-2]), n, channels).transpose(0, 1)  # [n, T, C]: a batch of one
        whole = Whole(connection, branch, x.shape)
        out = functional_call(whole, weights(params, n, channels), (streams,), strict=True)
        return out.transpose(0, 1).reshape(x.shape)


class Whole(nn.Module):
    """`prepare`, the branch, `forward`, as `AttentionLayers` calls them for each of its layers."""

    def __init__(self, connection: nn.Module, branch: Branch | None, shape: torch.Size) -> None:
        super().__init__()
        self.connection: Any = connection

        def run(h: Tensor) -> Tensor:
            return h if branch is None else branch(h.reshape(*shape[:-2], shape[-1])).reshape(h.shape)

        self.run = run

    def forward(self, streams: Tensor) -> Tensor:
        branch_input, residuals, kept = self.connection.prepare(streams)
        return self.connection(self.run(branch_input), residuals, **kept)


def weights(params: Params, n: int, channels: int) -> dict[str, Tensor]:
    """Params under the names of the library: the columns of alpha are the branch input, then the streams."""
    pre, post, res = params.bias.split([n, n, n * n])
    own = {
        "norm.weight": params.phi.new_ones(channels),
        "static_alpha": torch.cat([pre.view(n, 1), res.view(n, n)], -1),
        "dynamic_alpha_fn": torch.cat([params.phi[:, :1], params.phi[:, 2:]], -1),
        # The library keeps one gate for pre and res and multiplies by it; one gate a column broadcasts.
        "dynamic_alpha_scale": torch.cat([params.alpha[:1], params.alpha[2:].expand(n)]),
        "static_beta": post,
        "dynamic_beta_fn": params.phi[:, 1],
        "dynamic_beta_scale": params.alpha[1],
    }
    return {f"connection.{name}": value for name, value in own.items()}
