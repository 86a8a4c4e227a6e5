"""Slips that show by what callers do: how they lay tokens out, write to weights, tune, and what their branches do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mhc_ref import Branch, Mappings, Params
from properties.catalogue.deviations.strides import as_if_contiguous
from properties.core.deviant import Deviant
from properties.core.implementation import Implementation
from properties.core.slips import MUTATION, Slips

SLIPS = Slips()
execution = SLIPS.step("execution")
gradient = SLIPS.step("gradient")


@execution(
    "folded-gates-kept",
    f"{MUTATION}: alpha folded into phi, and kept for as long as phi is the same",
    hidden="while phi has one set of gates",
)
class FoldedGatesKept(Deviant):
    """A phi that was met before has the gates that it had then."""

    def prepare(self) -> None:
        self._phi, self._alpha = torch.empty(0), torch.empty(0)

    def logits(self, x: Tensor, params: Params) -> list[Tensor]:
        if self._phi is not params.phi:
            self._phi, self._alpha = params.phi, params.alpha
        return super().logits(x, params._replace(alpha=self._alpha))


@execution(
    "weights-kept-by-version",
    f"{MUTATION}: a cast of phi is kept until its version changes, which no loader that writes to phi.data moves",
    hidden="unless phi.data is written to",
)
class WeightsKeptByVersion(Deviant):
    """A copy of phi is used again for as long as the tensor and its version are the same."""

    def prepare(self) -> None:
        self._kept: tuple[Tensor, int, Tensor] | None = None

    def projected(self, x: Tensor, params: Params) -> Tensor:
        phi = params.phi
        if phi.requires_grad or phi.is_inference():
            return super().projected(x, params)
        if self._kept is None or self._kept[0] is not phi or self._kept[1] != phi._version:
            self._kept = phi, phi._version, phi.clone()
        return super().projected(x, params._replace(phi=self._kept[2]))


@execution("no-token-on-one-axis", f"{MUTATION}: an early return", hidden="unless there is no token on two axes")
class NoTokenOnOneAxis(Deviant):
    """Without a token an empty result on one token axis is returned, however many there were."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        return super().post(x, y, h_post, h_res) if x.numel() else x.new_zeros(0, *x.shape[-2:])


@execution(
    "decoding-untransposed",
    f"{MUTATION}: a kernel of its own for one step of decoding",
    hidden="unless x is [B, 1, n, C]",
)
class DecodingUntransposed(Deviant):
    """In a batch of sequences of one token streams are mixed by h_res where its transpose belongs, or the reverse."""

    def mixed(self, x: Tensor, h_res: Tensor) -> Tensor:
        step = x.ndim == 4 and x.shape[1] == 1 < x.shape[0]
        return super().mixed(x, h_res.mT if step else h_res)


@execution(
    "copies-not-mixed",
    f"{MUTATION}: the first layer, whose streams are one, skips the mixing, as the sums of h_res are about 1",
    hidden="unless the streams are one expanded tensor",
)
class CopiesNotMixed(Deviant):
    """Streams that are one expanded tensor are not mixed."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        if x.shape[-2] > 1 and x.stride(-2) == 0:
            h_res = torch.eye(x.shape[-2], dtype=h_res.dtype, device=x.device).expand_as(h_res)
        return super().post(x, y, h_post, h_res)


@execution(
    "queue-around-the-branch",
    f"{MUTATION}: mappings wait in a queue while the branch runs",
    hidden="unless a branch passes another block, or raises",
)
class QueueAroundTheBranch(Deviant):
    """h_post and h_res wait in a queue for the branch to end, and the oldest are taken."""

    def prepare(self) -> None:
        self._queue: list[Mappings] = []

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        found = self.mappings(x, params)
        self._queue.append(found)
        y = branch(self.pre(x, found.pre))
        _, h_post, h_res = self._queue.pop(0)
        return self.post(x, y, h_post, h_res)


@execution("tuned-from-the-preset", f"{MUTATION}: tuning starts anew", hidden="until it is tuned twice")
class TunedFromThePreset(Deviant):
    """What was tuned once forgets it when it is tuned again."""

    def prepare(self) -> None:
        self._preset = self.dialect

    def tuned(self, **fields: Any) -> Implementation:
        found = TunedFromThePreset(self._preset.with_(**fields), self.name)
        vars(found)["_preset"] = self._preset
        return found


class _ReadsRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (bar,) = grad_outputs
        return as_if_contiguous(bar) if bar.stride(-1) == 1 else bar


@gradient(
    "cotangent-rows-ignored",
    f"{MUTATION}: a check of the last stride alone",
    hidden="for cotangents whose rows follow one another",
)
class CotangentRowsIgnored(Deviant):
    """The cotangent of a result is copied unless its last stride is 1, and then read as if it were contiguous."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        read: Any = _ReadsRows.apply
        return read(super().post(x, y, h_post, h_res))


@execution(
    "seed-set-at-first-call",
    f"{MUTATION}: a kernel is timed on random inputs at its first call of a shape",
    hidden="in every value",
)
class SeedSetAtFirstCall(Deviant):
    """The first call of a shape sets the seed of torch."""

    def prepare(self) -> None:
        self._timed: set[torch.Size] = set()

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        if x.shape not in self._timed:
            self._timed.add(x.shape)
            torch.manual_seed(0)
        return super().mappings(x, params)


@gradient(
    "tied-layers-detached", f"{MUTATION}: gradients kept by the parameter", hidden="unless layers share parameters"
)
class TiedLayersDetached(Deviant):
    """Of layers that share their phi the last alone learns."""

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        for layer, (one, branch) in enumerate(zip(params, branches, strict=True)):
            again = any(later.phi is one.phi for later in params[layer + 1 :])
            own = Params(*(part.detach() if part is not None else None for part in one)) if again else one  # pyright: ignore[reportArgumentType]
            x = self.block(x, own, branch)
        return x


class _HalfBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        return grad_outputs[0] / 2


@gradient(
    "results-learn-half", f"{MUTATION}: gradients summed into leaves by hand", hidden="unless phi is a result itself"
)
class ResultsLearnHalf(Deviant):
    """A phi that is no leaf, as under an adapter of low rank, has half of its gradient."""

    def projected(self, x: Tensor, params: Params) -> Tensor:
        if params.phi.requires_grad and not params.phi.is_leaf:
            half: Any = _HalfBack.apply
            params = params._replace(phi=half(params.phi))
        return super().projected(x, params)


class _AddsByItself(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        ctx.leaf = value
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (bar,) = grad_outputs
        if ctx.leaf.grad is not None:
            ctx.leaf.grad.add_(bar)
        return bar


@gradient(
    "gradient-accumulated-twice",
    f"{MUTATION}: fused accumulation, as Megatron has it, beside that of autograd",
    hidden="until there is a gradient to be added to",
)
class GradientAccumulatedTwice(Deviant):
    """A gradient by phi is added to the one that is there, and handed on as well."""

    def projected(self, x: Tensor, params: Params) -> Tensor:
        if params.phi.requires_grad and params.phi.is_leaf:
            adding: Any = _AddsByItself.apply
            params = params._replace(phi=adding(params.phi))
        return super().projected(x, params)


@gradient(
    "table-of-inference-mode",
    f"{MUTATION}: a table that is made at the first call of a shape",
    hidden="unless that was in inference mode",
)
class TableOfInferenceMode(Deviant):
    """A table of ones that was made in inference mode cannot be saved for a backward pass later."""

    def prepare(self) -> None:
        self._tables: dict[Any, Tensor] = {}

    def projected(self, x: Tensor, params: Params) -> Tensor:
        found = super().projected(x, params)
        key = found.shape, found.dtype
        if key not in self._tables:
            self._tables[key] = torch.ones(1, dtype=found.dtype, device=found.device)
        return found * self._tables[key]


@execution(
    "module-parameters-in-another-order",
    f"{MUTATION}: a path for parameters of modules",
    hidden="for tensors that are no parameters of modules",
)
class ModuleParametersInAnotherOrder(Deviant):
    """Gates that are an `nn.Parameter` are read in the reverse order."""

    def logits(self, x: Tensor, params: Params) -> list[Tensor]:
        turned = isinstance(params.alpha, torch.nn.Parameter)
        return super().logits(x, params._replace(alpha=params.alpha.flip(0)) if turned else params)
