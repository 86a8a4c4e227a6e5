"""Liger-Kernel (0.8.5), `liger_kernel.transformers.functional`: `liger_mhc_coeffs` and the like, `liger_attn_res`.

Triton kernels; on a machine without CUDA they run in Triton's interpreter (`published.triton`).
`LigerMHC.forward` calls `liger_mhc_coeffs`, `liger_mhc_pre` and `liger_mhc_post_res` one after the other.
"""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

import mhc_ref
from mhc_ref import Mappings, Params
from properties.targets.published import triton
from properties.targets.published.attention_residuals import AttentionResiduals, divided
from properties.targets.published.tuning import Tunable

SETTINGS = {"iterations": "tmax", "rms_eps": "rms_eps", "pre_eps": "pre_eps", "post_scale": "post_mult"}
"""Dialect field -> the argument of `liger_mhc_coeffs`. `sinkhorn_eps` sets entry_eps and denominator_eps together."""


class Liger(Tunable):
    """`liger_mhc_coeffs(allow_fp32=True)`, `liger_mhc_pre`, `liger_mhc_post_res`, with the library's defaults."""

    dialect = mhc_ref.LIGER
    # "x should be BF16/FP16/FP32"; the interpreter's own tl.dot is wrong for bfloat16, compiled kernels are not.
    dtypes = (torch.float32, torch.bfloat16) if triton.NATIVE else (torch.float32,)
    # tl.arange(0, HC) in _mhc_split_sinkhorn_fwd_kernel takes powers of two only.
    streams = (1, 2, 4, 8)
    tunable = frozenset(SETTINGS)
    below_one = "tmax below 1 computes what 1 does"
    full_range = True  # sinkhorn_eps is added before the first division
    norm_weight = False
    zero_tokens = False  # a grid of no programs
    max_tokens = triton.most_tokens(2)
    devices = triton.DEVICES
    # `tl.dot` reads float32 by default as TensorFloat-32, of which a compiled kernel cuts the operands; the interpreter
    # multiplies in float32. Of 1 + 2^-10 - 2^-23 the cut is 1.
    products = "tf32-truncated" if triton.NATIVE else "compute"

    def __init__(self) -> None:
        triton.prepare()
        self._library: Any = import_module("liger_kernel.transformers.functional")

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        if params.norm_weight is not None:
            raise ValueError("Params.norm_weight is given; expected None: the norm has no weight")
        settings = {name: getattr(self.dialect, field) for field, name in SETTINGS.items()}
        found = self._library.liger_mhc_coeffs(
            batched(x),
            params.phi,
            params.bias,
            *params.alpha.unbind(),
            allow_fp32=True,
            sinkhorn_eps=self.dialect.entry_eps,
            **settings,
        )
        return Mappings(*(one.reshape(*x.shape[:-2], *one.shape[1:]) for one in found))

    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        n, channels = x.shape[-2:]
        return self._library.liger_mhc_pre(batched(x), h_pre.reshape(-1, n)).reshape(*x.shape[:-2], channels)

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        n, channels = x.shape[-2:]
        parts = (y.reshape(-1, channels), h_post.reshape(-1, n), h_res.reshape(-1, n, n))
        return self._library.liger_mhc_post_res(batched(x), *parts).reshape(x.shape)


def batched(x: Tensor) -> Tensor:
    """[..., n, C] -> [T, n, C]: the library wants at least one token axis."""
    return x.reshape(math.prod(x.shape[:-2]), *x.shape[-2:])


class AttnRes(AttentionResiduals):
    """`liger_attn_res`."""

    # What the interpreter stores in bfloat16 it truncates; compiled kernels round.
    dtypes = (torch.float32, torch.bfloat16) if triton.NATIVE else (torch.float32,)
    zero_tokens = False  # a grid of no programs
    max_tokens = triton.most_tokens(2)
    devices = triton.DEVICES

    def __init__(self) -> None:
        triton.prepare()
        self._library: Any = import_module("liger_kernel.transformers.functional")

    def read(self, x: Tensor, query: Tensor) -> Tensor:
        return self._library.liger_attn_res(x.movedim(-2, 0), *divided(query), self.dialect.rms_eps)
