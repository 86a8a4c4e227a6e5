"""flash-linear-attention (fla-core 0.6.0): `fla/ops/utils/sinkhorn`, kernels and the plain version; `fla/ops/attnres`.

`sinkhorn` refuses tensors that are not on an NVIDIA GPU. Elsewhere the same autograd function and the same kernels run
in Triton's interpreter (`published.triton`).
"""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

import mhc_ref
from properties.targets.published import triton
from properties.targets.published.attention_residuals import AttentionResiduals, divided
from properties.targets.published.tuning import Tunable


class Fla(Tunable):
    """`sinkhorn` (on a CPU the `SinkhornFunction` in it): log domain in base 2, its gradient unrolled."""

    dialect = mhc_ref.PAPER  # log-sum-exp of columns, then of rows, 20 times, no eps; nothing but the projection
    streams = (1, 2, 3, 4, 5, 8)  # 1 <= N <= 8
    dtypes = (torch.float32,)
    tunable = frozenset({"iterations"})
    below_one = "num_iters must be a positive integer"
    full_range = True
    max_tokens = triton.most_tokens(2)
    devices = triton.DEVICES

    def __init__(self) -> None:
        triton.prepare()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Triton is not supported on current platform", UserWarning)
            self._library: Any = import_module("fla.ops.utils.sinkhorn.ops")

    def project(self, logits: Tensor) -> Tensor:
        if logits.is_cuda:
            return self._library.sinkhorn(logits, self.dialect.iterations)
        return self._library.SinkhornFunction.apply(logits, self.dialect.iterations)


class FlaNaive(Fla):
    """`naive_sinkhorn`, the plain torch version that the kernels are tested against."""

    max_tokens = triton.ANY
    devices = ("cpu", "cuda")

    def __init__(self) -> None:
        super().__init__()
        self._library = import_module("fla.ops.utils.sinkhorn.naive")

    def project(self, logits: Tensor) -> Tensor:
        return self._library.naive_sinkhorn(logits, self.dialect.iterations)


class AttnResNaive(AttentionResiduals):
    """`naive_attnres`, which the kernel `fused_attnres` is tested against."""

    dtypes = (torch.float32, torch.bfloat16)

    def __init__(self) -> None:
        triton.prepare()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Triton is not supported on current platform", UserWarning)
            self._library: Any = import_module("fla.ops.attnres.naive")

    def read(self, x: Tensor, query: Tensor) -> Tensor:
        asked, weight = divided(query)
        sources = [one.contiguous() for one in x.unbind(-2)]  # `.view(-1, D)` refuses others
        return self._library.naive_attnres(asked, sources, weight, rms_eps=self.dialect.rms_eps)
