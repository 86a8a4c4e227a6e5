"""Hy4's iHC as transformers publishes it (5.24.0): `transformers.models.hy_v4.modeling_hy_v4`.

`HYV4HyperConnection` is DeepSeek-V4's without the mixing: every stream keeps to itself, phi has no columns for it, and
h_post has an eps too. It returns h_post and, in place of a pre mapping, the branch input. `HYV4DecoderLayer.forward`
adds h_post * y to the streams, two blocks a layer. Everything is float32, and the layer's sum is rounded to the state's
dtype once: the default contract. hc_eps sets the eps of both gates, and the head's; hc_magnitude is post_scale. The
default of rms_norm_eps is 1e-5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

import mhc_ref
from mhc_ref import Branch, Mappings, Params
from properties.targets.published.transformers_deepseek_v4 import (
    FIRST,
    DeepseekV4,
    Half,
    Sublayer,
    flat,
    weights,
)


class HyV4(DeepseekV4):
    """`HYV4HyperConnection`, applied by `HYV4DecoderLayer`, collapsed by `HYV4HyperHead`."""

    dialect = mhc_ref.IHC.with_(rms_eps=1e-5)
    # float64 states are computed in float32.
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    emits = ("post",)
    zero_tokens = True
    strided = True
    mixing = "compute"

    settings: ClassVar[Mapping[str, str]] = {"rms_eps": "rms_norm_eps", "post_scale": "hc_magnitude"}
    tunable = frozenset(settings)
    modeling: ClassVar[str] = "transformers.models.hy_v4.modeling_hy_v4"
    prefix: ClassVar[str] = "HYV4"

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        n, channels = x.shape[-2:]
        post, _ = functional_call(self._connection(n, channels), weights(params), (flat(x),), strict=True)
        absent: Any = None  # pre is consumed where it is computed, and nothing is mixed
        return Mappings(absent, post.reshape(*x.shape[:-2], n), absent)

    def _sublayer(self, half: Half, branch: Branch, tokens: torch.Size) -> nn.Module:
        return Attention(branch, tokens) if half is FIRST else Sublayer(branch, tokens)

    def _run(self, layer: nn.Module, own: Mapping[str, Tensor], streams: Tensor) -> Tensor:
        streams, _indices = functional_call(layer, dict(own), (streams,), strict=True)
        return streams


class HyV4Vl(HyV4):
    """`HYV4VLHyperConnection` of the model that sees, with its `HYV4VLDecoderLayer` and `HYV4VLHyperHead`."""

    modeling: ClassVar[str] = "transformers.models.hy_v4_vl.modeling_hy_v4_vl"
    prefix: ClassVar[str] = "HYV4VL"
    configured: ClassVar[str] = "HYV4VLTextConfig"


class Attention(Sublayer):
    """A branch where the layer has its attention, which returns its weights and the indices of its keys as well."""

    def forward(self, hidden_states: Tensor, **_: Any) -> Any:
        return self.run(hidden_states), None, None
