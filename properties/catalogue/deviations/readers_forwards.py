"""Slips of a reader's ninth round: in what a call does with its branch, and in what it keeps from call to call.

docs/adversary.md has the account.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mhc_ref import Branch, Mappings, Params
from properties.catalogue.deviations.readers import gates
from properties.catalogue.deviations.strides import as_if_contiguous
from properties.core.case import map_tensors
from properties.core.deviant import Deviant, with_gradient_of
from properties.core.slips import MUTATION, Slips, hands_on_nothing, reads_by_gates

SLIPS = Slips()
gradient, execution = SLIPS.step("gradient"), SLIPS.step("execution")


@gradient(
    "branch-computed-again-from-what-it-left",
    f"{MUTATION}: the branch alone is checkpointed, and what it reads is kept by reference",
    hidden="unless a branch writes to what it reads while gradients are recorded",
)
class BranchComputedAgainFromWhatItLeft(Deviant):
    """Backwards a branch is called again with what it read, as it lies by then."""

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        if not torch.is_grad_enabled():
            return super().block(x, params, branch)

        def again(u: Tensor) -> Tensor:
            read, before = u * 1, u.detach().clone()
            y = branch(u)
            if torch.equal(u, before):
                return y
            return with_gradient_of(y, branch(with_gradient_of(u, read)))

        return super().block(x, params, again)


@execution(
    "bias-packed-while-it-learns",
    f"{MUTATION}: a kernel wants its biases in one row, and they are told apart by what tensors they are",
    gates,
    hidden="unless a bias learns, and is another at the next call",
)
class BiasPackedWhileItLearns(Deviant):
    """While gradients are recorded a bias that asks for one is as it was when it first came."""

    def prepare(self) -> None:
        self._packed: list[Tensor] = []

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        bias = params.bias
        if not torch.is_grad_enabled() or not bias.requires_grad or not bias.is_leaf:
            return super().mappings(x, params)
        if not self._packed or self._packed[0] is not bias:
            self._packed[:] = [bias, bias.detach().clone()]
        return super().mappings(x, params._replace(bias=with_gradient_of(self._packed[1], bias)))


@execution(
    "bias-of-a-model-packed-where-it-serves",
    f"{MUTATION}: a copy is kept beside every weight of a model, which no tensor of inference mode is",
    gates,
    hidden="but in inference mode, of parameters that were made outside of it and change between two calls",
)
class BiasOfAModelPackedWhereItServes(Deviant):
    """In inference mode a bias that was made outside of it is as it was when it first came."""

    def prepare(self) -> None:
        self._packed: list[Tensor] = []

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        bias = params.bias
        if not torch.is_inference_mode_enabled() or bias.is_inference():
            return super().mappings(x, params)
        if not self._packed or self._packed[0] is not bias:
            self._packed[:] = [bias, bias.detach().clone()]
        return super().mappings(x, params._replace(bias=self._packed[1]))


@execution(
    "layers-packed-by-their-ends",
    f"{MUTATION}: whether weights have changed is asked of the first layer and of the last",
    hands_on_nothing,
    hidden="unless the parameters of a layer between two others alone change",
)
class LayersPackedByTheirEnds(Deviant):
    """Without gradients layers have the parameters that they had when those of the first and the last were last
    others."""

    def prepare(self) -> None:
        self._packed: tuple[Params, ...] = ()

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        if torch.is_grad_enabled() or torch.is_inference_mode_enabled() or len(params) < 2:
            return super().layers(x, params, branches)
        kept, ends = self._packed, (0, -1)
        if len(kept) != len(params) or not all(_equal(kept[k], params[k]) for k in ends):
            self._packed = map_tensors(tuple(params), lambda one: one.detach().clone())
        return super().layers(x, self._packed, branches)


def _equal(some: Params, others: Params) -> bool:
    pairs: Any = zip(some, others, strict=True)
    return all(one is other or _same(one, other) for one, other in pairs)


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.shape == other.shape and one.device == other.device and torch.equal(one, other)


@execution(
    "branch-in-a-fork-of-the-generator",
    f"{MUTATION}: the generator is set back after the branch, so that a backward pass can call it again",
    hidden="unless what a branch draws in two calls is compared",
)
class BranchInAForkOfTheGenerator(Deviant):
    """While gradients are recorded a branch leaves torch's generator as it was, and draws the same in every call."""

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        if not torch.is_grad_enabled():
            return super().block(x, params, branch)

        def forked(u: Tensor) -> Tensor:
            with torch.random.fork_rng(devices=[]):
                return branch(u)

        return super().block(x, params, forked)


@execution(
    "branch-inputs-of-layers-in-two-buffers",
    f"{MUTATION}: what is read is written to two buffers in turn, which are new in every call",
    hands_on_nothing,
    hidden="for two layers, and unless a branch keeps what it has read",
)
class BranchInputsOfLayersInTwoBuffers(Deviant):
    """Without gradients, of more than two layers, what a branch is handed is written over by the layer after the
    next."""

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        if torch.is_grad_enabled():
            return super().layers(x, params, branches)
        pair: list[Tensor] = []

        def reading(k: int) -> Callable[[Tensor], Tensor]:
            def read(u: Tensor) -> Tensor:
                if k < 2:
                    pair.append(u)
                    return branches[k](u)
                return branches[k](pair[k % 2].copy_(u))

            return read

        return super().layers(x, params, [reading(k) for k in range(len(branches))])


@execution(
    "branch-output-read-as-the-state-lies",
    f"{MUTATION}: whether tokens follow one another is asked of the state, and of channels of the branch output",
    hidden="unless a branch gives [S, B, C] in memory for a state [B, S, n, C], as attention does that is by the step",
)
class BranchOutputReadAsTheStateLies(Deviant):
    """Beside a contiguous state of two axes of tokens, a branch output of contiguous channels is read in the order of
    its storage."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        if y.ndim > 2 and x.is_contiguous() and y.stride(-1) == 1 and not y.is_contiguous():
            y = with_gradient_of(as_if_contiguous(y.detach()), y)
        return super().post(x, y, h_post, h_res)


@execution(
    "layers-take-from-their-lists",
    f"{MUTATION}: layers are popped from the front, so that their weights can be let go",
    hands_on_nothing,
    hidden="for tuples, and unless a list is used again",
)
class LayersTakeFromTheirLists(Deviant):
    """A list of parameters is empty after a call of layers."""

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        out = super().layers(x, params, branches)
        if isinstance(params, list):
            params.clear()
        return out


@execution(
    "branch-called-past-its-hooks",
    f"{MUTATION}: the forward of a module is taken, for a compiler that stops at hooks",
    hidden="unless a branch is a module with hooks",
)
class BranchCalledPastItsHooks(Deviant):
    """Of a branch that is a module the forward is called, without its hooks."""

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        own = branch.forward if isinstance(branch, torch.nn.Module) else branch
        return super().block(x, params, own)


@execution(
    "own-output-is-a-workspace",
    f"{MUTATION}: between two blocks nobody else needs a state that the first one made",
    hidden="unless what a block returned is used after it was passed on to the next",
)
class OwnOutputIsAWorkspace(Deviant):
    """Without gradients a block writes to its state, where that is what it returned last."""

    def prepare(self) -> None:
        self._last: Any = lambda: None

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        out = super().block(x, params, branch)
        if torch.is_grad_enabled() or torch.is_inference_mode_enabled() != out.is_inference():
            return out
        if x is self._last():
            out = x.copy_(out)
        self._last = weakref.ref(out)
        return out


def _finite(one: Tensor) -> Tensor:
    return one.nan_to_num(0.0, 0.0, 0.0)


def _prompt(x: Tensor) -> bool:
    """Whether a state is one sequence of more tokens than a tile has."""
    return x.ndim == 4 and x.shape[0] == 1 and x.shape[1] > 16


@execution(
    "nan-hidden-in-a-prompt",
    f"{MUTATION}: a prompt is cut into chunks, whose padding is cleared by a comparison, which a NaN fails",
    reads_by_gates,
    hidden="unless one sequence has more than 16 tokens, and while all is finite",
)
class NanHiddenInAPrompt(Deviant):
    """Of one sequence, [1, S, n, C] of more than 16 tokens, what is not finite is read as 0."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        return super().mappings(_finite(x) if _prompt(x) else x, params)

    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        return super().pre(_finite(x) if _prompt(x) else x, h_pre)

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        if _prompt(x):
            x, y = _finite(x), _finite(y)
        return super().post(x, y, h_post, h_res)


@execution(
    "nan-hidden-behind-the-second-layer",
    f"{MUTATION}: what goes from one part of a pipeline to the next is cleared of what is not finite",
    hands_on_nothing,
    hidden="for two layers, and while all is finite",
)
class NanHiddenBehindTheSecondLayer(Deviant):
    """Of more than two layers, what is not finite behind the second is read as 0."""

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        if len(params) < 3:
            return super().layers(x, params, branches)
        return super().layers(_finite(super().layers(x, params[:2], branches[:2])), params[2:], branches[2:])
