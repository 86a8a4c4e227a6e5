"""The attention residuals of Inkling2 as transformers publishes them (5.24.0): `transformers.models.inkling2`.

The keys are what is read, and their norm has no weight; what is read is given in float32, whatever the sources are.
Decoder layers cast their result to the dtype of the state; they are attention and more besides, and are not compared.
"""

from __future__ import annotations

import math
import os
from importlib import import_module
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.func import functional_call

import mhc_ref
from properties.targets.published.attention_residuals import AttentionResiduals


class Inkling2(AttentionResiduals):
    """`Inkling2BlockAttentionResidual` with one query."""

    dialect = mhc_ref.ATTN_RES.with_(scaled=True, reads_normalised=True)
    dtypes = (torch.float32,)  # what it gives is float32

    modeling: ClassVar[str] = "transformers.models.inkling2.modeling_inkling2"
    prefix: ClassVar[str] = "Inkling2"

    def __init__(self) -> None:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read at import; nothing here comes from a hub
        self._library: Any = import_module(self.modeling)

    def read(self, x: Tensor, query: Tensor) -> Tensor:
        residual = getattr(self._library, f"{self.prefix}BlockAttentionResidual")
        module = residual(SimpleNamespace(hidden_size=x.shape[-1], _attn_implementation="eager"))
        sources = x.reshape(1, math.prod(x.shape[:-2]), *x.shape[-2:])
        (got,) = functional_call(module, {"query": query}, (sources[..., :-1, :], sources[..., -1, :]), strict=True)
        return got.reshape(*x.shape[:-2], x.shape[-1])


class Inkling2Loop(Inkling2):
    """`Inkling2LoopBlockAttentionResidual` with one query, of the model whose layers are passed several times."""

    modeling: ClassVar[str] = "transformers.models.inkling2_loop.modeling_inkling2_loop"
    prefix: ClassVar[str] = "Inkling2Loop"
