"""Slips of precision: a stage stored, rounded or summed in a dtype coarser than the contract says."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mhc_ref import Mappings, Params
from mhc_ref.block import by_channel
from properties.core.deviant import Deviant, through, through_tf32, with_gradient_of
from properties.core.slips import MUTATION, Slips, affine, by_rms, centres, constrains, mixes

SLIPS = Slips()
precision = SLIPS.step("dtype")
COARSE = (torch.bfloat16,)
"""Where a stage takes the dtype of the state, only states below float32 show it."""


def _single(params: Params) -> Params:
    weight = None if params.norm_weight is None else params.norm_weight.float()
    return Params(params.phi.float(), params.bias.float(), params.alpha.float(), weight)


@precision("coefficients-in-bfloat16", "MaxText: coefficients in cfg.dtype, only Sinkhorn in float32")
class CoefficientsInBfloat16(Deviant):
    """The logits of all three mappings are rounded to bfloat16."""

    def logits(self, x: Tensor, params: Params) -> list[Tensor]:
        return [through(logits, torch.bfloat16) for logits in super().logits(x, params)]


@precision("h-res-in-bfloat16", "HF, Automodel, Megatron store H_res in bfloat16", mixes)
class HResInBfloat16(Deviant):
    """The emitted matrix is rounded to bfloat16."""

    def project(self, logits: Tensor) -> Tensor:
        return through(super().project(logits), torch.bfloat16)


@precision("gates-in-bfloat16", "sglang #26843, post mix of the wrong dtype (bug 46)")
class GatesInBfloat16(Deviant):
    """h_pre and h_post are rounded to bfloat16."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        pre, post, res = super().mappings(x, params)
        return Mappings(through(pre, torch.bfloat16), through(post, torch.bfloat16), res)


@precision("params-in-bfloat16", "llama.cpp #28696 (bug 51); Automodel #2216 (bug 61)")
class ParamsInBfloat16(Deviant):
    """phi is stored in bfloat16."""

    def matmul(self, state: Tensor, phi: Tensor) -> Tensor:
        return super().matmul(state, through(phi, torch.bfloat16))


@precision("params-type-punned", "mlx-vlm #2139: bfloat16 scale and base read as float32 (bug 49)", affine)
class ParamsTypePunned(Deviant):
    """The bias is stored in bfloat16 and its bytes are read as float32, two numbers in one."""

    def logits(self, x: Tensor, params: Params) -> list[Tensor]:
        stored = params.bias.detach().to(torch.bfloat16)
        punned = torch.cat([stored, stored]).view(torch.float32).to(params.bias.dtype)
        return super().logits(x, params._replace(bias=with_gradient_of(punned, params.bias)))


@precision("projection-in-bfloat16", "sglang-jax's head: the normalised state rounded to bfloat16")
class ProjectionInBfloat16(Deviant):
    """The normalised state is rounded to bfloat16 before it is projected."""

    def matmul(self, state: Tensor, phi: Tensor) -> Tensor:
        return super().matmul(through(state, torch.bfloat16), phi)


@precision("projection-in-tf32", "TileKernels: fn rounded to TF32; DeepGEMM tf32_hc_prenorm_gemm (bug 36)")
class ProjectionInTf32(Deviant):
    """The projection reads both operands as TensorFloat-32."""

    def matmul(self, state: Tensor, phi: Tensor) -> Tensor:
        return super().matmul(through_tf32(state), through_tf32(phi))


@precision(
    "bfloat16-for-tf32",
    f"{MUTATION}: the wrong precision of a dot",
    dtypes=(torch.float32, torch.bfloat16),
    hidden="to a tolerance that was widened until TensorFloat-32 passed",
)
class Bfloat16ForTf32(Deviant):
    """TensorFloat-32 is declared, and the operands of the projection are read in bfloat16."""

    products = "tf32"

    def matmul(self, state: Tensor, phi: Tensor) -> Tensor:
        return super().matmul(through(state, torch.bfloat16), through(phi, torch.bfloat16))


@precision("rms-in-bfloat16", f"{MUTATION}: a reduction in the dtype of its operand", by_rms)
class RmsInBfloat16(Deviant):
    """The mean square is kept in bfloat16."""

    def mean_square(self, x: Tensor) -> Tensor:
        return through(super().mean_square(x), torch.bfloat16)


@precision("mean-in-bfloat16", f"{MUTATION}: x.mean(-1) before x.float()", centres)
class MeanInBfloat16(Deviant):
    """The mean that a state is centred by is kept in bfloat16."""

    def mean(self, x: Tensor) -> Tensor:
        return through(super().mean(x), torch.bfloat16)


@precision("variance-of-moments", f"{MUTATION}: mean(x^2) - mean(x)^2 of kernels that read a state once", centres)
class VarianceOfMoments(Deviant):
    """The variance is the mean of squares less the square of the mean, which cancel."""

    def normed(self, x: Tensor, weight: Tensor | None) -> Tensor:
        variance = (self.mean_square(x) - self.mean(x).square()).clamp_min(0)
        unit = self.centred(x) / self.rms(variance)
        return unit if weight is None else self.weighted(unit, weight.view(x.shape[-2:]))


CHUNK = 512
"""Channels that a split kernel sums by itself."""


def _chunks(x: Tensor) -> Iterator[Tensor]:
    """A state [..., n, C] as several, each with the channels of one chunk and zeros."""
    chunk = torch.arange(x.shape[-1], device=x.device) // CHUNK
    yield from (torch.where(chunk == k, x, 0) for k in range(-(-x.shape[-1] // CHUNK)))


@precision(
    "partial-logits-in-bfloat16",
    f"{MUTATION}: a split over channels whose partial sums have the dtype of the state",
    hidden=f"for up to {CHUNK} channels",
)
class PartialLogitsInBfloat16(Deviant):
    """The projection is summed in chunks of channels, whose sums are stored in bfloat16."""

    def matmul(self, state: Tensor, phi: Tensor) -> Tensor:
        whole = super().matmul
        if state.shape[-1] <= CHUNK:
            return whole(state, phi)
        return torch.stack([through(whole(one, phi), torch.bfloat16) for one in _chunks(state)]).sum(0)


@precision(
    "partial-squares-in-bfloat16",
    f"{MUTATION}: a split over channels whose partial sums have the dtype of the state",
    by_rms,
    hidden=f"for up to {CHUNK} channels",
)
class PartialSquaresInBfloat16(Deviant):
    """The squares of a state are summed in chunks of channels, whose sums are stored in bfloat16."""

    def mean_square(self, x: Tensor) -> Tensor:
        whole = super().mean_square
        if x.shape[-1] <= CHUNK:
            return whole(x)
        return torch.stack([through(whole(one), torch.bfloat16) for one in _chunks(x)]).sum(0)


@precision("sinkhorn-in-state-dtype", "FFTYYY/mhc-lite: Sinkhorn in x.dtype", constrains, COARSE)
class SinkhornInStateDtype(Deviant):
    """The residual logits are rounded to the dtype of the state before the projection."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        pre, post, res = self.logits(self.widened(x), params)
        return Mappings(self.h_pre(pre), self.h_post(post), self.h_res(through(res, x.dtype), x.shape[-2]))


@precision("mixing-in-bfloat16", "TileOPs: bfloat16 accumulators in H x", mixes)
class MixingInBfloat16(Deviant):
    """The mixed streams are rounded to bfloat16 before the branch output is added."""

    def mixed(self, x: Tensor, h_res: Tensor) -> Tensor:
        return through(super().mixed(x, h_res), torch.bfloat16)


@precision(
    "h-res-cast-to-state-dtype",
    "transformers 5.24.0, Automodel since #2159: comb cast before the matmul",
    mixes,
    COARSE,
)
class HResCastToStateDtype(Deviant):
    """h_res and h_post are cast to the dtype of the state, and the streams are mixed in it."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        return self.operator(h_res).to(x.dtype) @ x + self.spread(y, h_post.to(x.dtype))


@precision("pre-in-state-dtype", "Automodel: coefficients cast to the dtype of the state", dtypes=COARSE)
class PreInStateDtype(Deviant):
    """The branch input is summed in the dtype of the state."""

    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        total = torch.zeros_like(x[..., 0, :])
        for k in range(x.shape[-2]):
            total = total + by_channel(h_pre, x)[..., k, :].to(x.dtype) * x[..., k, :]
        return total


@precision("output-not-cast-back", "lucidrains 072bc2f, dtype restoration (bug 55)", dtypes=COARSE)
class OutputNotCastBack(Deviant):
    """The block returns float32 whatever the dtype of the state."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        return super().post(self.widened(x), y, h_post, h_res)


@precision("branch-input-not-cast-back", "flagos Megatron-LM-FL #73, dtype of the activation (bug 26)", dtypes=COARSE)
class BranchInputNotCastBack(Deviant):
    """The branch receives float32 whatever the dtype of the state."""

    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        return super().pre(self.widened(x), h_pre)


@precision("float32-inside", f"{MUTATION}: `.float()` written for every input", dtypes=(torch.float64,))
class Float32Inside(Deviant):
    """float64 states and logits are computed in float32."""

    def head(self, x: Tensor, params: Params) -> Tensor:
        return super().head(x, _single(params))

    def widened(self, values: Tensor) -> Tensor:
        return values.float()

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        return Mappings(*(mapping.to(params.phi.dtype) for mapping in super().mappings(x, _single(params))))

    def project(self, logits: Tensor) -> Tensor:
        return super().project(logits).to(logits.dtype)

    def spread(self, y: Tensor, h_post: Tensor) -> Tensor:
        return super().spread(y, h_post.float())

    def gathered(self, x: Tensor, h_pre: Tensor) -> Tensor:
        return super().gathered(x, h_pre.float())


@precision("state-in-float16", "Megatron #4469, order of the products in float16 (bug 53)")
class StateInFloat16(Deviant):
    """The unnormalised state passes float16, which loses its small numbers and overflows its large ones."""

    def normalised(self, x: Tensor, weight: Tensor | None) -> Tensor:
        return super().normalised(through(x, torch.float16), weight)
