"""The gated residual of Qwen4-Exp as transformers publishes it (5.24.0): `transformers.models.qwen4_exp`.

`Qwen4ExpTextGatedResidual` computes what a branch reads and the weights of what it gives back; one without those is
the end of a stack. What is done with them stands in `Qwen4ExpTextDecoderLayer.forward`, in two lines that are repeated
here: the rest of a layer is attention, experts and an embedding.

The module has neither gates nor biases for its logits, and refuses one stream. Its norm computes in float32 and gives
back the dtype of the state, its linear maps take parameters of that dtype: states of float32 are its contract here.
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
from mhc_ref import Branch, Params
from properties.core.implementation import Implementation

MODELS = "transformers.models.qwen4_exp"


class Qwen4Exp(Implementation):
    """`Qwen4ExpTextGatedResidual`, applied as `Qwen4ExpTextDecoderLayer` does, and once more at the end."""

    dialect = mhc_ref.QWEN4_EXP
    streams = (2, 3, 4, 5, 8)
    dtypes = (torch.float32,)
    zero_tokens = False  # its norm reshapes to [..., -1, C], which has no answer for a state without tokens

    def __init__(self) -> None:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read at import; nothing here comes from a hub
        import_module(f"{MODELS}.modeling_qwen4_exp")  # so that a missing library is found out before anything runs

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        n, channels = x.shape[-2:]
        rank = self.dialect.rank
        own = weights(params, rank) | {"block_inject_weight.weight": params.phi[:, rank : rank + n].T}
        module = residual(n, channels, rank, True)
        read, streams, inject = functional_call(module, own, (x.flatten(-2),), strict=True)
        injection = branch(read).unsqueeze(-2) * inject.unsqueeze(-1)
        return (streams + injection.flatten(-2)).unflatten(-1, (n, channels))

    def collapse(self, x: Tensor, params: Params | None = None) -> Tensor:
        if params is None:
            raise ValueError("the streams end by a last read, whose parameters are missing")
        n, channels = x.shape[-2:]
        module = residual(n, channels, self.dialect.rank, False)
        return functional_call(module, weights(params, self.dialect.rank), (x.flatten(-2),), strict=True)


def weights(params: Params, rank: int) -> dict[str, Tensor]:
    """Params under the names of the module; one without a norm weight has zeros, as the module begins."""
    weight = params.norm_weight
    return {
        "hc_norm.weight": params.phi.new_zeros(len(params.phi)) if weight is None else weight,
        "input_mix_weight_down.weight": params.phi[:, :rank].T,
        "input_mix_weight_up.weight": params.phi[:, -rank:],
    }


@cache
def residual(n: int, channels: int, rank: int, combined: bool) -> nn.Module:
    """The module of a size; its own parameters are never read."""
    configured: Any = import_module(f"{MODELS}.configuration_qwen4_exp").Qwen4ExpTextConfig
    made: Any = import_module(f"{MODELS}.modeling_qwen4_exp").Qwen4ExpTextGatedResidual
    return made(configured(hidden_size=channels, hc_count=n, hc_lowrank=rank), use_combine=combined)
