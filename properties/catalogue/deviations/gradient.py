"""Slips of the backward pass: the values are right, and what autograd returns for them is not."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mhc_ref import Branch, Mappings, Params
from properties.core.deviant import Deviant, with_gradient_of
from properties.core.slips import MUTATION, Slips, adds_eps, affine, by_rms, centres, gated, mixes, turns

SLIPS = Slips()
gradient = SLIPS.step("gradient")


def scaled_gradient(value: Tensor, factor: float) -> Tensor:
    """`value`, with its gradient multiplied by a factor."""
    return with_gradient_of(value, factor * value)


# Of the parameters


@gradient("params-detached", "Automodel's first port: the mixer under torch.no_grad() (bug 5)")
class ParamsDetached(Deviant):
    """No parameter of the block receives a gradient."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        weight = None if params.norm_weight is None else params.norm_weight.detach()
        return super().mappings(x, Params(params.phi.detach(), params.bias.detach(), params.alpha.detach(), weight))


@gradient("alpha-detached", MUTATION, gated)
class AlphaDetached(Deviant):
    """The gates receive no gradient."""

    def gated(self, dynamic: Tensor, gate: Tensor, static: Tensor) -> Tensor:
        return super().gated(dynamic, gate.detach(), static)


@gradient("bias-detached", MUTATION, affine)
class BiasDetached(Deviant):
    """The biases receive no gradient."""

    def gated(self, dynamic: Tensor, gate: Tensor, static: Tensor) -> Tensor:
        return super().gated(dynamic, gate, static.detach())


@gradient("norm-weight-detached", "TileKernels: normw.grad is never compared")
class NormWeightDetached(Deviant):
    """The norm weight receives no gradient."""

    def weighted(self, unit: Tensor, weight: Tensor) -> Tensor:
        return super().weighted(unit, weight.detach())


# Of the state


@gradient("mappings-detached", "coefficients under torch.no_grad() (bug 5)")
class MappingsDetached(Deviant):
    """The coefficients are constants for the backward pass."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        return Mappings(*(mapping.detach() for mapping in super().mappings(x, params)))


@gradient("dynamic-path-detached", "passes Liger's tolerances, below which the whole path lies")
class DynamicPathDetached(Deviant):
    """The state receives no gradient through the coefficients."""

    def projected(self, x: Tensor, params: Params) -> Tensor:
        return super().projected(x.detach(), params)


@gradient("rms-detached", MUTATION, by_rms)
class RmsDetached(Deviant):
    """The root mean square is a constant for the backward pass."""

    def rms(self, mean_square: Tensor) -> Tensor:
        return super().rms(mean_square.detach())


@gradient("mean-detached", f"{MUTATION}: rstd (g - x^ mean(g x^)) of an RMSNorm behind a LayerNorm", centres)
class MeanDetached(Deviant):
    """The mean that a state is centred by is a constant for the backward pass."""

    def mean(self, x: Tensor) -> Tensor:
        return super().mean(x.detach())


@gradient(
    "rms-backward-eps",
    "PaddleFleet #1055, Megatron #4527 (bug 21)",
    lambda d: by_rms(d) and d.rms_eps != 1e-8 and d.rms_eps_by == "add",
)
class RmsBackwardEps(Deviant):
    """The backward pass of the norm has an eps of 1e-8 of its own."""

    def rms(self, mean_square: Tensor) -> Tensor:
        return with_gradient_of(super().rms(mean_square), (mean_square + 1e-8).sqrt())


# with an eps far below any mean of squares it shows in states of zeros alone
@gradient("rms-backward-without-eps", "PaddleFleet #1264, a row of zeros", lambda d: adds_eps(d) and d.rms_eps > 1e-12)
class RmsBackwardWithoutEps(Deviant):
    """The backward pass of the norm divides by a root without its eps, which is 0 where the state is."""

    def rms(self, mean_square: Tensor) -> Tensor:
        return with_gradient_of(super().rms(mean_square), mean_square.sqrt())


@gradient("branch-input-detached", MUTATION)
class BranchInputDetached(Deviant):
    """h_pre receives no gradient from the branch."""

    def gathered(self, x: Tensor, h_pre: Tensor) -> Tensor:
        return super().gathered(x, h_pre.detach())


@gradient("mixing-backward-untransposed", f"{MUTATION}: Megatron-LM #4957 in the backward pass", turns)
class MixingBackwardUntransposed(Deviant):
    """The cotangent of the state is multiplied by the operator where its transpose is due."""

    def mixed(self, x: Tensor, h_res: Tensor) -> Tensor:
        value = super().mixed(x, h_res)
        by_matrix = super().mixed(x.detach(), h_res)
        return with_gradient_of(value, by_matrix + super().mixed(x, h_res.detach().mT))


@gradient("residual-gradient-dropped", f"{MUTATION}: a residual path that is recomputed and not saved")
class ResidualGradientDropped(Deviant):
    """The state receives no gradient along the residual path."""

    def mixed(self, x: Tensor, h_res: Tensor) -> Tensor:
        return super().mixed(x.detach(), h_res)


@gradient("gradient-tail-unwritten", "Megatron #7524: backward for M below 128 that is no power of two (bug 31)")
class GradientTailUnwritten(Deviant):
    """Tokens after the last full group of four receive no gradient through the coefficients."""

    def projected(self, x: Tensor, params: Params) -> Tensor:
        count = x[..., 0, 0].numel()
        written = torch.arange(count, device=x.device) < count // 4 * 4
        return super().projected(torch.where(written.view(*x.shape[:-2], 1, 1), x, x.detach()), params)


# Of the gates


@gradient("post-backward-without-scale", MUTATION, lambda d: d.post_scale != 1)
class PostBackwardWithoutScale(Deviant):
    """The derivative of h_post lacks its factor 2."""

    def h_post(self, logits: Tensor) -> Tensor:
        return scaled_gradient(super().h_post(logits), 1 / self.computed.post_scale)


# Of the projection


@gradient("h-res-detached", f"{MUTATION}: Sinkhorn under torch.no_grad()", mixes)
class HResDetached(Deviant):
    """The residual logits receive no gradient."""

    def project(self, logits: Tensor) -> Tensor:
        return super().project(logits.detach())


@gradient("half-gradient", MUTATION, mixes)
class HalfGradient(Deviant):
    """The gradient of h_res is half of what it should be."""

    def project(self, logits: Tensor) -> Tensor:
        return scaled_gradient(super().project(logits), 0.5)


@gradient("gradient-summed-over-tokens", "mHC.cu #7: d_M without a batch dimension (bug 25)", mixes)
class GradientSummedOverTokens(Deviant):
    """Every token receives the gradient of the residual logits summed over all tokens."""

    def h_res(self, logits: Tensor, n: int) -> Tensor:
        summed = logits.sum(tuple(range(logits.ndim - 1)), keepdim=True).expand(logits.shape)
        return super().h_res(with_gradient_of(logits, summed), n)


def _through_bfloat16(cotangent: Tensor) -> Tensor:
    return cotangent.bfloat16().to(cotangent.dtype)


@gradient("gradient-in-bfloat16", "Megatron #4624, #4469: bfloat16 accumulators for g_x (bug 22)")
class GradientInBfloat16(Deviant):
    """The cotangent of the normalised state is rounded to bfloat16."""

    def matmul(self, state: Tensor, phi: Tensor) -> Tensor:
        if not state.requires_grad:
            return super().matmul(state, phi)
        watched = state.view_as(state)
        watched.register_hook(_through_bfloat16)
        return super().matmul(watched, phi)


@gradient("recompute-in-bfloat16", "flagos Megatron-LM-FL #71, #73: precision of recompute (bug 26)")
class RecomputeInBfloat16(Deviant):
    """The backward pass recomputes the coefficients from parameters in bfloat16."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        rounded = params._replace(
            phi=with_gradient_of(params.phi.bfloat16().to(params.phi.dtype), params.phi),
            bias=with_gradient_of(params.bias.bfloat16().to(params.bias.dtype), params.bias),
        )
        pairs = zip(super().mappings(x, params), super().mappings(x, rounded), strict=True)
        return Mappings(*(with_gradient_of(value, recomputed) for value, recomputed in pairs))


# Of many layers


@gradient("layers-detached", f"{MUTATION}: truncated backpropagation, left in")
class LayersDetached(Deviant):
    """No gradient passes from a block to the one before it."""

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        for k, (one, branch) in enumerate(zip(params, branches, strict=True)):
            x = self.block(x.detach() if k else x, one, branch)
        return x


@gradient("checkpoint-late-binding", f"{MUTATION}: a closure over the loop variable, called again to recompute")
class CheckpointLateBinding(Deviant):
    """The backward pass recomputes every block with the parameters of the last."""

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        for one, branch in zip(params, branches, strict=True):

            def run(state: Tensor, branch: Branch = branch) -> Tensor:
                return self.block(state, one, branch)  # noqa: B023  # the slip

            x = checkpoint(run, x, use_reentrant=False)
        return x


@gradient("copies-detached", f"{MUTATION}: n buffers, the first of them the embedding itself")
class CopiesDetached(Deviant):
    """The input receives a gradient from the first of its copies alone."""

    def expand(self, h: Tensor, n: int) -> Tensor:
        copies = super().expand(h, n)
        return torch.cat([copies[..., :1, :], copies[..., 1:, :].detach()], -2)
