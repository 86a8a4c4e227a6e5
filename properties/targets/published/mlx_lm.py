"""DeepSeek-V4.1 as mlx-lm publishes it (0.32.2, mlx 0.32.4): `mlx_lm.models.deepseek_v41`, on a CPU or an Apple GPU.

V4.1 is the single-pass variant: the input of a layer is collapsed with the pre mapping of the layer *before* it. No
dialect says that, so blocks, layers and the final collapse are not compared. The mappings, and what a layer does with
h_post and h_res, are those of DeepSeek-V4.
"""

from __future__ import annotations

import copy
import math
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

import mhc_ref
from mhc_ref import Mappings, Params
from properties.core.implementation import Implementation
from properties.targets.array_libraries import Mlx
from properties.targets.arrays import called

SETTINGS = {"iterations": "hc_sinkhorn_iters", "rms_eps": "rms_norm_eps"}
"""Dialect field -> the field of `ModelArgs` that sets it. hc_eps sets three of ours together."""


class DeepseekV41(Implementation):
    """`HyperConnection`, and `_expand`, which mixes the streams and adds what the branch returned."""

    dialect = mhc_ref.DEEPSEEK_V4
    dtypes = (torch.float32, torch.bfloat16)
    tunable = frozenset(SETTINGS)
    full_range = True  # hc_eps is added before the first division
    zero_tokens = False  # streams.reshape(..., -1)
    norm_weight = False

    def __init__(self) -> None:
        self._library: Any = import_module("mlx_lm.models.deepseek_v41")
        self._arrays = Mlx()

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        if params.norm_weight is not None:
            raise ValueError("Params.norm_weight is given; expected None: the norm has no weight")
        n, channels = x.shape[-2:]
        connection = self._connection(n, channels)

        def run(streams: Any, fn: Any, base: Any, scale: Any) -> Any:
            connection.fn, connection.base, connection.scale = fn, base, scale
            return connection(streams)

        pre, post, res = self._called(run, flat(x), params.phi.T, params.bias, params.alpha)
        batch = x.shape[:-2]
        return Mappings(pre.reshape(*batch, n), post.reshape(*batch, n), res.reshape(*batch, n, n))

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        n, channels, tokens = *x.shape[-2:], math.prod(x.shape[:-2])
        parts = (y.reshape(1, tokens, channels), flat(x), h_post.reshape(1, tokens, n), h_res.reshape(1, tokens, n, n))
        (mixed,) = self._called(self._library._expand, *parts)
        return mixed.reshape(x.shape)

    def _called(self, function: Any, *tensors: Tensor) -> Any:
        return called(self._arrays, function, *tensors)

    def tuned(self, **fields: Any) -> Implementation:
        if set(fields) - self.tunable:
            return super().tuned(**fields)
        tuned = copy.copy(self)
        tuned.dialect = self.dialect.with_(**fields)
        return tuned

    def _connection(self, n: int, channels: int) -> Any:
        settings = {name: getattr(self.dialect, field) for field, name in SETTINGS.items()}
        args = self._library.ModelArgs(hidden_size=channels, hc_mult=n, **settings)
        return self._library.HyperConnection(args)


def flat(x: Tensor) -> Tensor:
    """[..., n, C] -> [1, T, n, C]."""
    return x.reshape(1, math.prod(x.shape[:-2]), *x.shape[-2:])
