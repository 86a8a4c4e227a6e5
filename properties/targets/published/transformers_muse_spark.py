"""The residual gate of Muse Spark as transformers publishes it (5.24.0): `transformers.models.muse_spark`.

`MuseSparkResidualGate` makes alpha x + beta y of one stream, alpha and beta for each channel, from a parameter that it
divides by `residual_gate_temperature`; `residual_gate_eps` is the floor of alpha^2. Its alpha is compared, each channel
taken for a stream: the gate of diag(1, ..., 1), with nothing beside it, is diag(alpha). Its beta has the logits of
alpha, where a dialect has others for h_post, so that a whole block is not compared. Models keep the gate in float32.
"""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

import mhc_ref
from properties.targets.published.tuning import Tunable

MODELS = "transformers.models.muse_spark"


class MuseSpark(Tunable):
    """`MuseSparkResidualGate`, what it keeps of the stream."""

    dialect = mhc_ref.MUSE_SPARK
    dtypes = (torch.float32, torch.float64)
    tunable = frozenset({"temperature", "floor"})
    full_range = True  # no limit of the parameter is documented

    def __init__(self) -> None:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read at import; nothing here comes from a hub
        import_module(f"{MODELS}.modeling_muse_spark")  # so that a missing library is found out before anything runs

    def project(self, logits: Tensor) -> Tensor:
        n = logits.shape[-2]
        one = torch.eye(n, dtype=logits.dtype, device=logits.device)
        gate = gate_of(n, self.dialect.temperature, self.dialect.floor)
        return functional_call(gate, {"gate": logits}, (one, torch.zeros_like(one)), strict=True)


@cache
def gate_of(channels: int, temperature: float, floor: float) -> nn.Module:
    """The module of a size; its own parameter is never read."""
    configured: Any = import_module(f"{MODELS}.configuration_muse_spark").MuseSparkTextConfig
    made: Any = import_module(f"{MODELS}.modeling_muse_spark").MuseSparkResidualGate
    config = configured(hidden_size=channels, num_attention_heads=1, residual_gate_temperature=temperature)
    return made(config, residual_gate_eps=floor)
