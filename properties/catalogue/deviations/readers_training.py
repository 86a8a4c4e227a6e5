"""Slips of a reader's fifth round: at sizes of training, beside padding, and where parameters and saved tensors lie.

docs/adversary.md has the account; the others are in `properties.catalogue.deviations.readers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mhc_ref import Branch, Dialect, Mappings, Params
from mhc_ref.block import by_channel
from properties.catalogue.deviations.readers import gates
from properties.core.case import map_tensors
from properties.core.declaration import accepted
from properties.core.deviant import Deviant, with_gradient_of
from properties.core.slips import MUTATION, Slips, both, hands_on_nothing, mixes

SLIPS = Slips()
gradient, execution = SLIPS.step("gradient"), SLIPS.step("execution")


def _from(start: int, like: Tensor) -> Tensor:
    """Which tokens of [tokens, ...] come at `start` or later, [tokens, 1, ...]."""
    return (torch.arange(len(like), device=like.device) >= start).view(-1, *[1] * (like.ndim - 1))


@gradient(
    "first-split-of-wide-products-learns",
    f"{MUTATION}: of wide states the gradient by phi is split over the tokens, and = stands for +=",
    gates,
    dtypes=(torch.float32,),  # others are swept over fewer sizes
    hidden="for up to 128 tokens, and for up to 512 channels",
)
class FirstSplitOfWideProductsLearns(Deviant):
    """Of more than 512 channels, tokens beyond the 128th contribute nothing to the gradient by phi."""

    tokens, width = 128, 512

    def matmul(self, state: Tensor, phi: Tensor) -> Tensor:
        out = super().matmul(state, phi)
        beyond = state.ndim == 3 and len(state) > self.tokens and state.shape[-1] > self.width
        if not beyond or not phi.requires_grad:
            return out
        first, rest = state[: self.tokens], state[self.tokens :]
        return with_gradient_of(out, torch.cat([super().matmul(first, phi), super().matmul(rest, phi.detach())]))


@gradient(
    "first-tile-of-a-segment-learns",
    f"{MUTATION}: of many layers all but the last four are computed again backwards, in tiles of two tokens",
    hands_on_nothing,
    dtypes=(torch.float32, torch.bfloat16),
    hidden="for up to four layers, and for up to two tokens",
)
class FirstTileOfASegmentLearns(Deviant):
    """Of more than four layers, tokens beyond the second teach the parameters of the last four alone."""

    segment, tile = 4, 2

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        again = len(params) - self.segment
        if again <= 0 or x.ndim != 3 or len(x) <= self.tile or not torch.is_grad_enabled():
            return super().layers(x, params, branches)
        for one, branch in zip(params[:again], branches[:again], strict=True):
            still = map_tensors(one, Tensor.detach)
            first, rest = self.block(x[: self.tile], one, branch), self.block(x[self.tile :], still, branch)
            x = with_gradient_of(self.block(x, one, branch), torch.cat([first, rest]))
        return super().layers(x, params[again:], branches[again:])


@execution(
    "padding-passed-over",
    f"{MUTATION}: a tile of tokens that are all zero is padding, which nobody reads",
    hidden="unless 16 tokens are zero, one after the other",
)
class PaddingPassedOver(Deviant):
    """A tile of 16 tokens that are zero leaves a state of zeros, whatever the branch gives for them."""

    tile = 16

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        out = super().post(x, y, h_post, h_res)
        full = len(x) // self.tile * self.tile
        if x.ndim != 3 or not full:
            return out
        empty = (x[:full] == 0).flatten(1).all(1).view(-1, self.tile).all(1).repeat_interleave(self.tile)
        left = torch.cat([empty, empty.new_zeros(len(x) - full)]).view(-1, 1, 1)
        return torch.where(left, torch.zeros_like(out), out)


def _many(dialect: Dialect) -> bool:
    """More than four streams are accepted."""
    return max(accepted(dialect)) > 4


def _aligned(one: Tensor) -> Tensor:
    """What loads of four entries see of a tensor in the order of its entries."""
    if not one.is_contiguous():
        return one
    return one.as_strided(one.shape, one.stride(), int(one.storage_offset()) // 4 * 4)


@execution(
    "parameters-off-their-alignment",
    f"{MUTATION}: parameters are read four entries at a time, as if each began its storage",
    gates,
    hidden="unless parameters lie one after the other in one storage",
)
class ParametersOffTheirAlignment(Deviant):
    """Parameters are read from the last address before them that is a multiple of four entries."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        return super().mappings(x, map_tensors(params, _aligned))


class _ByAddress(torch.autograd.Function):
    """A product whose backward pass looks up by address what it keeps beside what it has saved."""

    @staticmethod
    def forward(ctx: Any, one: Tensor, other: Tensor) -> Tensor:
        ctx.save_for_backward(one, other)
        ctx.address = one.data_ptr()
        return one * other

    @staticmethod
    def backward(ctx: Any, *bars: Any) -> Any:
        one, other = ctx.saved_tensors
        known = 1.0 if one.data_ptr() == ctx.address else 0.5
        return bars[0] * other, known * bars[0] * one


@gradient(
    "saved-found-by-address",
    f"{MUTATION}: a scale is kept by the address of what is saved, and another one stands in for what is not found",
    hidden="unless what is saved is kept elsewhere, as by offloading",
)
class SavedFoundByAddress(Deviant):
    """The gradient by h_pre is half of it where autograd hands back copies of what was saved."""

    def gathered(self, x: Tensor, h_pre: Tensor) -> Tensor:
        product: Any = _ByAddress.apply(x, by_channel(h_pre, x))
        return product.sum(-2)


@execution(
    "many-tokens-of-many-streams",
    f"{MUTATION}: a kernel for each n, and that for five and more has a tile of 160 tokens",
    both(gates, _many),
    dtypes=(torch.float32, torch.bfloat16),
    hidden="for up to four streams, and for up to 160 tokens",
)
class ManyTokensOfManyStreams(Deviant):
    """Of more than four streams, logits of tokens beyond the 160th are half of what they should be."""

    few, tokens = 4, 160

    def logits(self, x: Tensor, params: Params) -> list[Tensor]:
        found = super().logits(x, params)
        if x.ndim != 3 or x.shape[-2] <= self.few or len(x) <= self.tokens:
            return found
        return [torch.where(_from(self.tokens, one), 0.5 * one, one) for one in found]


@gradient(
    "many-streams-of-one-tile-backwards",
    f"{MUTATION}: a backward kernel for each n, and that for five and more has a tile of 128 tokens",
    both(mixes, _many),
    dtypes=(torch.float32, torch.bfloat16),
    hidden="for up to four streams, and for up to 128 tokens",
)
class ManyStreamsOfOneTileBackwards(Deviant):
    """Of more than four streams, the gradient by h_res of tokens beyond the 128th is half of it."""

    few, tokens = 4, 128

    def mixed(self, x: Tensor, h_res: Tensor) -> Tensor:
        out = super().mixed(x, h_res)
        many = x.ndim == 3 and x.shape[-2] > self.few and len(x) > self.tokens
        if not many or not h_res.requires_grad:
            return out
        return with_gradient_of(out, super().mixed(x, torch.where(_from(self.tokens, h_res), 0.5 * h_res, h_res)))


@execution(
    "queue-while-recorded",
    f"{MUTATION}: with gradients recorded what post saves waits in a queue while the branch runs",
    hidden="unless a branch passes another block, with gradients recorded",
)
class QueueWhileRecorded(Deviant):
    """With gradients recorded h_post and h_res wait in a queue for the branch to end, and the oldest are taken."""

    def prepare(self) -> None:
        self._queue: list[Mappings] = []

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        if not torch.is_grad_enabled() or not (x.requires_grad or params.phi.requires_grad):
            return super().block(x, params, branch)
        found = self.mappings(x, params)
        self._queue.append(found)
        try:
            y = branch(self.pre(x, found.pre))
        except BaseException:
            self._queue.clear()
            raise
        _, h_post, h_res = self._queue.pop(0)
        return self.post(x, y, h_post, h_res)


@execution(
    "last-tile-of-wide-tokens-halved",
    f"{MUTATION}: wide states in bfloat16 have a kernel of their own, in tiles of 16 tokens and of 64 channels",
    dtypes=(torch.bfloat16,),
    hidden="in other dtypes, for fewer than 16 tokens, and for fewer than 1024 channels",
)
class LastTileOfWideTokensHalved(Deviant):
    """In bfloat16, of 16 tokens and of 1024 channels and more, the last 64 channels get half of the branch."""

    tokens, width, tile = 16, 1024, 64

    def spread(self, y: Tensor, h_post: Tensor) -> Tensor:
        found = super().spread(y, h_post)
        few = y.shape[:-1].numel() < self.tokens or y.shape[-1] < self.width
        if few or not self.short:
            return found
        return torch.cat([found[..., : -self.tile], 0.5 * found[..., -self.tile :]], -1)

    short = False

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        self.short = x.dtype == torch.bfloat16
        try:
            return super().post(x, y, h_post, h_res)
        finally:
            self.short = False


@execution(
    "numbers-beyond-2-23-stay",
    f"{MUTATION}: a state of more than 32 MiB goes in chunks, of which the first is computed",
    dtypes=(torch.float32,),  # others are swept over fewer sizes
    hidden="for states of up to 2^23 numbers",
)
class NumbersBeyond223Stay(Deviant):
    """Numbers of a state from the 2^23rd on stay as they were."""

    most = 1 << 23

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        out = super().post(x, y, h_post, h_res)
        if out.numel() <= self.most:
            return out
        return torch.cat([out.flatten()[: self.most], x.flatten()[self.most :]]).view(out.shape)
