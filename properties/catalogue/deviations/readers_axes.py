"""Slips of a reader's eighth round: where tokens lie on two axes, in sequences, and in a step of decoding.

docs/adversary.md has the account; the others are in `properties.catalogue.deviations.readers_crowds`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mhc_ref import Branch, Dialect, Mappings, Params
from properties.catalogue.deviations.readers import gates
from properties.core.deviant import Deviant
from properties.core.family import mix_of
from properties.core.slips import MUTATION, Slips, both, hands_on_nothing, reads_by_gates

SLIPS = Slips()
gradient, execution = SLIPS.step("gradient"), SLIPS.step("execution")


def _decodes(x: Tensor) -> bool:
    """Whether a state is that of a step of decoding, [B, 1, n, C]."""
    return x.ndim == 4 and x.shape[1] == 1


def _iterates(dialect: Dialect) -> bool:
    """h_res is made in more than three iterations."""
    return mix_of(dialect).guarantees(dialect).alternating and dialect.iterations > 3


@execution(
    "three-iterations-of-decoding-in-inference-mode",
    f"{MUTATION}: serving decodes in inference mode, and three iterations were near enough for its tests",
    _iterates,
    hidden="unless every sequence has one token, in inference mode",
)
class ThreeIterationsOfDecodingInInferenceMode(Deviant):
    """In torch.inference_mode a step of decoding, [B, 1, n, C], makes three iterations."""

    few = 3

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        found = super().mappings(x, params)
        if not torch.is_inference_mode_enabled() or not _decodes(x):
            return found
        fewer = Deviant(self.computed.with_(iterations=self.few))
        return found._replace(res=fewer.mappings(x, params).res)


@execution(
    "transposed-phi-on-two-axes",
    f"{MUTATION}: a batched product takes the strides of its batch, and none of phi",
    gates,
    hidden="for a phi that is contiguous, and while tokens lie on one axis",
)
class TransposedPhiOnTwoAxes(Deviant):
    """Where tokens lie on two axes, a phi that lies transposed is read as if it were contiguous."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        rows, columns = params.phi.shape
        if x.ndim == 4 and params.phi.stride() == (1, rows) and min(rows, columns) > 1:
            params = params._replace(phi=params.phi.as_strided((rows, columns), (columns, 1)))
        return super().mappings(x, params)


@execution(
    "sequences-from-the-fifth-on-stay",
    f"{MUTATION}: a grid over sequences ends at four of them, as every test had",
    dtypes=(torch.float32,),  # others are swept over fewer sizes
    hidden="for up to four sequences, and for up to two tokens in each",
)
class SequencesFromTheFifthOnStay(Deviant):
    """Of more than four sequences of three tokens and more, those from the fifth on stay as they were."""

    most, tokens = 4, 2

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        out = super().post(x, y, h_post, h_res)
        if x.ndim != 4 or x.shape[0] <= self.most or x.shape[1] <= self.tokens:
            return out
        return torch.cat([out[: self.most], x[self.most :]])


def _finite(one: Tensor) -> Tensor:
    return torch.where(torch.isfinite(one), one, torch.zeros_like(one))


@execution(
    "nan-hidden-in-decoding",
    f"{MUTATION}: rows of a kernel for decoding are masked by a comparison, which a NaN fails",
    reads_by_gates,
    hidden="unless every sequence has one token, and while all is finite",
)
class NanHiddenInDecoding(Deviant):
    """In a step of decoding, [B, 1, n, C], what is not finite is read as 0."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        return super().mappings(_finite(x) if _decodes(x) else x, params)

    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        return super().pre(_finite(x) if _decodes(x) else x, h_pre)

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        if _decodes(x):
            x, y = _finite(x), _finite(y)
        return super().post(x, y, h_post, h_res)


class _Prompted(torch.autograd.Function):
    """The identity, whose backward pass ends where the first tile of tokens has no cotangent."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, tile: int) -> Tensor:
        ctx.tile = tile
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *bars: Any) -> Any:
        (bar,) = bars
        first = bar.flatten(0, -3)[: ctx.tile]
        more = bar.shape[:-2].numel() > ctx.tile
        return (torch.zeros_like(bar) if more and not bool(first.any()) else bar), None


@gradient(
    "masked-prompt-ends-the-backward-pass",
    f"{MUTATION}: a launch is passed over if its first tile has nothing to hand back, as masked prompts have",
    dtypes=(torch.float32,),  # others are swept over fewer sizes
    hidden="unless the first 16 tokens have no cotangent, and others have one",
)
class MaskedPromptEndsTheBackwardPass(Deviant):
    """Where the first 16 tokens have no cotangent, the mixing of the streams hands none back for any token."""

    tile = 16

    def mixed(self, x: Tensor, h_res: Tensor) -> Tensor:
        if not x.requires_grad or x.ndim < 3:
            return super().mixed(x, h_res)
        handed: Any = _Prompted.apply(x, self.tile)
        return super().mixed(handed, h_res)


@execution(
    "expanded-sequences-are-written-once",
    f"{MUTATION}: the output has the strides of the state, and is where every sequence lies in the same place",
    hidden="unless one sequence is expanded over a batch",
)
class ExpandedSequencesAreWrittenOnce(Deviant):
    """Of one sequence that is expanded over a batch the first copy is mixed, and the others stay as they were."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        out = super().post(x, y, h_post, h_res)
        if x.ndim != 4 or x.shape[0] < 2 or x.stride(0) or not x.numel():
            return out
        return torch.cat([out[:1], x[1:]])


@gradient(
    "layers-on-two-axes-teach-64-channels",
    f"{MUTATION}: the backward launch of fused layers on a batch is for one tile of channels",
    hands_on_nothing,
    dtypes=(torch.float32,),  # others are swept over fewer sizes
    hidden="for up to 64 channels, and while tokens lie on one axis",
)
class LayersOnTwoAxesTeach64Channels(Deviant):
    """Of layers on tokens that lie on two axes, channels beyond the 64th hand no gradient back."""

    tile = 64

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        out = super().layers(x, params, branches)
        if x.ndim != 4 or x.shape[-1] <= self.tile:
            return out
        return torch.cat([out[..., : self.tile], out[..., self.tile :].detach()], -1)


@gradient(
    "one-sequence-learns-beside-frozen-parameters",
    f"{MUTATION}: without sums over tokens to make, the grid of a backward launch has no axis of sequences",
    both(gates, reads_by_gates),
    hidden="unless parameters are frozen, and there are several sequences",
)
class OneSequenceLearnsBesideFrozenParameters(Deviant):
    """Beside frozen parameters, sequences of a batch but the first get no gradient through the logits."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        asked = any(part.requires_grad for part in params if isinstance(part, Tensor))
        if x.ndim == 4 and len(x) > 1 and x.requires_grad and not asked:
            x = torch.cat([x[:1], x[1:].detach()])
        return super().mappings(x, params)


@execution(
    "tokens-after-padding-are-padding",
    f"{MUTATION}: a kernel takes the first tile of a sequence for the whole of it, and that is padded on the left",
    dtypes=(torch.float32,),  # others are swept over fewer sizes
    hidden="unless the first 16 tokens of a sequence are zero, and for up to 16 tokens",
)
class TokensAfterPaddingArePadding(Deviant):
    """A sequence that begins with a tile of zeros is mapped as if all of it were zero."""

    tile = 16

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        if x.ndim < 3 or x.shape[-3] <= self.tile:
            return super().mappings(x, params)
        padded = (x.detach()[..., : self.tile, :, :] == 0).flatten(-3).all(-1)
        return super().mappings(torch.where(padded[..., None, None, None], torch.zeros_like(x), x), params)
