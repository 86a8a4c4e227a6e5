"""Slips of execution with strides: a view is read as if it were contiguous."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mhc_ref import Mappings, Params
from properties.core.deviant import Deviant, with_gradient_of
from properties.core.slips import MUTATION, Slips, mixes, reads_by_gates

SLIPS = Slips()
execution = SLIPS.step("execution")
gradient = SLIPS.step("gradient")


def as_if_contiguous(values: Tensor) -> Tensor:
    """What a kernel reads that walks from the data pointer as if the tensor were contiguous; within the storage."""
    if values.is_contiguous():
        return values
    storage = values.untyped_storage().nbytes() // values.element_size()
    available = storage - int(values.storage_offset())
    flat = values.as_strided((available,), (1,), values.storage_offset())
    return flat[torch.arange(values.numel(), device=values.device).remainder(available)].view(values.shape)


@execution("state-strides-ignored", "aiter #4432: slice stride derived as stride(0)/n (bug 38)")
class StateStridesIgnored(Deviant):
    """The state is read as if it were contiguous."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        return super().mappings(as_if_contiguous(x), params)

    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        return super().pre(as_if_contiguous(x), h_pre)

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        return super().post(as_if_contiguous(x), y, h_post, h_res)


@execution("mix-strides-ignored", "aiter #5292: mhc_post ignores the strides of the mix tensors (bug 37)")
class MixStridesIgnored(Deviant):
    """h_post and h_res are read as if they were contiguous."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        return Mappings(*(mapping.contiguous() for mapping in super().mappings(x, params)))

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        return super().post(x, y, as_if_contiguous(h_post), as_if_contiguous(h_res))


@execution("logits-strides-ignored", "aiter #5292 (bug 37)", mixes)
class LogitsStridesIgnored(Deviant):
    """The residual logits are read as if they were contiguous."""

    def project(self, logits: Tensor) -> Tensor:
        return super().project(as_if_contiguous(logits))

    def h_res(self, logits: Tensor, n: int) -> Tensor:
        return super().h_res(logits.contiguous(), n)


def as_if_stepped(values: Tensor, axes: int) -> Tensor:
    """What a kernel reads that finds every token by the stride of the last token axis alone; within the storage."""
    if values.ndim <= axes + 1 or not values.numel():
        return values
    available = values.untyped_storage().nbytes() // values.element_size() - int(values.storage_offset())
    flat = values.as_strided((available,), (1,), values.storage_offset())
    index = torch.arange(values.shape[:-axes].numel(), device=values.device) * values.stride(-axes - 1)
    for dim in range(-axes, 0):
        step = torch.arange(values.shape[dim], device=values.device) * values.stride(dim)
        index = index.unsqueeze(-1) + step
    return flat[index.remainder(available)].view(values.shape)


@execution(
    "token-axes-not-collapsed",
    "aiter #4432: one token stride, taken from the last axis (bug 38)",
    hidden="where one stride leads from token to token",
)
class TokenAxesNotCollapsed(Deviant):
    """Tokens on two axes are found by the stride of the second alone."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        return super().mappings(as_if_stepped(x, 2), params)

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        return super().post(as_if_stepped(x, 2), y, h_post, h_res)


@execution(
    "parameter-strides-ignored",
    f"{MUTATION}: scale and base cut out of one packed tensor",
    hidden="for parameters that are contiguous",
)
class ParameterStridesIgnored(Deviant):
    """Biases and gates are read as if they were contiguous."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        read = params._replace(bias=as_if_contiguous(params.bias), alpha=as_if_contiguous(params.alpha))
        return super().mappings(x, read)


@execution(
    "branch-output-strides-ignored",
    "aiter #5292 (bug 37), for the branch's output inside a block",
    hidden="for a branch whose output is contiguous",
)
class BranchOutputStridesIgnored(Deviant):
    """The output of the branch is read as if it were contiguous."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        return super().post(x, as_if_contiguous(y), h_post, h_res)


@gradient(
    "saved-strides-ignored",
    f"{MUTATION}: what is saved is read by another kernel than what is given",
    reads_by_gates,
    hidden="for a contiguous state",
)
class SavedStridesIgnored(Deviant):
    """Backwards the state that h_pre was multiplied with is read as if it were contiguous."""

    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        by_state = super().pre(x, h_pre.detach())
        by_gates = super().pre(as_if_contiguous(x.detach()), h_pre)
        return with_gradient_of(by_state, by_state + by_gates)


class _FromTheStart(torch.autograd.Function):
    """The identity, whose backward pass reads its cotangent from the start of its storage."""

    @staticmethod
    def forward(ctx: Any, result: Tensor) -> Tensor:
        return result.clone()

    @staticmethod
    def backward(ctx: Any, *bars: Any) -> Any:
        return bars[0].as_strided(bars[0].shape, bars[0].stride(), 0).clone()


@gradient(
    "cotangent-offset-ignored",
    f"{MUTATION}: a backward kernel is given the pointer of the storage",
    hidden="for cotangents that begin their storage, as those of an output that is not cut out of a larger one",
)
class CotangentOffsetIgnored(Deviant):
    """The backward pass of post reads its cotangent from the start of its storage, wherever it begins."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        found: Any = _FromTheStart.apply(super().post(x, y, h_post, h_res))
        return found


@execution(
    "third-token-axis-lost",
    f"{MUTATION}: a grid of two axes for tokens",
    reads_by_gates,
    hidden="for tokens on one axis or two",
)
class ThirdTokenAxisLost(Deviant):
    """Of tokens on three axes [A, B, S, n, C] those of B after the first have the gates of the first."""

    def logits(self, x: Tensor, params: Params) -> list[Tensor]:
        found = super().logits(x, params)
        return [one[:, :1].expand_as(one) for one in found] if x.ndim == 5 else found
