"""The attention residuals of Inkling2 as transformers publishes them (5.23.0): `transformers.models.inkling2`.

The keys are what is read, and their norm has no weight; what is read is given in float32, whatever the sources are.
Decoder layers cast their result to the dtype of the state; they are attention and more besides, and are not compared.
"""

from __future__ import annotations

import os
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

import mhc_ref
from properties.targets.published.attention_residuals import AttentionResiduals


class Inkling2(AttentionResiduals):
    """`Inkling2BlockAttentionResidual` with one query."""

    dialect = mhc_ref.ATTN_RES.with_(scaled=True, reads_normalised=True)
    dtypes = (torch.float32,)  # what it gives is float32

    def __init__(self) -> None:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read at import; nothing here comes from a hub
        self._library: Any = import_module("transformers.models.inkling2.modeling_inkling2")

    def read(self, x: Tensor, query: Tensor) -> Tensor:
        module = self._library.Inkling2BlockAttentionResidual(SimpleNamespace(hidden_size=x.shape[-1]))
        return functional_call(module, {"query": query}, (x[..., :-1, :], x[..., -1, :]), strict=True)[0]
