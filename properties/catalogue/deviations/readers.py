"""Slips that somebody wrote who had read the laws and their strategies, and that passed them at that time.

docs/adversary.md has the account.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mhc_ref import Branch, Dialect, Mappings, Params
from mhc_ref.stack import has_head
from properties.catalogue.deviations.backward import GradientOfFirstTile
from properties.catalogue.deviations.strides import as_if_contiguous
from properties.core.case import map_tensors
from properties.core.deviant import Deviant, with_gradient_of
from properties.core.reads import read_of
from properties.core.slips import MUTATION, Slips, reads_by_gates

SLIPS = Slips()
gradient, execution, gamed = SLIPS.step("gradient"), SLIPS.step("execution"), SLIPS.step("gamed")


def gates(dialect: Dialect) -> bool:
    """Logits are products with phi times gates."""
    return read_of(dialect).affine(dialect)


@gradient(
    "shut-gates-never-learn",
    f"{MUTATION}: products with phi are skipped while every gate is 0, as they are initialised",
    gates,
    hidden="unless every gate is 0",
)
class ShutGatesNeverLearn(Deviant):
    """While every gate is 0 the products are left out, and gates get no gradient."""

    def logits(self, x: Tensor, params: Params) -> list[Tensor]:
        if bool(params.alpha.any()):
            return super().logits(x, params)
        still = params._replace(phi=params.phi.detach(), alpha=params.alpha.detach())
        return super().logits(x.detach(), still)


@execution(
    "table-in-the-default-dtype",
    f"{MUTATION}: ones without a dtype; loaders set the default one to that of the weights",
    gates,
    hidden="while the default dtype is float32",
)
class TableInTheDefaultDtype(Deviant):
    """Gates are spread over a table that has torch's default dtype, where that is not float32."""

    def gated(self, dynamic: Tensor, gate: Tensor, static: Tensor) -> Tensor:
        default = torch.get_default_dtype()
        table = torch.ones_like(static, dtype=static.dtype if default == torch.float32 else default)
        return (table * gate) * dynamic + static


@execution(
    "branch-output-scaled-in-place",
    f"{MUTATION}: a factor folded into the branch output, to save memory",
    hidden="unless the branch keeps what it returns",
)
class BranchOutputScaledInPlace(Deviant):
    """Without gradients the branch output is doubled in place, and h_post halved."""

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        h_pre, h_post, h_res = self.mappings(x, params)
        y = branch(self.pre(x, h_pre))
        if not torch.is_grad_enabled():
            y, h_post = y.mul_(2), h_post / 2
        return self.post(x, y, h_post, h_res)


@gradient(
    "gradient-of-64-tiles",
    f"{MUTATION}: a buffer of partial sums for 64 tiles of 128 tokens",
    dtypes=(torch.float32,),  # others are swept over fewer sizes
    hidden="for up to 8192 tokens",
)
class GradientOf64Tiles(GradientOfFirstTile):
    """Tokens beyond the 8192nd contribute nothing to any gradient."""

    tokens = 8192


@gradient(
    "head-of-the-last-chunk",
    f"{MUTATION}: = in the place of += in a backward pass over chunks",
    has_head,
    dtypes=(torch.float32,),  # others are swept over fewer sizes
    hidden="for up to 256 tokens",
)
class HeadOfTheLastChunk(Deviant):
    """The head goes through tokens in chunks of 256, and the last of them alone teaches its parameters."""

    tokens = 256

    def collapse(self, x: Tensor, params: Params | None = None) -> Tensor:
        ended = super().collapse
        if params is None or x.shape[:-2].numel() <= self.tokens:
            return ended(x, params)
        still = map_tensors(params, torch.Tensor.detach)
        *before, last = x.flatten(0, -3).split(self.tokens)
        return torch.cat([*(ended(one, still) for one in before), ended(last, params)]).unflatten(0, x.shape[:-2])


@gradient(
    "branch-drawn-again",
    f"{MUTATION}: checkpointing that does not set the generator back",
    hidden="for a branch that draws no numbers",
)
class BranchDrawnAgain(Deviant):
    """Blocks are computed again in the backward pass, where dropout draws another mask."""

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        from torch.utils.checkpoint import checkpoint  # it imports torch's compiler

        def run(state: Tensor, *parts: Tensor | None) -> Tensor:
            h_pre, h_post, h_res = self.mappings(state, Params(*parts))  # pyright: ignore[reportArgumentType]  # in the order of its fields
            return self.post(state, branch(self.pre(state, h_pre)), h_post, h_res)

        if not torch.is_grad_enabled():
            return run(x, *params)
        again: Any = checkpoint(run, x, *params, use_reentrant=False, preserve_rng_state=False)
        return again


@execution(
    "branch-input-written-again",
    f"{MUTATION}: the buffer of what the branch read serves for sums of post, as the branch is done with it",
    hidden="unless the branch returns what it read",
)
class BranchInputWrittenAgain(Deviant):
    """Without gradients a block writes to what its branch has read, once the branch is through."""

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        h_pre, h_post, h_res = self.mappings(x, params)
        u = self.pre(x, h_pre)
        y = branch(u)
        if not torch.is_grad_enabled():
            u.zero_()
        return self.post(x, y, h_post, h_res)


@gradient(
    "saved-phi-strides-ignored",
    f"{MUTATION}: a weight that is stored transposed, as a linear layer has it, is read as if it were not",
    reads_by_gates,
    hidden="for a phi that is contiguous",
)
class SavedPhiStridesIgnored(Deviant):
    """Backwards phi is read as if it were contiguous, when the gradient by the state is taken."""

    def matmul(self, state: Tensor, phi: Tensor) -> Tensor:
        if phi.is_contiguous():
            return super().matmul(state, phi)
        by_phi = super().matmul(state.detach(), phi)
        by_state = super().matmul(state, as_if_contiguous(phi.detach()))
        return with_gradient_of(by_phi, by_phi + by_state)


@execution(
    "fourth-axis-of-tokens",
    f"{MUTATION}: [B, S, n, C] is told from [B, T, S, n, C] by the number of axes, and six of them are neither",
    hidden="for tokens on up to three axes",
)
class FourthAxisOfTokens(Deviant):
    """Of tokens on four axes, those of the last three are read in the opposite order of axes."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        return super().mappings(x.transpose(1, 3).reshape(x.shape) if x.ndim == 6 else x, params)


@gradient(
    "layers-of-the-first-part-learn",
    f"{MUTATION}: layers are computed again backwards in parts of a batch, and = stands for +=",
    hidden="for one layer, and for up to 32 tokens",
)
class LayersOfTheFirstPartLearn(Deviant):
    """Tokens beyond the 32nd teach the parameters of several layers nothing."""

    tokens = 32

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        if x.ndim != 3 or len(x) <= self.tokens or len(params) < 2:
            return super().layers(x, params, branches)
        still = [map_tensors(one, torch.Tensor.detach) for one in params]
        first, rest = x[: self.tokens], x[self.tokens :]
        return torch.cat([super().layers(first, params, branches), super().layers(rest, still, branches)])


@gamed(
    "nan-of-a-tile",
    f"{MUTATION}: a product with a mask, in place of a choice, in tiles of 16 tokens",
    hidden="in the first tile",
)
class NanOfATile(Deviant):
    """The tokens of a tile of 16, but for those of the first tile, share their NaN."""

    tile = 16

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        out = super().post(x, y, h_post, h_res)
        if out.ndim != 3 or len(out) <= self.tile:
            return out
        lost = [0 * part.sum() if k else 0 * part.new_zeros(()) for k, part in enumerate(out.detach().split(self.tile))]
        return torch.cat([part + nan for part, nan in zip(out.split(self.tile), lost, strict=True)])


@gamed(
    "branch-nan-dropped",
    f"{MUTATION}: tokens of padding, of which attention leaves NaN",
    hidden="while branches give finite numbers",
)
class BranchNanDropped(Deviant):
    """A token whose branch output is not finite passes as if that were 0."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        there = y.isfinite().all(-1, keepdim=True)
        return super().post(x, torch.where(there, y, 0.0), h_post, h_res)


@execution(
    "streams-first-by-shape",
    "PaddleFleet #1055: a layout that is told by its shape",
    hidden="unless sequences have as many tokens as there are streams",
)
class StreamsFirstByShape(Deviant):
    """A state [B, S, n, C] is taken for [B, n, S, C] where S = n."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        return super().mappings(turned(x), params)

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        return super().post(turned(x), y, h_post, h_res)


def turned(x: Tensor) -> Tensor:
    """With streams in the place of tokens where there are as many of both, and several."""
    return x.transpose(1, 2) if x.ndim == 4 and x.shape[1] == x.shape[2] > 1 else x


@gradient(
    "saved-token-strides-ignored",
    f"{MUTATION}: aiter #5292 in a backward pass; [S, B] turned to [B, S] has dense rows",
    hidden="for tokens that follow one another",
)
class SavedTokenStridesIgnored(Deviant):
    """Backwards a state of dense rows is read in the order in which it lies, when the gradient by h_res is taken."""

    def mixed(self, x: Tensor, h_res: Tensor) -> Tensor:
        dense = x.stride(-1) == 1 and x.stride(-2) == x.shape[-1]
        if not dense or x.is_contiguous():
            return super().mixed(x, h_res)
        by_state = super().mixed(x, h_res.detach())
        by_matrix = super().mixed(as_if_contiguous(x.detach()), h_res)
        return with_gradient_of(by_state, by_state + by_matrix)
