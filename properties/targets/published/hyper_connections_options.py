"""The package hyper-connections (0.4.11): `num_fracs` and `num_input_views`, as far as a dialect says them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mhc_ref import Params
from properties.core.implementation import Implementation
from properties.targets.published.hyper_connections import Connection, ManifoldConstrainedV2, Unconstrained

FRACTIONS = 2
"""What `num_fracs` is tried with; 1 is every other adapter."""


class Halved(Connection):
    """The option `num_fracs=2`: of s streams of 2 C channels it makes n = 2 s of C. A branch reads two vectors and
    writes two, which no dialect says, so that there are no whole blocks."""

    streams = (2, 4, 6, 8)
    block = Implementation.block
    expand = Implementation.expand
    collapse = Implementation.collapse

    def _settings(self) -> dict[str, Any]:
        return super()._settings() | {"num_fracs": FRACTIONS}

    def _connection(self, n: int, channels: int, branch: Callable[[Tensor], Tensor] | None = None) -> Any:
        return super()._connection(n // FRACTIONS, channels * FRACTIONS, branch)


class ManifoldConstrainedV2Fractions(Halved, ManifoldConstrainedV2):
    """`mHCv2` with `num_fracs=2`: h_res, which mixes the halves of all streams as streams of their own.

    The halves of a stream stand side by side.
    """

    emits = ("res",)
    full_range = False  # what `sinkhorn_knopps` loses is said of it by itself
    project = Implementation.project

    def _weights(self, params: Params, n: int) -> dict[str, Tensor]:
        weights = super()._weights(params, n)
        # The gates of the second read, and of both writes, are those of the first: nothing of them is looked at.
        doubled = [weights[name] for name in ("static_alpha", "dynamic_alpha_fn")]
        alphas = [torch.cat([one[..., :1], one], -1) for one in doubled]
        return weights | {
            "static_alpha": alphas[0],
            "dynamic_alpha_fn": alphas[1],
            "static_beta": weights["static_beta"].view(n // FRACTIONS, FRACTIONS, 1),
            "dynamic_beta_fn": weights["dynamic_beta_fn"].expand(-1, FRACTIONS),
        }

    def _pack(self, x: Tensor) -> Tensor:
        n, channels = x.shape[-2:]
        return x.reshape(1, math.prod(x.shape[:-2]), n // FRACTIONS, FRACTIONS * channels)


def _first_read(weights: dict[str, Tensor], params: Params, n: int) -> dict[str, Tensor]:
    """The columns of a read that is not looked at, beside which the one that is must hold: its gates are h_post's."""
    return {
        "static_alpha": weights["static_beta"].view(n, 1),
        "dynamic_alpha_fn": weights["dynamic_beta_fn"].unsqueeze(-1),
        "dynamic_alpha_scale": params.alpha[1:2],
    }


class Views(Unconstrained):
    """`HyperConnections(num_input_views=2)`, whose branch is given two reads of the streams, and here takes the second.

    The first has gates of its own, which are those of h_post: what is read must not depend on them.
    """

    def _read(self, given: Tensor) -> Tensor:
        return given[1]  # [views, b, T, C]

    def _settings(self) -> dict[str, Any]:
        return super()._settings() | {"num_input_views": 2}

    def _weights(self, params: Params, n: int) -> dict[str, Tensor]:
        weights = super()._weights(params, n)
        first = _first_read(weights, params, n)
        return weights | {name: torch.cat([one, weights[name]], -1) for name, one in first.items()}

    def _matrices(self, heard: Tensor, shape: torch.Size) -> tuple[Any, Any]:
        alpha = heard.reshape(*shape, 2 + shape[-1])
        return alpha[..., 1], alpha[..., 2:]


class Fractions(Halved, Unconstrained):
    """`HyperConnections(num_fracs=2)`: h_res, which mixes the halves of all streams as streams of their own, and the
    gates with which the second half of what the branch is given is read.

    All first halves come before all second ones.
    """

    emits = ("pre", "res")

    def _weights(self, params: Params, n: int) -> dict[str, Tensor]:
        weights = super()._weights(params, n)
        first = _first_read(weights, params, n)
        beta = weights["dynamic_beta_fn"].unsqueeze(-1).expand(-1, FRACTIONS)
        return weights | {name: by_half(one, weights[name]) for name, one in first.items()} | {"dynamic_beta_fn": beta}

    def _matrices(self, heard: Tensor, shape: torch.Size) -> tuple[Any, Any]:
        half = shape[-1] // FRACTIONS
        alpha = heard.reshape(*shape, FRACTIONS, 1 + half)
        return alpha[..., 1, 0], alpha[..., 1:].reshape(*shape, shape[-1])

    def _pack(self, x: Tensor) -> Tensor:
        """[..., n, C] -> [s, T, 2 C], the halves of a stream end to end."""
        n, channels = x.shape[-2:]
        halves = x.reshape(math.prod(x.shape[:-2]), FRACTIONS, n // FRACTIONS, channels)
        return halves.permute(2, 0, 1, 3).flatten(-2)


def by_half(first: Tensor, others: Tensor) -> Tensor:
    """Columns of (the read of a half, what becomes of the streams in that half) for both halves: those of the first
    read, [..., 1], and [..., 1 + n], the second read and the streams."""
    second_read, streams = others[..., :1], others[..., 1:]
    low, high = streams.chunk(FRACTIONS, -1)
    return torch.cat([first, low, second_read, high], -1)
