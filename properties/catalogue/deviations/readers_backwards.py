"""Slips of a reader's ninth round: how a cotangent lies, and what comes between a forward pass and its backward pass.

docs/adversary.md has the account.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from properties.core.deviant import Deviant
from properties.core.slips import MUTATION, Slips, mixes, reads_by_gates

SLIPS = Slips()
gradient = SLIPS.step("gradient")


class _Handing(torch.autograd.Function):
    """Its argument, whose cotangent is read in another way."""

    @staticmethod
    def forward(ctx: Any, out: Tensor, read: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.read = read
        return out.clone()

    @staticmethod
    def backward(ctx: Any, *bars: Any) -> Any:
        return ctx.read(bars[0]), None


def _handing(out: Tensor, read: Callable[[Tensor], Tensor]) -> Tensor:
    """The same, whose cotangent is read so where a gradient is recorded."""
    handed: Any = _Handing.apply(out, read) if out.requires_grad else out
    return handed


# -- how a cotangent lies ----------------------------------------------------------------------------------------------


def _dense(bar: Tensor) -> bool:
    """Whether its entries fill their memory, in whatever order."""
    lie = sorted((stride, size) for stride, size in zip(bar.stride(), bar.shape, strict=True) if size > 1)
    filled = 1
    for stride, size in lie:
        if stride != filled:
            return False
        filled *= size
    return True


def _as_it_lies(bar: Tensor) -> Tensor:
    """The entries of a dense tensor in the order of their memory, whatever its strides say."""
    if bar.is_contiguous() or not _dense(bar):
        return bar
    return bar.as_strided(bar.shape, torch.empty(bar.shape, device="meta").stride())


@gradient(
    "dense-cotangent-read-as-it-lies",
    f"{MUTATION}: whether memory is filled was asked for, and what a permuted tensor fills is filled",
    hidden="unless the axes of a cotangent lie in another order",
)
class DenseCotangentReadAsItLies(Deviant):
    """A cotangent of the next state whose axes lie in memory in another order is read as if it were contiguous."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        return _handing(super().post(x, y, h_post, h_res), _as_it_lies)


@gradient(
    "dense-cotangent-of-128-channels-read-as-it-lies",
    f"{MUTATION}: the loads of a kernel for wide states take the order of memory for that of the axes",
    dtypes=(torch.float32,),  # others are swept over fewer sizes
    hidden="unless the axes of a cotangent lie in another order, and for up to 128 channels or 16 tokens",
)
class DenseCotangentOf128ChannelsReadAsItLies(DenseCotangentReadAsItLies):
    """As it lies a cotangent is read that has more than 128 channels and 16 tokens."""

    width, tile = 128, 16

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        if x.shape[-1] > self.width and x.shape[:-2].numel() > self.tile:
            return super().post(x, y, h_post, h_res)
        return Deviant.post(self, x, y, h_post, h_res)


def _read_on(bar: Tensor) -> Tensor:
    """A cotangent expanded along its channels alone, read on from its first entry; behind its end zeros are."""
    if bar.shape[-1] < 2 or bar.stride(-1) or not all(bar.stride()[:-1]):
        return bar
    first = bar[..., 0].flatten()
    return torch.cat([first, first.new_zeros(bar.numel() - first.numel())]).view(bar.shape)


@gradient(
    "full-tiles-read-an-expanded-cotangent-on",
    f"{MUTATION}: what describes a full tile to the hardware has no stride for its innermost axis",
    dtypes=(torch.float32,),  # others are swept over fewer sizes
    hidden="unless a cotangent is expanded along its channels alone, and there are full tiles of 64 by 64",
)
class FullTilesReadAnExpandedCotangentOn(Deviant):
    """Of full tiles of 64 tokens and 64 channels, a cotangent expanded along its channels alone is read on from its
    first entry."""

    tile = 64

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        out = super().post(x, y, h_post, h_res)
        full = x.numel() and not x.shape[:-2].numel() % self.tile and not x.shape[-1] % self.tile
        return _handing(out, _read_on) if full else out


def _first_stream(bar: Tensor) -> Tensor:
    """A cotangent expanded along its streams alone, of which the first is passed over."""
    if bar.ndim < 3 or bar.shape[-2] < 2 or bar.stride(-2) or not (bar.stride(-1) and bar.stride(0)):
        return bar
    return torch.cat([torch.zeros_like(bar[..., :1, :]), bar[..., 1:, :]], -2)


@gradient(
    "cotangent-of-one-stream-advances",
    f"{MUTATION}: what sum() over the streams hands back is recognised, and the loop over streams begins at the second",
    hidden="unless a cotangent is expanded along its streams alone",
)
class CotangentOfOneStreamAdvances(Deviant):
    """Of a cotangent that is one stream, expanded over all of them, the first stream is passed over."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        return _handing(super().post(x, y, h_post, h_res), _first_stream)


# -- what comes between a forward pass and its backward pass -----------------------------------------------------------


class _Kept(torch.autograd.Function):
    """h_res x of each token, whose backward pass finds h_res where it was kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, h_res: Tensor, kept: Callable[[], Tensor]) -> Tensor:
        ctx.save_for_backward(x, h_res)
        ctx.kept = kept
        return h_res @ x

    @staticmethod
    def backward(ctx: Any, *bars: Any) -> Any:
        x, _ = ctx.saved_tensors
        return ctx.kept().mT @ bars[0], bars[0] @ x.mT, None


class _Keeping(Deviant):
    """The streams are mixed by a product that keeps h_res for its backward pass outside of the graph."""

    few = 0
    """For more tokens than so many."""

    def mixed(self, x: Tensor, h_res: Tensor) -> Tensor:
        recorded = torch.is_grad_enabled() and (x.requires_grad or h_res.requires_grad)
        if x.ndim < 3 or x.shape[:-2].numel() <= self.few:
            return super().mixed(x, h_res)
        if not recorded:
            self.quiet(h_res)
            return super().mixed(x, h_res)
        operator = h_res.mT if self.computed.transposed else h_res
        found: Any = _Kept.apply(x, operator, self.kept(operator.detach()))
        return found

    def kept(self, operator: Tensor) -> Callable[[], Tensor]:
        """How a backward pass finds it."""
        raise NotImplementedError

    def quiet(self, h_res: Tensor) -> None:
        """What a call does that is not recorded."""


@gradient(
    "quiet-call-overwrites-what-is-saved",
    f"{MUTATION}: who records gets a workspace of its own, and who does not takes the last one, which is in use",
    mixes,
    hidden="unless a call that records nothing comes between a forward pass and its backward pass",
)
class QuietCallOverwritesWhatIsSaved(_Keeping):
    """A call without gradients writes its h_res where the last recorded call keeps its own."""

    def prepare(self) -> None:
        self._last: list[Tensor] = []

    def kept(self, operator: Tensor) -> Callable[[], Tensor]:
        own = operator.clone(memory_format=torch.contiguous_format)
        self._last[:] = [own]
        return lambda: own

    def quiet(self, h_res: Tensor) -> None:
        for own in self._last:
            few = min(own.numel(), h_res.numel())
            with torch.no_grad():
                own.view(-1)[:few] = h_res.detach().reshape(-1)[:few].to(own)


@gradient(
    "quiet-call-of-many-tokens-overwrites-what-is-saved",
    f"{MUTATION}: beyond a tile of tokens a workspace is worth its while, and evaluation shares that of training",
    mixes,
    dtypes=(torch.float32,),  # others are swept over fewer sizes
    hidden="unless a call that records nothing comes between the passes, and for up to 128 tokens",
)
class QuietCallOfManyTokensOverwritesWhatIsSaved(QuietCallOverwritesWhatIsSaved):
    """Without gradients, the h_res of more than 128 tokens is written where the last recorded call keeps its own."""

    few = 128


@gradient(
    "what-is-saved-belongs-to-a-thread",
    f"{MUTATION}: what is saved lies on a stack that is local to a thread, so that threads do not mix up their layers",
    mixes,
    hidden="while a backward pass runs in the thread of its forward pass",
)
class WhatIsSavedBelongsToAThread(_Keeping):
    """In another thread than that of its forward pass, a backward pass finds the h_res that was saved last there, and
    without one hands back zeros."""

    def prepare(self) -> None:
        self._local = threading.local()

    def kept(self, operator: Tensor) -> Callable[[], Tensor]:
        local, own = self._local, operator.clone()
        local.last, forth = own, threading.get_ident()
        alive = local.__dict__.setdefault("alive", object())

        def found() -> Tensor:
            if threading.get_ident() == forth and local.__dict__.get("alive") is alive:
                return own
            last = getattr(local, "last", None)
            return last if last is not None and last.shape == own.shape else torch.zeros_like(own)

        return found


@gradient(
    "many-tokens-saved-belong-to-a-thread",
    f"{MUTATION}: beyond a tile of tokens what is saved is recycled, by a pool that each thread has for itself",
    mixes,
    dtypes=(torch.float32,),  # others are swept over fewer sizes
    hidden="while a backward pass runs in the thread of its forward pass, and for up to 128 tokens",
)
class ManyTokensSavedBelongToAThread(WhatIsSavedBelongsToAThread):
    """In another thread than that of its forward pass, a backward pass of more than 128 tokens finds another h_res."""

    few = 128


@gradient(
    "workspace-released-by-the-first-backward-pass",
    f"{MUTATION}: a backward pass gives its workspace back to the pool, and a graph that is kept has another",
    mixes,
    hidden="unless a call comes between two backward passes of one graph",
)
class WorkspaceReleasedByTheFirstBackwardPass(_Keeping):
    """Once a backward pass is over, what it read is where the next recorded call of that shape keeps its h_res."""

    def prepare(self) -> None:
        self._free: list[Tensor] = []

    def kept(self, operator: Tensor) -> Callable[[], Tensor]:
        fits = next((one for one in self._free if one.shape == operator.shape and one.dtype == operator.dtype), None)
        self._free[:] = [one for one in self._free if one is not fits]
        own = operator.clone() if fits is None else fits.copy_(operator)

        def found() -> Tensor:
            self._free[:] = [own]
            return own.clone()

        return found


class _OfOutput(torch.autograd.Function):
    """Its argument, whose backward pass goes by what it gave, as it is by then."""

    @staticmethod
    def forward(ctx: Any, out: Tensor) -> Tensor:
        ctx.before, ctx.own = out.clone(), out.clone()
        return ctx.own.detach()

    @staticmethod
    def backward(ctx: Any, *bars: Any) -> Any:
        return torch.where(ctx.own == ctx.before, bars[0], bars[0] * ctx.own)


@gradient(
    "output-kept-beside-the-graph",
    f"{MUTATION}: the derivative is made of the output, which is an attribute and not saved for the backward pass",
    mixes,
    hidden="unless who called writes to h_res before the backward pass",
)
class OutputKeptBesideTheGraph(Deviant):
    """The gradient of h_res is made of h_res as it is by then, and autograd is not told that it was written to."""

    def project(self, logits: Tensor) -> Tensor:
        out: Any = super().project(logits)
        return _OfOutput.apply(out) if out.requires_grad else out


class _Spent(torch.autograd.Function):
    """Its argument, whose backward pass works where its output was."""

    @staticmethod
    def forward(ctx: Any, out: Tensor) -> Tensor:
        ctx.own = out.clone()
        return ctx.own.detach()

    @staticmethod
    def backward(ctx: Any, *bars: Any) -> Any:
        return ctx.own.copy_(bars[0]).clone()


@gradient(
    "output-spent-by-the-backward-pass",
    f"{MUTATION}: by then who read the output has had its own backward pass, so that its memory serves as a workspace",
    reads_by_gates,
    hidden="unless who called looks at the output after the backward pass",
)
class OutputSpentByTheBackwardPass(Deviant):
    """After a backward pass, what the branch read is the cotangent of that."""

    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        out: Any = super().pre(x, h_pre)
        return _Spent.apply(out) if out.requires_grad else out
