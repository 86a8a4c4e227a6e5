"""Kimi K3 as mlx-lm publishes it (0.32.2, mlx 0.32.4): `mlx_lm.models.kimi_k3`, on a CPU or an Apple GPU.

`ResidualBlocks` keeps the sources, `KimiK3DecoderLayer` has two blocks, and `KimiK3TextModel` ends with a read of its
own, so that is what runs here: layers within one group, between attention and experts that are not the library's. The
modules are in training mode, in which they read by `_attn_res_combine` on every device; `_ATTN_RES_SOURCE`, a Metal
kernel for inference, is not compared.

On a CPU mlx compiles that function anew for every width, by the C++ compiler of the machine and in seconds. It is told
not to, in the whole process: the same operations run one by one. `mlx.core.enable_compile()` undoes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

import mhc_ref
from mhc_ref import Branch, Params
from properties.targets.array_libraries import Mlx
from properties.targets.arrays import called
from properties.targets.published.attention_residuals import divided
from properties.targets.published.mlx_lm import Left, empty, same
from properties.targets.published.tuning import Tunable


class KimiK3(Tunable):
    """`KimiK3DecoderLayer` within one group, and the last read of `KimiK3TextModel`."""

    dialect = mhc_ref.ATTN_RES.with_(rms_eps=1e-5)  # rms_norm_eps of TextArgs
    dtypes = (torch.float32, torch.bfloat16)
    tunable = frozenset({"rms_eps"})
    norm_weight = False

    def __init__(self) -> None:
        self._library: Any = import_module("mlx_lm.models.kimi_k3")
        self._mlx: Any = import_module("mlx.core")
        if self._mlx.default_device() == self._mlx.cpu:
            self._mlx.disable_compile()
        self._arrays = Mlx()

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        return self.layers(x, [params], [branch])

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        """Two blocks a layer of the library; where their number is odd, the last branch of all gives 0."""
        *tokens, _, channels = x.shape
        kept, newest = apart(x)
        blocks = list(zip(params, branches, strict=True))
        for first in range(0, len(blocks), 2):
            some = blocks[first : first + 2]
            own = [part for one, _ in some for part in weights(one)]
            given: list[Tensor] = []
            for _, branch in some:
                (u,) = self._called(self._layer(len(some)), kept, newest, *own, *given)
                given.append(branch(u.reshape(*tokens, channels)).reshape(u.shape))
            (newest,) = self._called(self._layer(len(some)), kept, newest, *own, *given)
        return torch.cat([x[..., :-1, :], newest.reshape(*tokens, 1, channels)], -2)

    def collapse(self, x: Tensor, params: Params | None = None) -> Tensor:
        if params is None:
            raise ValueError("the streams end by a last read, whose query is missing")
        (read,) = self._called(self._end, *apart(x), *weights(params))
        return read.reshape(*x.shape[:-2], x.shape[-1])

    def _called(self, function: Callable[..., Any], *tensors: Tensor) -> Any:
        return called(self._arrays, function, *tensors)

    def _kept(self, kept: Any) -> Any:
        """The sources before the sum under way, as the library keeps them."""
        blocks = self._library.ResidualBlocks(self.dialect.rms_eps)
        for one in kept:
            blocks.append(one)
        return blocks

    def _layer(self, count: int) -> Callable[..., Any]:
        """A layer of the library as a function of the sources, the sum under way, the parameters of one block or two
        and what the first of its branches gave: of all of them, the sum that it leaves, else what the next one reads.
        """

        def run(kept: Any, newest: Any, *rest: Any) -> Any:
            own, outputs = rest[: 2 * count], iter(rest[2 * count :])

            def branch(h: Any, *_: Any) -> Any:
                y = next(outputs, None)
                return Left.raised(h) if y is None else y

            layer = empty(self._library.KimiK3DecoderLayer)
            layer.eps = self.dialect.rms_eps
            layer.use_attn_res, layer.is_block_start = True, False
            layer.input_layernorm = layer.post_attention_layernorm = same
            layer.self_attention_res_proj, layer.self_attention_res_norm = read(own[:2])
            layer.mlp_res_proj, layer.mlp_res_norm = read(own[-2:])
            layer.self_attn, layer.mlp = branch, branch if count == 2 else self._mlx.zeros_like
            try:
                return layer(newest, blocks=self._kept(kept))[0]
            except Left as left:
                return left.state[0]

        return run

    def _end(self, kept: Any, newest: Any, *own: Any) -> Any:
        """What the library's model makes of the sources after its last layer, without the norm behind it."""

        def last(h: Any, **_: Any) -> Any:
            return h, self._kept(kept)

        layer: Any = last
        layer.is_linear = False
        model = empty(self._library.KimiK3TextModel)
        model.args = SimpleNamespace(rms_norm_eps=self.dialect.rms_eps)
        model.embed_tokens = model.norm = same
        model.layers, model.use_attn_res = [layer], True
        model.output_attn_res_proj, model.output_attn_res_norm = read(own)
        model.pipeline_rank, model.pipeline_size, model.start_idx, model.num_layers = 0, 1, 0, 1
        model.ssm_idx = model.attn_idx = None
        return model(newest)


def read(own: Sequence[Any]) -> tuple[Any, Any]:
    """The projection and the norm of a read; the library takes nothing but their weights."""
    query, weight = own
    return SimpleNamespace(weight=query), SimpleNamespace(weight=weight)


def weights(params: Params) -> tuple[Tensor, Tensor]:
    """The weights of a projection [1, C] and a norm [C], whose product is the query."""
    if params.norm_weight is not None:
        raise ValueError("Params.norm_weight is given; expected None: one weight serves all sources")
    query, weight = divided(params.phi[:, 0])
    return query.unsqueeze(0), weight


def apart(x: Tensor) -> tuple[Tensor, Tensor]:
    """[..., n, C] -> the sources before the sum under way [n - 1, 1, T, C], and that sum [1, T, C]."""
    sources = x.reshape(1, math.prod(x.shape[:-2]), *x.shape[-2:]).movedim(-2, 0)
    return sources[:-1], sources[-1]
