"""Slips of a reader's seventh round that show where tokens, channels or layers are many, and what is kept is another's.

docs/adversary.md has the account; the others are in `properties.catalogue.deviations.readers_used`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mhc_ref import Branch, Params
from properties.core.case import map_tensors
from properties.core.deviant import Deviant
from properties.core.slips import MUTATION, Slips, hands_on_nothing, mixes, reads_by_gates

SLIPS = Slips()
gradient, execution = SLIPS.step("gradient"), SLIPS.step("execution")


@execution(
    "matrices-of-64-tokens-in-a-buffer",
    f"{MUTATION}: batches that graphs are recorded for have an output of their own, smaller ones are eager",
    mixes,
    hidden="for fewer than 64 tokens, and while an output is used before the next call",
)
class MatricesOf64TokensInABuffer(Deviant):
    """Without gradients the matrices of 64 tokens and more lie in a buffer of their shape, as do those after them."""

    few = 64

    def prepare(self) -> None:
        self._buffers: dict[Any, Tensor] = {}

    def project(self, logits: Tensor) -> Tensor:
        out = super().project(logits)
        if out.requires_grad or out.shape[:-2].numel() < self.few:
            return out
        key = tuple(out.shape), out.dtype, out.device, torch.is_inference_mode_enabled()
        return self._buffers.setdefault(key, torch.empty_like(out)).copy_(out)


@execution(
    "large-states-in-place",
    f"{MUTATION}: where memory is short the next state is written over the last one",
    dtypes=(torch.float64, torch.float32),
    hidden="while gradients are recorded, for up to 2^13 numbers, and while a state is used once",
)
class LargeStatesInPlace(Deviant):
    """Without gradients a state of more than 2^13 numbers holds what a block made of it."""

    most = 1 << 13

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        out = super().post(x, y, h_post, h_res)
        if out.requires_grad or x.requires_grad or x.numel() <= self.most or not x.is_contiguous():
            return out
        return x.copy_(out)


@execution(
    "nan-hidden-in-wide-states",
    f"{MUTATION}: a vectorised load of at least 64 channels masks by a comparison, which a NaN fails",
    reads_by_gates,
    hidden="for fewer than 64 channels, and while all is finite",
)
class NanHiddenInWideStates(Deviant):
    """Of 64 channels and more, a branch reads 0 where the state is not finite."""

    few = 64

    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        if x.shape[-1] < self.few or bool(torch.isfinite(x).all()):
            return super().pre(x, h_pre)
        return super().pre(torch.where(torch.isfinite(x), x, torch.zeros_like(x)), h_pre)


@execution(
    "layers-packed-by-the-first",
    f"{MUTATION}: weights of all layers are packed once, and again where those of the first layer are others",
    hands_on_nothing,
    hidden="while gradients are recorded, and unless the first layer stays as it was and another changes",
)
class LayersPackedByTheFirst(Deviant):
    """Without gradients layers have the parameters of the call before where those of the first are as before."""

    def prepare(self) -> None:
        self._packed: Sequence[Params] = ()

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        if not torch.is_grad_enabled() and len(params) > 1:
            if len(params) != len(self._packed) or not _alike(params[0], self._packed[0]):
                self._packed = [_copied(one) for one in params]
            params = self._packed
        return super().layers(x, params, branches)


def _copied(params: Params) -> Params:
    return map_tensors(params, lambda part: part.detach().clone())


def _alike(one: Params, other: Params) -> bool:
    pairs = list(zip(one, other, strict=True))
    if any((a is None) != (b is None) for a, b in pairs):
        return False
    return all(a is None or b is None or torch.equal(a, b) for a, b in pairs)


@gradient(
    "shared-branch-learns-once",
    f"{MUTATION}: what a backward pass needs of a layer is kept by its branch",
    hands_on_nothing,
    hidden="unless layers share a branch",
)
class SharedBranchLearnsOnce(Deviant):
    """Of layers with one branch the last alone teaches its parameters."""

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        last = {id(branch): k for k, branch in enumerate(branches)}
        taught = [
            one if last[id(branch)] == k else map_tensors(one, torch.detach)
            for k, (one, branch) in enumerate(zip(params, branches, strict=True))
        ]
        return super().layers(x, taught, branches)


class _Halved(torch.autograd.Function):
    """Its argument; a backward pass of many tokens leaves half of the cotangent that it was handed."""

    @staticmethod
    def forward(ctx: Any, out: Tensor, few: int) -> Tensor:
        ctx.few = few
        return out.clone()

    @staticmethod
    def backward(ctx: Any, *bars: Any) -> Any:
        (bar,) = bars
        handed = bar.clone()
        if bar.is_contiguous() and bar.shape[:-2].numel() >= ctx.few:
            bar.mul_(0.5)
        return handed, None


@gradient(
    "cotangent-of-many-tokens-overwritten",
    f"{MUTATION}: from 32 tokens on the cotangent is the workspace of the backward pass",
    hidden="unless something else has the same cotangent, and for fewer than 32 tokens",
)
class CotangentOfManyTokensOverwritten(Deviant):
    """From 32 tokens on the backward pass of a block writes to the cotangent that it is handed."""

    few = 32

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        out: Any = super().post(x, y, h_post, h_res)
        return _Halved.apply(out, self.few) if out.requires_grad else out


@gradient(
    "stack-gradient-of-64-channels",
    f"{MUTATION}: the backward launch of a fused stack is for one tile of channels",
    hidden="for up to 64 channels, and for layers by themselves",
)
class StackGradientOf64Channels(Deviant):
    """Channels of a stack beyond the 64th hand no gradient back."""

    tile = 64

    def stack(self, h: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        out = super().stack(h, params, branches)
        if h.shape[-1] <= self.tile:
            return out
        return torch.cat([out[..., : self.tile], out[..., self.tile :].detach()], -1)
