"""Slips of packing: which column, row or gate of the parameters belongs to what."""

from __future__ import annotations

import torch
from torch import Tensor

from mhc_ref import Mappings, Params
from mhc_ref.packing import logit_sizes, residual_size, streams_up_to
from properties.core.deviant import Deviant
from properties.core.slips import MUTATION, Slips, gated, mixes, reads_by_gates, takes_matrix

SLIPS = Slips()
packing = SLIPS.step("packing")


@packing("pack-pre-res-post", "nvfp4-megamoe-kernel notes: Sinkhorn on post, 2 sigma on comb (bug 14)", mixes)
class PackPreResPost(Deviant):
    """phi and bias are read as pre | res | post."""

    def split(self, packed: Tensor, n: int) -> list[Tensor]:
        pre, res, post = packed.split([n, residual_size(n, self.computed), n], -1)
        return [pre, post, res]


@packing("pack-res-pre-post", MUTATION, mixes)
class PackResPrePost(Deviant):
    """phi and bias are read as res | pre | post."""

    def split(self, packed: Tensor, n: int) -> list[Tensor]:
        res, pre, post = packed.split([residual_size(n, self.computed), n, n], -1)
        return [pre, post, res]


@packing("pack-post-pre-res", MUTATION, reads_by_gates)
class PackPostPreRes(Deviant):
    """phi and bias are read as post | pre | res."""

    def split(self, packed: Tensor, n: int) -> list[Tensor]:
        pre, post, res = super().split(packed, n)
        return [post, pre, res]


@packing("res-column-major", f"{MUTATION}: mat() of mHC eq. (7) read column-major", takes_matrix)
class ResColumnMajor(Deviant):
    """The residual columns of phi and bias are read column-major."""

    def h_res(self, logits: Tensor, n: int) -> Tensor:
        return super().h_res(logits.unflatten(-1, (n, n)).mT.flatten(-2), n)


@packing("bias-column-major", MUTATION, takes_matrix)
class BiasColumnMajor(Deviant):
    """The residual bias is read column-major, phi row-major."""

    def logits(self, x: Tensor, params: Params) -> list[Tensor]:
        n = x.shape[-2]
        pre, post, res = self.split(params.bias, n)
        bias = torch.cat([pre, post, res.unflatten(-1, (n, n)).mT.flatten()])
        return super().logits(x, params._replace(bias=bias))


@packing("res-shifted-by-one", f"{MUTATION}: an offset of 2n - 1 into the packed logits", takes_matrix)
class ResShiftedByOne(Deviant):
    """The residual logits are read one column too far."""

    def h_res(self, logits: Tensor, n: int) -> Tensor:
        return super().h_res(logits.roll(-1, -1), n)


@packing(
    "phi-channel-major",
    f"{MUTATION}: a state flattened as C x n",
    lambda d: not d.shared_projection,
)
class PhiChannelMajor(Deviant):
    """The rows of phi are taken as channel-major: c * n + s in place of s * C + c."""

    def matmul(self, state: Tensor, phi: Tensor) -> Tensor:
        return state.mT.flatten(-2) @ phi


@packing("phi-reshaped", "PaddleFleet #1055, a transposed weight on the native path (bug 54)")
class PhiReshaped(Deviant):
    """A phi stored as [out, in] is reshaped to [in, out] instead of being transposed."""

    def matmul(self, state: Tensor, phi: Tensor) -> Tensor:
        return super().matmul(state, phi.mT.reshape(phi.shape))


@packing("norm-weight-channel-major", MUTATION)
class NormWeightChannelMajor(Deviant):
    """The norm weight is read channel-major."""

    def weighted(self, unit: Tensor, weight: Tensor) -> Tensor:
        return super().weighted(unit, weight.reshape(weight.shape[::-1]).mT)


@packing("gates-pre-res-post", f"{MUTATION}: pack-pre-res-post in the three scales alone", gated)
class GatesPreResPost(Deviant):
    """The gates of post and res are exchanged."""

    def logits(self, x: Tensor, params: Params) -> list[Tensor]:
        return super().logits(x, params._replace(alpha=params.alpha[[0, 2, 1]]))


@packing("gates-post-pre-res", MUTATION, gated)
class GatesPostPreRes(Deviant):
    """The gates of pre and post are exchanged."""

    def logits(self, x: Tensor, params: Params) -> list[Tensor]:
        return super().logits(x, params._replace(alpha=params.alpha[[1, 0, 2]]))


@packing("one-gate", f"{MUTATION}: HC eq. (5) has one alpha, mHC eq. (7) three", gated)
class OneGate(Deviant):
    """The first gate is used for all three mappings."""

    def logits(self, x: Tensor, params: Params) -> list[Tensor]:
        return super().logits(x, params._replace(alpha=params.alpha[[0, 0, 0]]))


@packing("mappings-exchanged", MUTATION, reads_by_gates)
class MappingsExchanged(Deviant):
    """h_pre and h_post are returned in each other's place."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        pre, post, res = super().mappings(x, params)
        return Mappings(post, pre, res)


@packing(
    "four-streams-hardcoded",
    "TileKernels norm_fn `if j < 24`; mlx-lm #13, 4x4 kernel (bug 52)",
    lambda d: mixes(d) and any(sum(logit_sizes(n, d)) > 24 for n in streams_up_to(8, d)),
)
class FourStreamsHardcoded(Deviant):
    """Only the first 24 columns of phi are computed, which is all of them at n = 4."""

    def matmul(self, state: Tensor, phi: Tensor) -> Tensor:
        full = super().matmul(state, phi)
        return torch.cat([full[..., :24], torch.zeros_like(full[..., 24:])], -1)
