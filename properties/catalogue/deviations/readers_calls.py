"""Slips that a reader of the laws wrote: ways to call, and sizes that were swept by themselves and not in them.

docs/adversary.md has the account; the others are in `properties.catalogue.deviations.readers`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mhc_ref import Branch, Mappings, Params
from mhc_ref.block import check_params
from properties.catalogue.deviations.modes import Ring
from properties.catalogue.deviations.readers import gates
from properties.catalogue.deviations.strides import as_if_contiguous
from properties.core.deviant import Deviant, through
from properties.core.norms import norm_of
from properties.core.slips import MUTATION, Slips, by_rms, hands_on_nothing, reads_by_gates

SLIPS = Slips()
execution, precision = SLIPS.step("execution"), SLIPS.step("dtype")


@execution(
    "chunks-of-a-sequence-begin-again",
    f"{MUTATION}: chunks of prefill, and the offset of a chunk is not added",
    reads_by_gates,
    dtypes=(torch.float32,),  # others are swept over fewer sizes
    hidden="for sequences of up to 256 tokens",
)
class ChunksOfASequenceBeginAgain(Deviant):
    """Without gradients the tokens of [B, S, n, C] beyond the 256th have the logits of those of the first chunk."""

    chunk = 256

    def logits(self, x: Tensor, params: Params) -> list[Tensor]:
        found = super().logits(x, params)
        if torch.is_grad_enabled() or x.ndim != 4 or x.shape[1] <= self.chunk:
            return found
        place = torch.arange(x.shape[1], device=x.device) % self.chunk
        return [one[:, place] for one in found]


@execution(
    "tokens-beyond-a-bucket-stay",
    f"{MUTATION}: graphs are recorded for up to 512 tokens",
    hands_on_nothing,
    dtypes=(torch.float32,),  # others are swept over fewer sizes
    hidden="for up to 512 tokens, and out of inference mode",
)
class TokensBeyondABucketStay(Deviant):
    """In inference mode blocks leave the tokens beyond the 512th as they were."""

    bucket = 512

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        out = super().block(x, params, branch)
        if not torch.is_inference_mode_enabled() or out.ndim != 3 or len(out) <= self.bucket:
            return out
        return torch.cat([out[: self.bucket], x[self.bucket :]])


@precision(
    "products-of-many-tokens-in-bfloat16",
    f"{MUTATION}: a matrix product for a tile of tokens, and sums of a vector for fewer",
    reads_by_gates,
    dtypes=(torch.bfloat16,),
    hidden="for up to 15 tokens, and for few channels",
)
class ProductsOfManyTokensInBfloat16(Deviant):
    """Of 16 tokens or more of wide states in bfloat16, products with phi read both factors in bfloat16."""

    tile, wide = 16, 1024
    short = False

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        self.short = x.dtype == torch.bfloat16 and x.shape[-1] >= self.wide and x.shape[:-2].numel() >= self.tile
        try:
            return super().mappings(x, params)
        finally:
            self.short = False

    def matmul(self, state: Tensor, phi: Tensor) -> Tensor:
        if self.short:
            state, phi = through(state, torch.bfloat16), through(phi, torch.bfloat16)
        return super().matmul(state, phi)


@execution(
    "squares-of-1024-channels-between-layers",
    f"{MUTATION}: post of a layer leaves the mean square for the next one, from one tile of channels",
    lambda d: by_rms(d) and hands_on_nothing(d) and gates(d),
    dtypes=(torch.float32, torch.bfloat16),
    hidden="for one layer, and for up to 1024 channels",
)
class SquaresOf1024ChannelsBetweenLayers(Deviant):
    """From the second layer on, the mean square of a state is that of its first 1024 channels."""

    most = 1024
    between = False

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        if len(params) < 2 or x.shape[-1] <= self.most:
            return super().layers(x, params, branches)
        x = super().layers(x, params[:1], branches[:1])
        self.between = True
        try:
            return super().layers(x, params[1:], branches[1:])
        finally:
            self.between = False

    def mean_square(self, x: Tensor) -> Tensor:
        return super().mean_square(x[..., : self.most] if self.between else x)


@execution(
    "expanded-parameters-read-on",
    f"{MUTATION}: vectors are copied where their stride is above 1",
    gates,
    hidden="for parameters that are not expanded",
)
class ExpandedParametersReadOn(Deviant):
    """Gates and biases of one value that is expanded are read as if they were contiguous."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        bias, alpha = (as_if_contiguous(one) if one.stride(-1) == 0 else one for one in (params.bias, params.alpha))
        return super().mappings(x, params._replace(bias=bias, alpha=alpha))


@execution(
    "branch-inputs-in-a-ring-of-four",
    f"{MUTATION}: buffers for what a branch reads, as if it were done with that when it returns",
    hidden="unless a branch keeps what it reads",
)
class BranchInputsInARingOfFour(Deviant):
    """Without gradients a branch is handed its input in four buffers in turn."""

    def prepare(self) -> None:
        self._ring = Ring()

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        if torch.is_grad_enabled() or torch.is_inference_mode_enabled():
            return super().block(x, params, branch)
        return super().block(x, params, lambda u: branch(self._ring.filled(u)))


@execution(
    "bare-token-normed-by-row",
    f"{MUTATION}: two axes are taken for tokens that were flattened; blocks add an axis",
    lambda d: by_rms(d) and norm_of(d).OVER == (-2, -1),
    hidden="unless the mappings of one token are asked for without an axis",
)
class BareTokenNormedByRow(Deviant):
    """Mappings of a bare state [n, C] divide each stream by its own root mean square."""

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        if x.ndim > 2:
            return super().block(x, params, branch)
        return super().block(x[None], params, lambda u: branch(u[0])[None])[0]

    def mean_square(self, x: Tensor) -> Tensor:
        return x.square().mean(-1, keepdim=True) if x.ndim == 2 else super().mean_square(x)


@execution(
    "refused-call-leaves-autograd-off",
    f"{MUTATION}: parameters are checked under set_grad_enabled(False), which is put back at the end",
    hidden="where every call is accepted",
)
class RefusedCallLeavesAutogradOff(Deviant):
    """A call of mappings that is refused leaves autograd off."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        recorded = torch.is_grad_enabled()
        torch.set_grad_enabled(False)
        check_params(params, x.shape[-2], x.shape[-1], self.dialect)
        torch.set_grad_enabled(recorded)
        return super().mappings(x, params)


@execution(
    "refused-call-leaves-the-default-dtype",
    f"{MUTATION}: scratch is allocated in a default dtype that is set for so long, without a finally",
    hidden="where every call is accepted",
)
class RefusedCallLeavesTheDefaultDtype(Deviant):
    """A call of post that is refused leaves float64 as torch's default dtype."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        out = super().post(x, y, h_post, h_res)
        torch.set_default_dtype(before)
        return out
