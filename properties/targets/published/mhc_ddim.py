"""The package mhc-ddim (0.2.5): `MHCResBlock._sinkhorn` of `mhc_ddim.unet`.

The rest of it is not compared: its blocks mix images by matrices that do not see the state, read and write by softmaxes
over the streams, and change the number of channels within a block.
"""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from mhc_ref import Dialect
from properties.targets.published.tuning import Tunable


class MhcDdim(Tunable):
    """`MHCResBlock._sinkhorn`, one matrix at a time."""

    dialect = Dialect(last_axis="column")  # in the log domain: rows, then columns, 20 times, no eps
    dtypes = (torch.float32,)  # "Always normalizes in fp32"
    tunable = frozenset({"iterations", "temperature"})
    below_one = "without one it returns exp(logits - max)"
    full_range = True  # "A.clamp(min=-60.0)": "Cannot distort anything."
    zero_tokens = False  # torch.stack below
    max_tokens = 16

    def __init__(self) -> None:
        self._block: Any = import_module("mhc_ddim.unet").MHCResBlock

    def project(self, logits: Tensor) -> Tensor:
        own = SimpleNamespace(sinkhorn_iters=self.dialect.iterations, sinkhorn_temp=self.dialect.temperature)
        matrices = logits.reshape(-1, *logits.shape[-2:])
        return torch.stack([self._block._sinkhorn(own, one) for one in matrices]).reshape(logits.shape)
