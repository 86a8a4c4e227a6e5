"""Slips that show at cotangents, gates, lines and depths that tests by hand do not go to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mhc_ref import Branch, Params
from properties.core.deviant import Deviant, with_gradient_of
from properties.core.slips import MUTATION, Slips, mixes

SLIPS = Slips()
gradient = SLIPS.step("gradient")
missing = SLIPS.step("missing-term")

ORDINARY = "for cotangents of order 1"


class Handed(torch.autograd.Function):
    """The same value, the cotangent of which is changed."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.change = change
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        return ctx.change(cotangents[0]), None


class Changed(Deviant):
    """The cotangent of h_res is changed before it is pulled back."""

    def project(self, logits: Tensor) -> Tensor:
        found: Any = Handed.apply(super().project(logits), self.changed)
        return found

    def changed(self, cotangent: Tensor) -> Tensor:
        return cotangent


@gradient("cotangent-overflows", "unsloth-zoo #859: a backward pass in float16", mixes, hidden=ORDINARY)
class CotangentOverflows(Changed):
    """Cotangents of h_res above 65504, those of a scaled loss, are infinite."""

    def changed(self, cotangent: Tensor) -> Tensor:
        return torch.where(cotangent.abs() > 65504, cotangent.sign() * torch.inf, cotangent)


@gradient(
    "cotangent-flushed", f"{MUTATION}: a backward pass in float16, of a mean over many tokens", mixes, hidden=ORDINARY
)
class CotangentFlushed(Changed):
    """Cotangents of h_res below 1e-8 are 0."""

    def changed(self, cotangent: Tensor) -> Tensor:
        return torch.where(cotangent.abs() < 1e-8, 0.0, cotangent)


@gradient("cotangent-clamped", f"{MUTATION}: a guard against explosions, left in", mixes, hidden=ORDINARY)
class CotangentClamped(Changed):
    """Cotangents of h_res are clamped to 10^4."""

    def changed(self, cotangent: Tensor) -> Tensor:
        return cotangent.clamp(-1e4, 1e4)


@gradient(
    "cotangents-share-an-exponent",
    f"{MUTATION}: fixed-point numbers, whose sums do not depend on their order",
    mixes,
    hidden="for cotangents of one size",
)
class CotangentsShareAnExponent(Changed):
    """Cotangents of h_res are multiples of 2^-24 of the largest of a call."""

    def changed(self, cotangent: Tensor) -> Tensor:
        largest = cotangent.abs().amax() if cotangent.numel() else cotangent.new_zeros(())
        step = torch.where(largest > 0, largest, 1.0) * 2.0**-24
        return torch.where(cotangent.isfinite().all() & (step > 0), (cotangent / step).round() * step, cotangent)


@gradient(
    "recomputed-from-clamped-logits",
    f"{MUTATION}: a guard against overflows in a recomputation alone",
    mixes,
    hidden="for logits within 50",
)
class RecomputedFromClampedLogits(Deviant):
    """The gradient is that at logits clamped to [-50, 50]."""

    def project(self, logits: Tensor) -> Tensor:
        clamped = super().project(with_gradient_of(logits.clamp(-50, 50), logits))
        return with_gradient_of(super().project(logits), clamped)


@gradient(
    "cotangent-nan-hidden",
    f"{MUTATION}: nan_to_num in a backward pass",
    mixes,
    hidden="for cotangents that are numbers",
)
class CotangentNanHidden(Changed):
    """Cotangents of h_res that are NaN or infinite are 0."""

    def changed(self, cotangent: Tensor) -> Tensor:
        return _numbers(cotangent)


@gradient(
    "update-hides-nan-backwards",
    f"{MUTATION}: nan_to_num against a scaled loss",
    hidden="for cotangents that are numbers",
)
class UpdateHidesNanBackwards(Deviant):
    """Cotangents of the streams that a block leaves are 0 where they are NaN or infinite."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        found: Any = Handed.apply(super().post(x, y, h_post, h_res), _numbers)
        return found


def _numbers(cotangent: Tensor) -> Tensor:
    return cotangent.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


@missing(
    "streams-in-the-range-of-float16",
    f"{MUTATION}: a guard against infinities of float16, left in for wider dtypes",
    hidden="for streams below 65504",
)
class StreamsInTheRangeOfFloat16(Deviant):
    """Between layers the streams are clamped to what float16 can hold."""

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        for k, (one, branch) in enumerate(zip(params, branches, strict=True)):
            x = self.block(x if k == 0 else x.clamp(-65504, 65504), one, branch)
        return x
