"""Slips of gradients, and of outputs that are recorded for one, by who had read the laws; they passed at that time.

docs/adversary.md has the account.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mhc_ref import Branch, Dialect, Mappings, Params
from properties.catalogue.deviations.readers import gates
from properties.core.case import map_tensors
from properties.core.deviant import Deviant, valued, with_gradient_of
from properties.core.slips import MUTATION, Slips

SLIPS = Slips()
gradient, execution, gamed = SLIPS.step("gradient"), SLIPS.step("execution"), SLIPS.step("gamed")


@gradient(
    "frozen-phi-stops-gates",
    f"{MUTATION}: where phi asks for no gradient the kernel for that of the state alone runs",
    gates,
    hidden="unless the weights are frozen, and gates and biases are trained",
)
class FrozenPhiStopsGates(Deviant):
    """Beside a phi that asks for no gradient, gates and biases get none."""

    def logits(self, x: Tensor, params: Params) -> list[Tensor]:
        if x.requires_grad and not params.phi.requires_grad:
            params = params._replace(bias=params.bias.detach(), alpha=params.alpha.detach())
        return super().logits(x, params)


class _IntoGrad(torch.autograd.Function):
    """The identity, whose gradient is added to the `.grad` of a leaf that has one."""

    @staticmethod
    def forward(ctx: Any, phi: Tensor) -> Tensor:
        ctx.phi = phi
        return phi.clone()

    @staticmethod
    def backward(ctx: Any, *bars: Any) -> Any:
        if ctx.phi.grad is None:
            return bars[0]
        ctx.phi.grad.add_(bars[0])
        return torch.zeros_like(bars[0])


@gradient(
    "gradient-fused-into-grad",
    "Megatron's fusion of the accumulation of gradients, where a hook or autograd.grad asks for one",
    gates,
    hidden="for leaves without gradients, and for what a backward pass leaves in a leaf",
)
class GradientFusedIntoGrad(Deviant):
    """Where phi has a `.grad`, its gradient is added to that, and autograd is handed zeros."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        if params.phi.requires_grad and params.phi.is_leaf:
            fused: Any = _IntoGrad.apply(params.phi)
            params = params._replace(phi=fused)
        return super().mappings(x, params)


@execution(
    "recorded-tail-unwritten",
    f"{MUTATION}: a kernel that saves for the backward pass ends at 2048 tokens, and the others are as before",
    dtypes=(torch.float32,),  # others are swept over fewer sizes
    hidden="without gradients, and for up to 2048 tokens",
)
class RecordedTailUnwritten(Deviant):
    """With gradients recorded, what post gives for tokens beyond the 2048th is their state; gradients are right."""

    recorded = 2048

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        out = super().post(x, y, h_post, h_res)
        if not out.requires_grad or out.ndim != 3 or len(out) <= self.recorded:
            return out
        return valued(torch.cat([out.detach()[: self.recorded], x.detach()[self.recorded :]]), out)


class _MadeFinite(torch.autograd.Function):
    """The identity, whose gradient has zeros for what is not finite."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        return part.clone()

    @staticmethod
    def backward(ctx: Any, *bars: Any) -> Any:
        return bars[0].nan_to_num(0.0, 0.0, 0.0)


@gamed(
    "parameter-gradients-made-finite",
    f"{MUTATION}: partial sums that overflow are left out, so that no step is skipped",
    gates,
    hidden="while gradients are finite",
)
class ParameterGradientsMadeFinite(Deviant):
    """What is not finite in the gradients by parameters is replaced by 0."""

    def logits(self, x: Tensor, params: Params) -> list[Tensor]:
        return super().logits(x, map_tensors(params, _MadeFinite.apply))


@gradient(
    "state-gradient-of-64-channels",
    f"{MUTATION}: a fused backward pass of layers hands on one tile of channels",
    dtypes=(torch.float32,),  # others are swept over fewer sizes
    hidden="for one layer, and for up to 64 channels",
)
class StateGradientOf64Channels(Deviant):
    """Between layers the gradient by the state is handed back for the first 64 channels alone."""

    handed = 64

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        if self.computed.read_from != "own" or x.shape[-1] <= self.handed:
            return super().layers(x, params, branches)
        for k, (one, branch) in enumerate(zip(params, branches, strict=True)):
            if k:
                x = torch.cat([x[..., : self.handed], x[..., self.handed :].detach()], -1)
            x = super().layers(x, (one,), (branch,))
        return x


@gradient(
    "layers-sharing-phi-learn-once",
    f"{MUTATION}: gradients of layers are kept in a table by phi",
    gates,
    hidden="for layers that share all parameters or none",
)
class LayersSharingPhiLearnOnce(Deviant):
    """Of layers that share phi but not the biases, the last alone teaches its gates and biases."""

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        found: list[Params] = []
        for k, one in enumerate(params):
            later = any(two.phi is one.phi and two.bias is not one.bias for two in params[k + 1 :])
            found.append(one._replace(bias=one.bias.detach(), alpha=one.alpha.detach()) if later else one)
        return super().layers(x, found, branches)


def first_alone(one: Tensor) -> Tensor:
    """Of an expanded number, what a kernel has that reads past it: zeros behind the first."""
    if len(one) < 2 or one.stride(-1) != 0:
        return one
    value = one.detach().clone()
    value[1:] = 0
    return with_gradient_of(value, one)


@gradient(
    "saved-zero-strides-ignored",
    f"{MUTATION}: gates that are one number, expanded, are read backwards as if each had its place",
    gates,
    hidden="for gates that lie in full",
)
class SavedZeroStridesIgnored(Deviant):
    """Backwards all gates but the first are 0 where they are one number that is expanded."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        if len(params.alpha) < 2 or params.alpha.stride(-1) != 0:
            return super().mappings(x, params)
        saved = super().mappings(x, params._replace(alpha=first_alone(params.alpha)))
        used = super().mappings(x, map_tensors(params, Tensor.detach))
        pairs = zip(used, saved, strict=True)
        return Mappings(*(one if not back.requires_grad else valued(one, back) for one, back in pairs))


def scales_post(dialect: Dialect) -> bool:
    """h_post is scaled by another number than 1, by a gate that reads its logits."""
    return gates(dialect) and dialect.post_scale != 1


@execution(
    "post-scale-of-a-thread",
    f"{MUTATION}: the configuration is thread-local, and the thread that builds a model alone sets it",
    scales_post,
    hidden="in the thread that built it",
)
class PostScaleOfAThread(Deviant):
    """In threads other than that which built it, h_post has the scale 1."""

    home = 0

    def prepare(self) -> None:
        super().prepare()
        self.home = threading.get_ident()

    def h_post(self, logits: Tensor) -> Tensor:
        found = super().h_post(logits)
        return found if threading.get_ident() == self.home else found / self.computed.post_scale
