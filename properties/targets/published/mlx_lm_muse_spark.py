"""The residual gate of Muse Spark as mlx-lm publishes it (0.32.2, mlx 0.32.4): `mlx_lm.models.muse_spark`.

`residual_gate_coefficients` gives what is kept of the stream and what is added of a branch, for each channel; a model
computes both once, as its weights are read. Its alpha is compared, each channel taken for a stream: diag(alpha) is
h_res. Its beta has the logits of alpha, where a dialect has others for h_post. Layers apply both by a Metal kernel
that no CPU has, and that normalises what a branch gives.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import Tensor

import mhc_ref
from properties.targets.array_libraries import Mlx
from properties.targets.arrays import called
from properties.targets.published.tuning import Tunable


class MuseSpark(Tunable):
    """`residual_gate_coefficients`, what it keeps of the stream."""

    dialect = mhc_ref.MUSE_SPARK
    dtypes = (torch.float32,)
    tunable = frozenset({"temperature", "floor"})
    full_range = True  # no limit of the parameter is documented

    def __init__(self) -> None:
        self._library: Any = import_module("mlx_lm.models.muse_spark")
        self._arrays = Mlx()

    def project(self, logits: Tensor) -> Tensor:
        def kept(gate: Any) -> Any:
            d = self.dialect
            return self._library.residual_gate_coefficients(gate, temperature=d.temperature, eps=d.floor)[0]

        alpha: Any = called(self._arrays, kept, logits)[0]
        return alpha.squeeze(-1).diag_embed()
