"""DeepSeek's TileKernels (1.0.0): the kernels, and their torch reference `tile_kernels/torch/mhc.py`.

`import tile_kernels` needs tilelang and a GPU, the reference file needs neither: it is loaded by its path. The order of
its calls is that of `tile_kernels/modeling/mhc/functional.py:mhc_pre` and `mhc_head`, whose kernels it is written for.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

import mhc_ref
from mhc_ref import Mappings, Params
from properties.targets.published.tuning import Tunable

WIDTH = 128
"""Channels are filled up to a multiple: compilation fails for 64 (pre) and for 1 and 9 (the backward pass of post)."""


class TileKernels(Tunable):
    """`sinkhorn_normalize`, `mhc_pre_apply_mix`, `mhc_post` and `expand_to_mhc` of `tile_kernels.modeling.mhc.ops`.

    Channels do not meet in the last three, so that some more of them, zeros, change nothing. They do in
    `mhc_pre_norm_fn`, whose kernels assert n*C % 256 == 0 (`hidden_block`): `TileKernelsWhole` has it.
    """

    dialect = mhc_ref.DEEPSEEK_V4
    devices = ("cuda",)  # kernels for compute capability 9.0 and 10.0
    streams = (4,)  # "currently only 4 is guaranteed to work" (functional.py)
    dtypes = (torch.bfloat16,)
    tunable = frozenset({"iterations"})
    below_one = "repeat below 1 computes what 1 does"
    full_range = True  # exp(Z - row max), and eps before the first division by a column
    zero_tokens = False
    strided = False  # mhc_post asserts that all but the state are contiguous, mhc_pre_apply_mix calls .view

    def __init__(self) -> None:
        self._ops: Any = importlib.import_module("tile_kernels.modeling.mhc.ops")

    def project(self, logits: Tensor) -> Tensor:
        return self._ops.sinkhorn_normalize(logits, repeat=self.dialect.iterations, eps=self.dialect.entry_eps)

    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        return self._ops.mhc_pre_apply_mix(filled(x), h_pre.unsqueeze(-1))[..., : x.shape[-1]]

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        n, channels, tokens = *x.shape[-2:], math.prod(x.shape[:-2])
        parts = (h_post.reshape(1, tokens, n, 1), h_res.reshape(1, tokens, n, n))
        mixed = self._ops.mhc_post(filled(y.reshape(1, tokens, channels)), filled(flat(x)), *parts)
        return mixed[..., :channels].reshape(x.shape)

    def expand(self, h: Tensor, n: int) -> Tensor:
        tokens, channels = math.prod(h.shape[:-1]), h.shape[-1]
        expanded = self._ops.expand_to_mhc(filled(h.reshape(tokens, channels)), n)
        return expanded[..., :channels].reshape(*h.shape[:-1], n, channels)


class TileKernelsWhole(TileKernels):
    """The same and the mappings, `mhc_pre_norm_fn` and `mhc_pre_split_mixes`, at multiples of 128 channels alone.

    A target of its own, `properties.targets.published.tile_kernels:TileKernelsWhole`: whoever asks for
    `published:tile-kernels` gets laws at every width.
    """

    name = "tile-kernels-whole"
    channel_multiple = WIDTH
    products = "tf32"  # round_to_tf32 of fn and, backwards, of the gradient of its product; the state is bfloat16
    tunable = frozenset({"iterations", "pre_eps", "post_scale", "rms_eps"})

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        n, batch = x.shape[-2], x.shape[:-2]
        fn, dialect = params.phi.T.contiguous(), self.dialect
        # `fuse_grad_acc`, its default, adds the gradient of the state to what `mhc_post` has left in its storage.
        mixes = self._ops.mhc_pre_norm_fn(flat(x).contiguous(), fn, params.norm_weight, dialect.rms_eps, False)
        settings = (n, dialect.post_scale, dialect.pre_eps)
        pre, post, logits = self._ops.mhc_pre_split_mixes(mixes, params.alpha, params.bias, *settings)
        return Mappings(pre.reshape(*batch, n), post.reshape(*batch, n), self.project(logits).reshape(*batch, n, n))


def filled(x: Tensor) -> Tensor:
    """[..., C] -> [..., C'], contiguous, with zeros up to the next multiple of `WIDTH`."""
    return pad(x, (0, -x.shape[-1] % WIDTH)).contiguous()


class TileKernelsReference(Tunable):
    """`mhc_pre_norm_fn_ref` to `sinkhorn_normalize_ref` for the mappings, `mhc_pre_apply_mix_ref`, `mhc_post_ref`."""

    # As DeepSeek-V4 is configured; the functions' own defaults are repeat 10 and, in `mhc_pre`, post_mult_value 1.
    dialect = mhc_ref.DEEPSEEK_V4
    dtypes = (torch.bfloat16,)  # whatever goes in, mhc_pre_apply_mix_ref and mhc_post_ref return bfloat16
    tunable = frozenset({"iterations", "pre_eps", "post_scale", "rms_eps"})
    below_one = "repeat below 1 computes what 1 does"
    full_range = True  # eps is added before the first division
    zero_tokens = False  # mixes.view(..., -1)

    def __init__(self) -> None:
        self._library: Any = reference_file()

    def project(self, logits: Tensor) -> Tensor:
        return self._library.sinkhorn_normalize_ref(logits, repeat=self.dialect.iterations, eps=self.dialect.entry_eps)

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        n, batch = x.shape[-2], x.shape[:-2]
        mixes = self._library.mhc_pre_norm_fn_ref(flat(x), params.phi.T, params.norm_weight, self.dialect.rms_eps)
        pre, post, logits = self._library.mhc_pre_split_mixes_ref(
            mixes, params.alpha, params.bias, n, self.dialect.post_scale, self.dialect.pre_eps
        )
        return Mappings(pre.reshape(*batch, n), post.reshape(*batch, n), self.project(logits).reshape(*batch, n, n))

    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        return self._library.mhc_pre_apply_mix_ref(x, h_pre.unsqueeze(-1))

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        n, channels, tokens = *x.shape[-2:], math.prod(x.shape[:-2])
        mixed = self._library.mhc_post_ref(
            y.reshape(1, tokens, channels), flat(x), h_post.reshape(1, tokens, n, 1), h_res.reshape(1, tokens, n, n)
        )
        return mixed.reshape(x.shape)

    def expand(self, h: Tensor, n: int) -> Tensor:
        return self._library.expand_to_mhc_ref(h, n)

    def collapse(self, x: Tensor, params: Params | None = None) -> Tensor:
        if params is None:
            raise ValueError("the streams are collapsed by a head, whose parameters are missing")
        n, channels = x.shape[-2:]
        weights, eps = (params.phi[:, :n].T, params.norm_weight), self.dialect.pre_eps
        mixes = self._library.mhc_pre_norm_fn_ref(flat(x), *weights, self.dialect.rms_eps)
        mix = self._library.mhc_head_compute_mix_ref(mixes, params.alpha[:1], params.bias[:n], eps)
        return self._library.mhc_pre_apply_mix_ref(flat(x), mix.unsqueeze(-1)).reshape(*x.shape[:-2], channels)


def reference_file() -> ModuleType:
    """`tile_kernels/torch/mhc.py` of the installed package, as a module of its own.

    Raises:
        ImportError: the package is not installed, or has no such file.
    """
    package = importlib.util.find_spec("tile_kernels")  # finds it without importing it
    places = list(package.submodule_search_locations or []) if package else []
    path = Path(places[0], "torch", "mhc.py") if places else Path("tile_kernels")
    spec = importlib.util.spec_from_file_location("_tile_kernels_torch_mhc", path) if path.is_file() else None
    if spec is None or spec.loader is None:
        raise ImportError("tile_kernels/torch/mhc.py is not installed (pip install --no-deps tile-kernels==1.0.0)")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def flat(x: Tensor) -> Tensor:
    """[..., n, C] -> [1, T, n, C]."""
    return x.reshape(1, math.prod(x.shape[:-2]), *x.shape[-2:])
