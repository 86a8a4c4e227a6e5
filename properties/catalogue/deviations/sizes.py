"""Slips that kernels make at some sizes only: the formula is right, and another launch, path or buffer is wrong."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mhc_ref import Branch, Params
from properties.core.case import map_tensors
from properties.core.deviant import Deviant
from properties.core.slips import MUTATION, Slips, mixes

SLIPS = Slips()
execution = SLIPS.step("execution")
gradient = SLIPS.step("gradient")

SWEPT = (torch.float32,)
"""The dtype in which sizes are swept so far; what shows at some sizes shows in every dtype."""


def count_of(x: Tensor) -> int:
    """How many tokens a state has."""
    return x[..., 0, 0].numel()


@execution(
    "transposed-between-36-and-64",
    "tokenspeed #622, aiter #3623, sglang #39704: launches that are chosen by the number of tokens",
    mixes,
    dtypes=SWEPT,
    hidden="for other numbers of tokens",
)
class TransposedBetween36And64(Deviant):
    """A state of 36 to 64 tokens is mixed by the transpose of what is declared."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        return super().post(x, y, h_post, h_res.mT if 36 <= count_of(x) <= 64 else h_res)


@execution(
    "channels-above-4096-left-out",
    "TensorRT-LLM #13710, #13771: built for 4096 channels",
    dtypes=SWEPT,
    hidden="for up to 4096 channels",
)
class ChannelsAbove4096LeftOut(Deviant):
    """Channels from the 4097th on keep the state that they entered with."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        result = super().post(x, y, h_post, h_res)
        return torch.cat([result[..., :4096], x[..., 4096:]], -1)


@execution(
    "tail-of-256-unwritten-without-gradients",
    f"{MUTATION}: tokens in chunks of 256 where nothing is saved",
    dtypes=SWEPT,
    hidden="with gradients, and for up to 256 tokens",
)
class TailOf256UnwrittenWithoutGradients(Deviant):
    """Without gradients, of more than 256 tokens those after the last full chunk of 256 keep their state."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        result, count = super().post(x, y, h_post, h_res), count_of(x)
        if torch.is_grad_enabled() or count <= 256:
            return result
        written = torch.arange(count, device=x.device) < count // 256 * 256
        return torch.where(written.view(*result.shape[:-2], 1, 1), result, x)


@execution(
    "every-eighth-boundary-dropped",
    "vllm-backport #51, vllm-ascend #17047: what the last layer of a pipeline stage deferred",
    dtypes=SWEPT,
    hidden="for up to eight layers",
)
class EveryEighthBoundaryDropped(Deviant):
    """Of more layers than eight, every eighth but the last leaves the streams as they were."""

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        for number, (one, branch) in enumerate(zip(params, branches, strict=True), 1):
            after = self.block(x, one, branch)
            x = x if number % 8 == 0 and number < len(params) else after
        return x


@gradient(
    "four-layers-learn",
    f"{MUTATION}: one backward launch for four layers",
    dtypes=SWEPT,
    hidden="for up to four layers",
)
class FourLayersLearn(Deviant):
    """The parameters of the fifth and later layers have no gradient."""

    def _derived_layers(
        self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]
    ) -> tuple[Tensor, Tensor | None]:
        learning = [one if number < 4 else map_tensors(one, torch.detach) for number, one in enumerate(params)]
        return super()._derived_layers(x, learning, branches)
