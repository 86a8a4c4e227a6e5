"""GLM-5 Next as transformers publishes it (5.24.0): `transformers.models.glm5_next.modeling_glm5_next`.

`Glm5NextTextHyperConnection` is generated from DeepSeek-V4's and is the same but for its name. The defaults have
rms_norm_eps 1e-5, the streams are collapsed by their mean, and the decoder layer, with the same arithmetic in the
same precisions, calls its parts otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

import mhc_ref
from mhc_ref import Branch, Params
from properties.targets.published.transformers_deepseek_v4 import DeepseekV4, Half, Sublayer, flat


class Glm5Next(DeepseekV4):
    """`Glm5NextTextHyperConnection`, applied by `Glm5NextTextDecoderLayer`, collapsed by `Glm5NextTextHyperHead`."""

    dialect = mhc_ref.DEEPSEEK_V4.with_(rms_eps=1e-5, collapse="mean")

    modeling: ClassVar[str] = "transformers.models.glm5_next.modeling_glm5_next"
    prefix: ClassVar[str] = "Glm5NextText"

    def collapse(self, x: Tensor, params: Params | None = None) -> Tensor:
        head: nn.Module = self._library.Glm5NextTextHyperHead()
        return head(flat(x)).reshape(*x.shape[:-2], x.shape[-1])

    def _sublayer(self, half: Half, branch: Branch, tokens: torch.Size) -> nn.Module:
        return Sublayer(branch, tokens)  # linear attention returns its output alone

    def _run(self, layer: nn.Module, own: Mapping[str, Tensor], streams: Tensor) -> Tensor:
        # Set by the __init__ that is not run; the plainer of the two ways in which the layer calls its attention.
        layer.block_type = "linear_attention"  # pyright: ignore[reportArgumentType]  # any attribute, at run time
        streams, _indices = functional_call(layer, dict(own), (streams,), strict=True)
        return streams
