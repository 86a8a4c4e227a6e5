"""Slips of a reader's seventh round: what is done with outputs, and how a call is made, where sizes are large.

docs/adversary.md has the account; the others are in `properties.catalogue.deviations.readers_many`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mhc_ref import Branch, Dialect, Mappings, Params
from properties.catalogue.deviations.readers import gates
from properties.core.declaration import accepted
from properties.core.deviant import Deviant
from properties.core.slips import MUTATION, Slips, both, hands_on_nothing, mixes, reads_by_gates

SLIPS = Slips()
gradient, execution = SLIPS.step("gradient"), SLIPS.step("execution")


def _eight(dialect: Dialect) -> bool:
    """More than four streams are accepted."""
    return any(n > 4 for n in accepted(dialect))


@execution(
    "step-of-128-channels",
    f"{MUTATION}: a kernel for decoding has a program for each sequence, and a block of 128 lanes",
    reads_by_gates,
    dtypes=(torch.float32,),  # others are swept over fewer sizes
    hidden="unless every sequence has one token, and for up to 128 channels",
)
class StepOf128Channels(Deviant):
    """In a step of decoding, [B, 1, n, C], a branch reads zeros in channels beyond the 128th."""

    lanes = 128

    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        out = super().pre(x, h_pre)
        if x.ndim != 4 or x.shape[1] != 1 or x.shape[-1] <= self.lanes:
            return out
        return torch.cat([out[..., : self.lanes], torch.zeros_like(out[..., self.lanes :])], -1)


class _OfASum(torch.autograd.Function):
    """Its argument, whose cotangent is broadcast in one tile of tokens if all of its strides are 0."""

    @staticmethod
    def forward(ctx: Any, out: Tensor, tile: int) -> Tensor:
        ctx.tile = tile
        return out.clone()

    @staticmethod
    def backward(ctx: Any, *bars: Any) -> Any:
        (bar,) = bars
        if len(bar) <= ctx.tile or any(bar.stride()):
            return bar, None
        return torch.cat([bar[: ctx.tile], torch.zeros_like(bar[ctx.tile :])]), None


@gradient(
    "cotangent-of-a-sum-in-one-tile",
    f"{MUTATION}: a cotangent of strides 0 has a path of its own, whose loop over tiles advances by the stride",
    hidden="unless outputs are added up, and for up to 16 tokens",
)
class CotangentOfASumInOneTile(Deviant):
    """Of an expanded cotangent, as sum() hands one back, tokens beyond the 16th have zeros."""

    tile = 16

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        out: Any = super().post(x, y, h_post, h_res)
        return _OfASum.apply(out, self.tile) if out.requires_grad and out.ndim == 3 else out


class _Consumed(torch.autograd.Function):
    """Its argument; a second backward pass of many tokens finds what was saved overwritten."""

    @staticmethod
    def forward(ctx: Any, out: Tensor, few: int) -> Tensor:
        ctx.few, ctx.used = few, False
        return out.clone()

    @staticmethod
    def backward(ctx: Any, *bars: Any) -> Any:
        (bar,) = bars
        again, ctx.used = ctx.used, True
        return (torch.zeros_like(bar) if again and bar.shape[:-1].numel() > ctx.few else bar), None


@gradient(
    "second-backward-of-many-tokens-is-zero",
    f"{MUTATION}: a backward pass of many tokens takes what was saved for its workspace",
    reads_by_gates,
    hidden="unless a graph is pulled back through twice, and for up to 32 tokens",
)
class SecondBackwardOfManyTokensIsZero(Deviant):
    """A second backward pass through what a branch of more than 32 tokens has read gives zeros."""

    few = 32

    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        out: Any = super().pre(x, h_pre)
        return _Consumed.apply(out, self.few) if out.requires_grad else out


class _OneUsed(torch.autograd.Function):
    """The mappings; of one that is used alone the first tile of tokens has a gradient."""

    @staticmethod
    def forward(ctx: Any, tile: int, *mappings: Tensor) -> Any:
        ctx.set_materialize_grads(False)
        ctx.tile = tile
        return tuple(one.clone() for one in mappings)

    @staticmethod
    def backward(ctx: Any, *bars: Any) -> Any:
        used = [bar for bar in bars if bar is not None]
        if len(used) != 1 or len(used[0]) <= ctx.tile:
            return None, *bars
        return None, *(None if bar is None else _first(bar, ctx.tile) for bar in bars)


def _first(bar: Tensor, tile: int) -> Tensor:
    return torch.cat([bar[:tile], torch.zeros_like(bar[tile:])])


@gradient(
    "one-mapping-of-a-tile-learns",
    f"{MUTATION}: where two of three cotangents are None, the launch has the grid of one tile",
    both(gates, mixes),
    dtypes=(torch.float32,),  # others are swept over fewer sizes
    hidden="unless one mapping is used alone, and for up to 64 tokens",
)
class OneMappingOfATileLearns(Deviant):
    """Where one of the mappings is used alone, tokens beyond the 64th have no gradient."""

    tile = 64

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        found = super().mappings(x, params)
        if x.ndim != 3 or not all(one.requires_grad for one in found):
            return found
        handed: Any = _OneUsed.apply(self.tile, *found)
        return Mappings(*handed)


def _read_on(branch: Branch, tile: int) -> Callable[[Tensor], Tensor]:
    """The branch, of whose output tokens beyond a tile are found as if rows were full."""

    def read(u: Tensor) -> Tensor:
        y = branch(u)
        width = y.shape[-1]
        if y.ndim != 2 or len(y) <= tile or y.stride(-1) != 1 or y.stride(0) <= width:
            return y
        rest = y[tile:]
        return torch.cat([y[:tile], rest.as_strided(rest.shape, (width, 1), int(rest.storage_offset()))])

    return read


@execution(
    "branch-rows-of-64-tokens",
    f"{MUTATION}: the first tile takes the stride of a row, and the loop over further ones the number of channels",
    dtypes=(torch.float32, torch.bfloat16),
    hidden="unless a branch returns a slice of wider rows, and for up to 64 tokens",
)
class BranchRowsOf64Tokens(Deviant):
    """What a branch returns as a slice of wider rows is read, beyond the 64th token, as if rows were full."""

    tile = 64

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        return super().block(x, params, _read_on(branch, self.tile))


def _lost(branch: Branch, u: Tensor) -> Tensor:
    """A branch that is called, and whose output is not read."""
    return torch.zeros_like(branch(u))


@execution(
    "branches-of-many-streams-end-after-twelve-layers",
    f"{MUTATION}: more than four streams leave room for the pointers of twelve branches",
    both(hands_on_nothing, _eight),
    dtypes=(torch.float32,),  # others are swept over fewer sizes
    hidden="for up to four streams, and for up to twelve layers",
)
class BranchesOfManyStreamsEndAfterTwelveLayers(Deviant):
    """Of more than four streams, what branches give from the 13th layer on is lost."""

    most, room = 4, 12

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        if x.shape[-2] > self.most:
            branches = [one if k < self.room else partial(_lost, one) for k, one in enumerate(branches)]
        return super().layers(x, params, branches)


@execution(
    "branches-end-after-24-layers-of-bfloat16",
    f"{MUTATION}: a table of short entries has the pointers of 24 branches",
    hands_on_nothing,
    dtypes=(torch.bfloat16,),
    hidden="in other dtypes, and for up to 24 layers",
)
class BranchesEndAfter24LayersOfBfloat16(Deviant):
    """In bfloat16, what branches give from the 25th layer on is lost."""

    room = 24

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        if x.dtype == torch.bfloat16:
            branches = [one if k < self.room else partial(_lost, one) for k, one in enumerate(branches)]
        return super().layers(x, params, branches)


@execution(
    "dead-channels-are-padding",
    f"{MUTATION}: a tile of channels in which no token has anything is taken for what is padded to full tiles",
    dtypes=(torch.float32, torch.bfloat16),
    hidden="unless 64 channels are zero in every token and stream",
)
class DeadChannelsArePadding(Deviant):
    """A tile of 64 channels that is zero in the state is zero after a block, whatever the branch gives."""

    tile = 64

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        out = super().post(x, y, h_post, h_res)
        if x.shape[-1] <= self.tile or not x.numel():
            return out
        alive = (x.detach() != 0).flatten(0, -2).any(0)
        tiles = [one.any().expand(len(one)) for one in alive.split(self.tile)]
        if not bool(alive.any()):  # padding of tokens is another matter
            return out
        return torch.where(torch.cat(tiles), out, torch.zeros_like(out))
