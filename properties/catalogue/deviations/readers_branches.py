"""Slips of a reader's ninth round: branches that learn in another way, layers and full tiles.

docs/adversary.md has the account.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mhc_ref import Branch, Params
from properties.core.deviant import Deviant
from properties.core.slips import MUTATION, Slips, hands_on_nothing

SLIPS = Slips()
gradient, execution = SLIPS.step("gradient"), SLIPS.step("execution")

TILE = 16
"""So many tokens go the way that everything is tried on."""


class _Again(torch.autograd.Function):
    """What a branch gave, whose graph is kept: backwards it is asked for the gradient by what was read, and perhaps for
    those of its weights."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, leaf: Tensor, y: Tensor, ends: Any) -> Tensor:
        ctx.kept = leaf, y, ends
        return y.detach().clone()

    @staticmethod
    def backward(ctx: Any, *bars: Any) -> Any:
        leaf, y, ends = ctx.kept
        by_u = torch.autograd.grad(y, leaf, bars[0], allow_unused=True, retain_graph=True)[0]
        return torch.zeros_like(leaf) if by_u is None else by_u, None, (None if ends(y, by_u) else bars[0]), None


def _ends_where(branch: Branch, ends: Callable[[Tensor, Tensor | None], bool]) -> Branch:
    """The branch, whose weights get nothing where `ends` says so of what it gave, and of its gradient by what it
    read."""

    def run(u: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return branch(u)
        leaf = u.detach().requires_grad_()
        y = branch(leaf)
        if not y.requires_grad:
            return y
        found: Any = _Again.apply(u, leaf, y, ends)
        return found

    return run


def _unread(y: Tensor, by_u: Tensor | None) -> bool:
    return by_u is None


def _silent(y: Tensor, by_u: Tensor | None) -> bool:
    return not bool(y.any())


class _Ending(Deviant):
    """Somewhere the weights of some branches get no gradient."""

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        return super().block(x, params, self.wrapped(branch))

    def wrapped(self, branch: Branch) -> Branch:
        return branch


@gradient(
    "detached-branches-teach-nothing",
    f"{MUTATION}: a block that is computed again backwards returns where a branch hands no gradient to what it read",
    hidden="unless a branch learns and does not depend on what it reads",
)
class DetachedBranchesTeachNothing(_Ending):
    """The weights of a branch that detaches what it reads get no gradient."""

    def wrapped(self, branch: Branch) -> Branch:
        return _ends_where(branch, _unread)


@gradient(
    "silent-branches-teach-nothing",
    f"{MUTATION}: a branch that gives zeros is taken for one that is dropped, as by stochastic depth",
    hidden="unless a branch learns whose weights are 0",
)
class SilentBranchesTeachNothing(_Ending):
    """The weights of a branch that gives zeros get no gradient."""

    def wrapped(self, branch: Branch) -> Branch:
        return _ends_where(branch, _silent)


@gradient(
    "branches-of-a-frozen-weight-teach-nothing",
    f"{MUTATION}: whether a branch learns is told by its first parameter",
    hidden="unless the first parameter of a branch is frozen, and another is not",
)
class BranchesOfAFrozenWeightTeachNothing(_Ending):
    """A branch whose first parameter is frozen gets no gradient by the others."""

    def wrapped(self, branch: Branch) -> Branch:
        first = next(iter(branch.parameters()), None) if isinstance(branch, nn.Module) else None
        frozen = first is not None and not first.requires_grad
        return _ends_where(branch, lambda y, by_u: frozen)


class _EndingInLayers(Deviant):
    """In layers the weights of some branches get no gradient."""

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        return super().layers(x, params, [self.wrapped(one) for one in branches] if len(params) > 1 else branches)

    def wrapped(self, branch: Branch) -> Branch:
        return branch


@gradient(
    "detached-branches-of-layers-teach-nothing",
    f"{MUTATION}: checkpointing by hand returns where a branch hands no gradient to what it read",
    hands_on_nothing,
    hidden="unless a branch of several layers learns and does not depend on what it reads",
)
class DetachedBranchesOfLayersTeachNothing(_EndingInLayers):
    """In layers the weights of a branch that detaches what it reads get no gradient."""

    def wrapped(self, branch: Branch) -> Branch:
        return _ends_where(branch, _unread)


@gradient(
    "silent-branches-of-layers-teach-nothing",
    f"{MUTATION}: layers whose branch gives zeros are passed over backwards",
    hands_on_nothing,
    hidden="unless a branch of several layers learns whose weights are 0",
)
class SilentBranchesOfLayersTeachNothing(_EndingInLayers):
    """In layers the weights of a branch that gives zeros get no gradient."""

    def wrapped(self, branch: Branch) -> Branch:
        return _ends_where(branch, _silent)


@gradient(
    "branches-of-layers-learn-from-one-tile",
    f"{MUTATION}: the backward launch of several layers hands their branches the cotangents of one tile",
    hands_on_nothing,
    dtypes=(torch.float32,),  # oracle laws have no crowds in float64
    hidden="for one layer, for up to 16 tokens, and unless branches have weights",
)
class BranchesOfLayersLearnFromOneTile(Deviant):
    """In layers the weights of branches get no gradient of tokens beyond the 16th."""

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        if x.shape[:-2].numel() <= TILE or len(params) < 2 or not torch.is_grad_enabled():
            return super().layers(x, params, branches)

        def tiled(branch: Branch) -> Branch:
            def run(u: Tensor) -> Tensor:
                y, still = branch(u), branch(u.detach())
                if not y.requires_grad:
                    return y
                rows = y.shape[:-1].numel()
                late = (torch.arange(rows, device=u.device) >= TILE).view(*y.shape[:-1], 1)
                return y - torch.where(late, still - still.detach(), 0.0)

            return run

        return super().layers(x, params, [tiled(one) for one in branches])


class _OfStacks(_EndingInLayers):
    """A whole stack that is fused, whose layers by themselves are right."""

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        return Deviant.layers(self, x, params, branches)

    def stack(self, h: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        return super().stack(h, params, [self.wrapped(one) for one in branches])


@gradient(
    "detached-branches-of-a-stack-teach-nothing",
    f"{MUTATION}: a stack in an autograd function of its own hands gradients back by what its branches read",
    hidden="unless a branch of a stack learns and does not depend on what it reads",
)
class DetachedBranchesOfAStackTeachNothing(_OfStacks):
    """In a stack the weights of a branch that detaches what it reads get no gradient."""

    def wrapped(self, branch: Branch) -> Branch:
        return _ends_where(branch, _unread)


@gradient(
    "silent-branches-of-a-stack-teach-nothing",
    f"{MUTATION}: a stack in an autograd function of its own passes over branches that give zeros",
    hidden="unless a branch of a stack learns whose weights are 0",
)
class SilentBranchesOfAStackTeachNothing(_OfStacks):
    """In a stack the weights of a branch that gives zeros get no gradient."""

    def wrapped(self, branch: Branch) -> Branch:
        return _ends_where(branch, _silent)


@execution(
    "branch-inputs-of-layers-in-four-buffers",
    f"{MUTATION}: what branches read lies in buffers in turn, as many as there are streams of a device",
    hands_on_nothing,
    hidden="for up to four layers, and unless what a branch read is held",
)
class BranchInputsOfLayersInFourBuffers(Deviant):
    """Without gradients what the branches of layers read lies in four buffers in turn."""

    count = 4

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        if torch.is_grad_enabled() or torch.is_inference_mode_enabled():
            return super().layers(x, params, branches)
        spaces: list[Tensor] = []

        def buffered(k: int, branch: Branch) -> Branch:
            def run(u: Tensor) -> Tensor:
                if k < self.count:
                    spaces.append(u.clone())
                return branch(spaces[k % self.count].copy_(u))

            return run

        return super().layers(x, params, [buffered(k, one) for k, one in enumerate(branches)])


@gradient(
    "layers-before-the-last-four-learn-nothing",
    f"{MUTATION}: what a backward pass needs of layers lies in a ring of four",
    hands_on_nothing,
    dtypes=(torch.float32,),  # oracle laws have no crowds in float64
    hidden="for up to four layers",
)
class LayersBeforeTheLastFourLearnNothing(Deviant):
    """Of more than four layers on several tokens, the branches of those before the last four get no gradient."""

    count = 4

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        first = len(params) - self.count
        if first <= 0 or x.shape[:-2].numel() < 2:
            return super().layers(x, params, branches)

        def still(branch: Branch) -> Branch:
            return lambda u: branch(u).detach()

        return super().layers(x, params, [still(one) if k < first else one for k, one in enumerate(branches)])


@gradient(
    "cotangent-of-a-full-tile-read-on",
    f"{MUTATION}: full tiles are loaded without a mask, and without the strides of what is expanded",
    hidden="but for multiples of 64 tokens and channels, and for a cotangent that is expanded along its channels",
)
class CotangentOfAFullTileReadOn(Deviant):
    """Of full tiles a cotangent that is expanded along its channels is read as if it lay in full."""

    tile = 64

    def mixed(self, x: Tensor, h_res: Tensor) -> Tensor:
        out = super().mixed(x, h_res)
        full = x.shape[:-2].numel() % self.tile == 0 and x.shape[-1] % self.tile == 0
        if not full or not x.requires_grad or not x.numel():
            return out
        found: Any = _ReadOn.apply(out)
        return found


class _ReadOn(torch.autograd.Function):
    """The identity, whose backward pass reads a cotangent of strides 0 along channels as if it were contiguous."""

    @staticmethod
    def forward(ctx: Any, out: Tensor) -> Tensor:
        return out.clone()

    @staticmethod
    def backward(ctx: Any, *bars: Any) -> Any:
        (bar,) = bars
        if bar.stride(-1) or not bar.untyped_storage().nbytes():
            return bar
        held = bar[..., 0].flatten()
        return held[torch.arange(bar.numel(), device=bar.device) % held.numel()].view(bar.shape)


@execution(
    "prompt-of-full-tiles-in-place",
    f"{MUTATION}: prefill of one prompt in full tiles keeps its state where it lies",
    hidden="but for one sequence of a multiple of 64 tokens, without gradients",
)
class PromptOfFullTilesInPlace(Deviant):
    """Without gradients a block writes the result of one sequence of full tiles to the state that it was given."""

    tile = 64

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        out = super().block(x, params, branch)
        prompt = x.ndim == 4 and x.shape[0] == 1 and x.shape[1] % self.tile == 0 and x.shape[1] > 0
        return x.copy_(out) if prompt and not torch.is_grad_enabled() else out


@execution(
    "fifth-layer-reads-the-first-parameters",
    f"{MUTATION}: pointers to the parameters of layers are passed in an array of four",
    hands_on_nothing,
    hidden="for up to four layers, and unless a state has more than one token",
)
class FifthLayerReadsTheFirstParameters(Deviant):
    """Layers from the fifth on have the biases of those four before them, of several tokens without gradients."""

    count = 4

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        if torch.is_grad_enabled() or x.shape[:-2].numel() < 2:
            return super().layers(x, params, branches)
        mapped = [one._replace(bias=params[k % self.count].bias) for k, one in enumerate(params)]
        return super().layers(x, mapped, branches)
