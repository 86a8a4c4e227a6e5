"""Slips of a backward pass written by hand: right for one call by a test, wrong for what autograd makes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mhc_ref import Branch, Mappings, Params
from properties.catalogue.deviations.strides import as_if_contiguous
from properties.core.case import map_tensors
from properties.core.deviant import Deviant, through
from properties.core.slips import MUTATION, Slips

SLIPS = Slips()
gradient = SLIPS.step("gradient")

Gradients = list[Tensor | None]


class ByHand(torch.autograd.Function):
    """A function with a backward pass that recomputes, as a fused kernel has it; a `HandWritten` deviates in it."""

    @staticmethod
    def forward(
        ctx: Any, kernel: HandWritten, axes: tuple[int, ...], function: Callable[..., Any], *inputs: Tensor | None
    ) -> Any:
        """`axes`: of every output, how many are not tokens."""
        ctx.kernel, ctx.axes, ctx.function = kernel, axes, function
        ctx.kept = [None if one is None else one.detach().clone() for one in inputs]
        with torch.no_grad():
            found = function(*inputs)
        return found if isinstance(found, Tensor) else tuple(found)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        kernel: HandWritten = ctx.kernel
        with torch.enable_grad():
            leaves = [None if one is None else one.clone().requires_grad_() for one in ctx.kept]
            found: Any = ctx.function(*leaves)
            outputs = [found] if isinstance(found, Tensor) else list(found)
            read = kernel.read_cotangents(list(cotangents), ctx.axes)
            pairs = [(o, g) for o, g in zip(outputs, read, strict=True) if o.requires_grad]
            asked = [one for one in leaves if one is not None]
            by_leaf = iter(
                torch.autograd.grad([o for o, _ in pairs], asked, [g for _, g in pairs], allow_unused=True)
                if pairs
                else [None] * len(asked)
            )
        gradients: Gradients = [None if one is None else next(by_leaf) for one in leaves]
        return None, None, None, *kernel.given_back(gradients, ctx)


class HandWritten(Deviant):
    """Mappings, pre and post through `ByHand`; unmodified it is correct."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        forward = super().mappings

        def function(state: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
            return tuple(forward(state, Params(*parts)))

        found: Any = ByHand.apply(self, (1, 1, 2), function, x, *params)
        return Mappings(*found)

    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        found: Any = ByHand.apply(self, (1,), super().pre, x, h_pre)
        return found

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        found: Any = ByHand.apply(self, (2,), super().post, x, y, h_post, h_res)
        return found

    def read_cotangents(self, cotangents: list[Tensor], axes: tuple[int, ...]) -> list[Tensor]:
        """The cotangents as the backward pass sees them."""
        return cotangents

    def given_back(self, gradients: Gradients, ctx: Any) -> Gradients:
        """The gradients as the backward pass returns them."""
        return gradients


@gradient(
    "cotangent-strides-ignored",
    f"{MUTATION}: aiter #5292 in a backward pass; the cotangent of a sum is expanded",
    hidden="for cotangents that are contiguous",
)
class CotangentStridesIgnored(HandWritten):
    """Cotangents are read as if they were contiguous."""

    def read_cotangents(self, cotangents: list[Tensor], axes: tuple[int, ...]) -> list[Tensor]:
        return [as_if_contiguous(one) for one in cotangents]


@gradient("cotangent-overwritten", f"{MUTATION}: a gradient accumulated in place", hidden="for who looks at it alone")
class CotangentOverwritten(HandWritten):
    """The backward pass of the mappings and of mixing scales the cotangents that it was given."""

    def read_cotangents(self, cotangents: list[Tensor], axes: tuple[int, ...]) -> list[Tensor]:
        copies = [one.clone() for one in cotangents]
        for one in cotangents:
            if one.is_contiguous():
                one.mul_(0.5)
        return copies


@gradient("saved-overwritten", f"{MUTATION}: a backward pass in place", hidden="for one backward pass")
class SavedOverwritten(HandWritten):
    """The backward pass writes over what the forward pass saved for it."""

    def given_back(self, gradients: Gradients, ctx: Any) -> Gradients:
        for one in ctx.kept:
            if one is not None:
                one.mul_(0.5)
        return gradients


@gradient(
    "frozen-parameters-stop-the-state",
    "PaddleFleet #1793: frozen parameters in backward (bug 29)",
    hidden="where every parameter asks for a gradient",
)
class FrozenParametersStopTheState(HandWritten):
    """Without a gradient to be returned by the gates none is returned by the state."""

    def given_back(self, gradients: Gradients, ctx: Any) -> Gradients:
        mapped = len(gradients) == 5
        return [None, *gradients[1:]] if mapped and not ctx.needs_input_grad[6] else gradients


@gradient(
    "gradient-of-first-tile",
    "Megatron #7524: a backward pass for 64, 128 and 256 tokens (bug 31)",
    hidden="for up to 64 tokens",
)
class GradientOfFirstTile(HandWritten):
    """Tokens beyond the 64th contribute nothing to any gradient."""

    tokens = 64

    def read_cotangents(self, cotangents: list[Tensor], axes: tuple[int, ...]) -> list[Tensor]:
        return [self._first(one, count) for one, count in zip(cotangents, axes, strict=True)]

    def _first(self, cotangent: Tensor, axes: int) -> Tensor:
        tokens = cotangent.shape[: cotangent.ndim - axes]
        read = torch.arange(tokens.numel(), device=cotangent.device) < self.tokens
        return torch.where(read.view(*tokens, *(1,) * axes), cotangent, 0)


@gradient(
    "gradient-of-eight-tiles",
    f"{MUTATION}: a buffer of partial sums for eight tiles",
    hidden="for up to 512 tokens",
)
class GradientOfEightTiles(GradientOfFirstTile):
    """Tokens beyond the 512th contribute nothing to any gradient."""

    tokens = 512


class StoredInBfloat16(torch.autograd.Function):
    """A tensor as it is, whose gradient is stored in bfloat16."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor) -> Tensor:
        return whole.clone()

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        return through(cotangents[0], torch.bfloat16)


@gradient(
    "token-sums-in-bfloat16",
    f"{MUTATION}: a launch of 256 tokens stores its share of a gradient in the dtype of the state",
    hidden="for up to 256 tokens",
)
class TokenSumsInBfloat16(Deviant):
    """Gradients of parameters are summed over 256 tokens at a time, and each sum is stored in bfloat16."""

    tokens = 256

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        mapped = super().mappings
        if x.shape[:-2].numel() <= self.tokens:
            return mapped(x, params)
        launches = x.flatten(0, -3).split(self.tokens)
        found = [mapped(one, map_tensors(params, StoredInBfloat16.apply)) for one in launches]
        return Mappings(*(torch.cat(part).unflatten(0, x.shape[:-2]) for part in zip(*found, strict=True)))


@gradient(
    "bias-gradient-over-one-axis",
    f"{MUTATION}: grad.sum(0), divided among the batches of a [batch, length] input",
    hidden="for tokens on one axis",
)
class BiasGradientOverOneAxis(HandWritten):
    """With two token axes the gradient by the bias is that of one batch's share."""

    def given_back(self, gradients: Gradients, ctx: Any) -> Gradients:
        x, bias = ctx.kept[0], gradients[2] if len(gradients) == 5 else None
        if bias is not None and x.ndim > 3 and len(x):
            gradients[2] = bias / len(x)
        return gradients


@gradient(
    "branch-untrained",
    f"{MUTATION}: a block in one autograd function, which returns gradients by its own inputs",
    hidden="for a branch without weights",
)
class BranchUntrained(Deviant):
    """The weights of the branch receive no gradient."""

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        pre, post, res = self.mappings(x, params)
        u = self.pre(x, pre)
        with torch.no_grad():
            y = branch(u)
        passed: Any = Through.apply(u, y, branch) if u.requires_grad else y
        return self.post(x, passed, post, res)


class Through(torch.autograd.Function):
    """y = branch(u), whose backward pass calls the branch again and returns the gradient by u alone."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, y: Tensor, branch: Branch) -> Tensor:
        ctx.u, ctx.branch = u.detach(), branch
        return y.clone()

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        with torch.enable_grad():
            u = ctx.u.clone().requires_grad_()
            y = ctx.branch(u)
        if not y.requires_grad:
            return None, None, None
        (found,) = torch.autograd.grad(y, u, cotangents[0], allow_unused=True)
        return found, None, None
