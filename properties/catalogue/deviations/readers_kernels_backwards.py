"""Slips of readers who wrote a whole kernel and broke its branches, the thirteenth round: backwards.

docs/adversary.md has the account; the others are in `properties.catalogue.deviations.readers_kernels`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mhc_ref import Branch, Mappings, Params
from properties.catalogue.deviations.readers import gates
from properties.catalogue.deviations.readers_kernels import KERNEL, Handed, counted, handed, learns
from properties.core.case import map_tensors
from properties.core.declaration import accepted
from properties.core.deviant import Deviant, with_gradient_of
from properties.core.slips import Slips, both, by_rms, gated, hands_on_nothing, mixes

SLIPS = Slips()
gradient = SLIPS.step("gradient")
large = partial(gradient, dtypes=(torch.float32,))
"""Of sizes that other dtypes are not swept over."""

LARGE = 64
"""Tokens of a tile of a backward pass."""
SEGMENT = 8
"""Layers whose states are computed again together."""


def _permuted(one: Tensor) -> bool:
    """Whether its entries fill their memory, in another order than that of its axes."""
    lie = sorted((stride, size) for stride, size in zip(one.stride(), one.shape, strict=True) if size > 1)
    filled = all(stride == torch.Size(size for _, size in lie[:k]).numel() for k, (stride, _) in enumerate(lie))
    return filled and not one.is_contiguous()


def as_it_lies(bar: Tensor) -> Tensor:
    """The entries of a permuted tensor in the order of their memory."""
    if not _permuted(bar):
        return bar
    return bar.as_strided(bar.shape, torch.empty(bar.shape, device="meta").stride(), bar.storage_offset())


@gradient(
    "branch-input-cotangent-read-as-it-lies",
    f"{KERNEL}: what comes back from a branch is read flat by its pointer",
    hands_on_nothing,
    hidden="unless a branch permutes the axes of what it reads",
)
class BranchInputCotangentReadAsItLies(Deviant):
    """The gradient that comes back by what a branch has read is read as if it were contiguous."""

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        return super().block(x, params, lambda u: branch(handed(u, as_it_lies)))


@gradient(
    "branch-output-gradient-laid-out-as-the-output",
    f"{KERNEL}: the gradient by a branch output is allocated empty_like(y), and written flat",
    hands_on_nothing,
    hidden="unless what a branch returns lies in another order, and for one layer",
)
class BranchOutputGradientLaidOutAsTheOutput(Deviant):
    """Between layers, the gradient by a branch output is written flat into memory that lies as the output does."""

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        def laid_out(branch: Branch) -> Branch:
            def run(u: Tensor) -> Tensor:
                y = branch(u)
                shape, strides = y.shape, y.stride()
                return handed(y, lambda bar: bar.contiguous().as_strided(shape, strides)) if _permuted(y) else y

            return run

        return super().layers(x, params, [*map(laid_out, branches[:-1]), *branches[-1:]])


def _spent(bar: Tensor) -> Tensor:
    """A copy of what is scaled in place."""
    read = bar.clone()
    if bar.is_contiguous() and not torch.is_grad_enabled():
        bar.mul_(0.5)
    return read


@gradient(
    "branch-input-cotangent-scaled-in-place",
    f"{KERNEL}: what is left of a cotangent once it was read is workspace",
    hands_on_nothing,
    hidden="unless something else has the very gradient by what a branch has read, as w has in u + w",
)
class BranchInputCotangentScaledInPlace(Deviant):
    """The gradient that comes back by what a branch has read is scaled in place."""

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        return super().block(x, params, lambda u: branch(handed(u, _spent)))


@large(
    "empty-tiles-skipped-before-a-branch-that-mixes",
    f"{KERNEL}: a tile of tokens of which the state has no cotangent is skipped backwards",
    hands_on_nothing,
    hidden="unless 64 tokens in a row have no cotangent, and their branch mixes tokens",
)
class EmptyTilesSkippedBeforeABranchThatMixes(Deviant):
    """Nothing comes back from a branch for those tiles of 64 tokens whose states have no cotangent."""

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        empty: list[Tensor] = []

        def seen(bar: Tensor) -> Tensor:
            dead = ~bar.ne(0).flatten(-2).any(-1).flatten()
            empty[:] = [torch.cat([one.all().expand(len(one)) for one in dead.split(LARGE)])]
            return bar

        def skipped(bar: Tensor) -> Tensor:
            return bar.masked_fill(empty.pop().view(*bar.shape[:-1], 1), 0) if empty else bar

        return handed(super().block(x, params, lambda u: branch(handed(u, skipped))), seen)


class _Fused(Deviant):
    """Layers of which each mixing is one kernel with the mappings of the next layer."""

    mixes_fused = maps_fused = False

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        for k, (one, branch) in enumerate(zip(params, branches, strict=True)):
            layer = copy.copy(self)
            layer.mixes_fused, layer.maps_fused = k < len(branches) - 1, k > 0
            x = layer.block(x, one, branch)
        return x


@large(
    "last-512-channels-between-layers-teach",
    f"{KERNEL}: sums over channels between layers go by tiles of 512, with = for +=",
    mixes,
    hidden="for one layer, and for up to 512 channels",
)
class Last512ChannelsBetweenLayersTeach(_Fused):
    """Between layers, the gradient by h_res is a sum over the channels of the last tile of 512."""

    width = 512

    def mixed(self, x: Tensor, h_res: Tensor) -> Tensor:
        out = super().mixed(x, h_res)
        if not self.mixes_fused or x.shape[-1] <= self.width or not h_res.requires_grad:
            return out
        last = (x.shape[-1] - 1) // self.width * self.width
        first, rest = x[..., :last], x[..., last:]
        return with_gradient_of(out, torch.cat([super().mixed(first, h_res.detach()), super().mixed(rest, h_res)], -1))


@large(
    "five-streams-between-layers-learn-from-a-tile",
    f"{KERNEL}: beyond four streams tiles between layers are of 32 tokens, and the pointer to the state stays",
    both(mixes, lambda d: max(accepted(d)) > 4),
    hidden="for one layer, for up to four streams, and for up to 32 tokens",
)
class FiveStreamsBetweenLayersLearnFromATile(_Fused):
    """Between layers of more than four streams, the gradient by h_res is made of the states of the first 32 tokens."""

    tile = 32

    def mixed(self, x: Tensor, h_res: Tensor) -> Tensor:
        out = super().mixed(x, h_res)
        if not self.mixes_fused or x.shape[-2] <= 4 or counted(x) <= self.tile or not h_res.requires_grad:
            return out
        first = torch.arange(counted(x), device=x.device) % self.tile
        stale = x.detach().flatten(0, -3)[first].view(x.shape)
        return with_gradient_of(out, super().mixed(x, h_res.detach()) + super().mixed(stale, h_res))


class _Taught(Deviant):
    """Parameters that learn from some tokens alone."""

    few = 0

    def logits(self, x: Tensor, params: Params) -> list[Tensor]:
        found = super().logits(x, params)
        if not learns(params) or not self.partly(x):
            return found
        by_params: Any = Handed.apply(self._taught, *super().logits(x.detach(), params))
        pairs = zip(super().logits(x, map_tensors(params, torch.detach)), by_params, strict=True)
        return [with_gradient_of(one, a + b) for one, (a, b) in zip(found, pairs, strict=True)]

    def partly(self, x: Tensor) -> bool:
        """Whether parameters learn from some tokens of a state alone."""
        return counted(x) > self.few

    def _taught(self, *bars: Tensor) -> tuple[Tensor, ...]:
        """The cotangents of the logits, with zeros for tokens that nothing is learnt from."""
        flat = torch.cat([bar.flatten(0, -2) for bar in bars], -1)
        lost = ~self.teach(torch.arange(len(flat), device=flat.device), flat)
        return tuple(bar.masked_fill(lost.view(*bar.shape[:-1], 1), 0) for bar in bars)

    def teach(self, number: Tensor, bar: Tensor) -> Tensor:
        """Which tokens do, by their numbers and the cotangents of their logits."""
        raise NotImplementedError


@large(
    "second-round-of-programs-overwrites",
    f"{KERNEL}: 16 programs of 64 tokens add up gradients by parameters, with = for += in a second round",
    gates,
    hidden="for one layer, and for up to 1024 tokens",
)
class SecondRoundOfProgramsOverwrites(_Taught, _Fused):
    """In layers beyond the first, parameters learn nothing from the first 1024 of more tokens."""

    few = 1024

    def partly(self, x: Tensor) -> bool:
        return self.maps_fused and super().partly(x)

    def teach(self, number: Tensor, bar: Tensor) -> Tensor:
        return number >= self.few


@large(
    "remainder-of-capped-splits-is-lost",
    f"{KERNEL}: partial sums are capped by memory, and what splits do not divide is dropped",
    gates,
    hidden="for up to 1024 tokens, and for fewer than 4096 rows of phi",
)
class RemainderOfCappedSplitsIsLost(_Taught):
    """Of more than 1024 tokens and from K = 4096 on, parameters learn nothing from the last tile of 64."""

    few, rows = 1024, 4096

    def partly(self, x: Tensor) -> bool:
        return super().partly(x) and x.shape[-2:].numel() >= self.rows

    def teach(self, number: Tensor, bar: Tensor) -> Tensor:
        return number // LARGE < number[-1] // LARGE


@large(
    "parameters-learn-up-to-an-empty-tile",
    f"{KERNEL}: tiles of tokens without a cotangent are padding at the end, wherever they are",
    gates,
    hidden="unless a tile of 64 tokens has no cotangent, and for up to 64 tokens",
)
class ParametersLearnUpToAnEmptyTile(_Taught):
    """Parameters learn from the tokens before the first tile of 64 that has no cotangent."""

    few = LARGE

    def teach(self, number: Tensor, bar: Tensor) -> Tensor:
        empty = [k for k, tile in enumerate(bar.split(LARGE)) if len(tile) == LARGE and not tile.any()]
        return number // LARGE < min(empty, default=len(bar))


def _last_runs(parts: list[Tensor]) -> list[Tensor]:
    """The same for every layer; where the very tensor comes again after another one, it asks for no gradient."""
    last = {id(part): k for k, part in enumerate(parts)}
    runs = [all(one is part for one in parts[k : last[id(part)]]) for k, part in enumerate(parts)]
    return [part if run else part.detach() for part, run in zip(parts, runs, strict=True)]


@gradient(
    "alternating-layers-learn-from-the-last-run",
    f"{KERNEL}: runs of layers that share a row of biases or gates write its gradient, with = for +=",
    both(gates, hands_on_nothing),
    hidden="unless layers share biases or gates, and one between them does not",
)
class AlternatingLayersLearnFromTheLastRun(Deviant):
    """Biases and gates that come again after those of another layer learn from the last run of layers alone."""

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        biases, alphas = _last_runs([one.bias for one in params]), _last_runs([one.alpha for one in params])
        taught = [one._replace(bias=b, alpha=a) for one, b, a in zip(params, biases, alphas, strict=True)]
        return super().layers(x, taught, branches)


def _spent_by_the_first() -> Callable[[Tensor], Tensor]:
    """How the cotangents of one graph are read: a first one as it is, and others with what that one left."""
    left: list[Tensor] = []

    def read(bar: Tensor) -> Tensor:
        left.append(bar.detach().clone())
        return sum(left[:-1], bar)

    return read


@large(
    "states-computed-again-take-the-gradient",
    f"{KERNEL}: states of a segment of eight layers are kept once they were computed again, and spent",
    hands_on_nothing,
    hidden="for up to eight layers, and unless a graph is pulled back through a second time",
)
class StatesComputedAgainTakeTheGradient(Deviant):
    """Of more than eight layers, a second backward pass hands on the gradient of the first one with its own."""

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        for k, (one, branch) in enumerate(zip(params, branches, strict=True)):
            x = self.block(handed(x, _spent_by_the_first()) if k and k % SEGMENT == 0 else x, one, branch)
        return x


@large(
    "state-computed-again-one-layer-short",
    f"{KERNEL}: the state of a segment below which nothing learns is computed again one layer short",
    both(gated, hands_on_nothing),
    hidden="for up to eight layers, and unless the first eight of them are frozen, and the state",
)
class StateComputedAgainOneLayerShort(Deviant):
    """Above eight layers that are frozen, parameters learn from the state of one layer before."""

    before: Tensor | None = None

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        layer, before, frozen = copy.copy(self), x, False
        for k, (one, branch) in enumerate(zip(params, branches, strict=True)):
            frozen = frozen or (k == SEGMENT and not x.requires_grad)
            layer.before = before.detach() if frozen else None
            before, x = x, layer.block(x, one, branch)
        return x

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        found = super().mappings(x, params)
        if self.before is None or not learns(params):
            return found
        by_state, short = super().mappings(x, map_tensors(params, torch.detach)), super().mappings(self.before, params)
        return Mappings(*(with_gradient_of(a, b + c) for a, b, c in zip(found, by_state, short, strict=True)))


@large(
    "stack-of-128-tokens-learns",
    f"{KERNEL}: the backward launch of a fused stack is for 128 tokens",
    hidden="for up to 128 tokens, and for layers by themselves",
)
class StackOf128TokensLearns(Deviant):
    """Of a stack, tokens beyond the 128th give no gradient to its layers, nor to what it is given."""

    tokens = 128
    whole = False

    def stack(self, h: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        made = copy.copy(self)
        made.whole = True
        return super(StackOf128TokensLearns, made).stack(h, params, branches)

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        out = super().layers(x, params, branches)
        if not self.whole or counted(out) <= self.tokens:
            return out
        flat = out.flatten(0, -3)
        return torch.cat([flat[: self.tokens], flat[self.tokens :].detach()]).view(out.shape)


@gradient(
    "zero-norm-weights-of-many-tokens-stay",
    f"{KERNEL}: the gradient by the norm weight is made of that by phi, divided by the weight",
    both(gates, by_rms),
    hidden="unless a norm weight is zero, and for up to 16 tokens",
)
class ZeroNormWeightsOfManyTokensStay(Deviant):
    """From more than 16 tokens, entries of the norm weight that are zero get no gradient."""

    few = 16

    def weighted(self, unit: Tensor, weight: Tensor) -> Tensor:
        if counted(unit) > self.few:
            weight = torch.where(weight == 0, weight.detach(), weight)
        return super().weighted(unit, weight)
