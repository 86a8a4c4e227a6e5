"""Controls that norm the state by another formula: what no law may accuse, as in `properties.catalogue.controls`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mhc_ref import Dialect, Params
from mhc_ref.dialect import FIELDS
from properties.catalogue.deviations.any_size import ScaledNorm, scales
from properties.core.deviant import Deviant
from properties.core.norms import norm_of
from properties.core.reads import read_of
from properties.core.slips import Controls, adds_eps, by_rms, centres, clamps_norm

AS_DECLARED = frozenset(FIELDS) - {"rms_eps_by", "norm_over"}
"""What can be tuned of a norm that knows one way to take an eps."""

CONTROLS = Controls()
control = CONTROLS.control


def _plain(dialect: Dialect) -> bool:
    """The eps is added to the mean square of what is normalised."""
    return dialect.rms_eps_inside and dialect.rms_eps_by == "add" and norm_of(dialect).OVER is not None


@control("norm-after-matmul", by_rms)
class NormAfterMatmul(Deviant):
    """The state is projected first and divided by its rms afterwards, mHC eq. (14)-(16), the weight folded into phi."""

    def projected(self, x: Tensor, params: Params) -> Tensor:
        weight = None if params.norm_weight is None else self.computed.norm_offset + params.norm_weight
        shared = self.computed.shared_projection
        if not shared and (self.norm_axes() == (-1,) or not read_of(self.computed).by_stream):
            return super().projected(x, params)
        x = self.centred(x)
        rms = self.divisor(x)
        if not shared:
            return self.matmul(x, params.phi if weight is None else weight.unsqueeze(-1) * params.phi) / rms.squeeze(-1)
        weighted = x if weight is None else x * weight.view(x.shape[-2:])
        by_stream = weighted @ params.phi / rms
        return torch.cat([by_stream[..., 0], by_stream[..., 1], by_stream[..., 2:].flatten(-2)], -1)


@control("scaled-norm", scales)
class NormOfAnySize(ScaledNorm):
    """A state is divided by its largest entry before it is squared, so that states of any size are normalised."""

    tunable = AS_DECLARED


@control("norm-by-normalize", clamps_norm)
class NormByNormalize(Deviant):
    """The norm is `torch.nn.functional.normalize`, times the root of how many numbers it is of."""

    tunable = AS_DECLARED

    def normalised(self, x: Tensor, weight: Tensor | None) -> Tensor:
        numbers = x.flatten(-len(self.norm_axes()))
        unit = torch.nn.functional.normalize(numbers, dim=-1, eps=self.computed.rms_eps) * math.sqrt(numbers.shape[-1])
        return unit.view(x.shape) if weight is None else self.weighted(unit.view(x.shape), weight.view(x.shape[-2:]))


@control(
    "norm-by-rms-norm", lambda d: adds_eps(d) and d.rms_eps_inside and d.rms_eps_from == "compute" and not d.centred
)
class NormByRmsNorm(Deviant):
    """The norm is `torch.nn.functional.rms_norm` without an eps, which takes that of the dtype."""

    def normalised(self, x: Tensor, weight: Tensor | None) -> Tensor:
        if not _plain(self.computed) or self.computed.rms_eps != torch.finfo(x.dtype).eps:  # it was tuned to another
            return super().normalised(x, weight)
        numbers = x.flatten(-len(self.norm_axes()))
        unit = torch.nn.functional.rms_norm(numbers, numbers.shape[-1:]).view(x.shape)
        return unit if weight is None else self.weighted(unit, weight.view(x.shape[-2:]))


@control("norm-by-layer-norm", lambda d: centres(d) and adds_eps(d) and d.rms_eps_inside)
class NormByLayerNorm(Deviant):
    """The norm is `torch.nn.functional.layer_norm`."""

    def normed(self, x: Tensor, weight: Tensor | None) -> Tensor:
        if not (_plain(self.computed) and self.computed.centred):  # it was tuned to another one
            return super().normed(x, weight)
        numbers = x.flatten(-len(self.norm_axes()))
        unit = torch.nn.functional.layer_norm(numbers, numbers.shape[-1:], eps=self.computed.rms_eps).view(x.shape)
        return unit if weight is None else self.weighted(unit, weight.view(x.shape[-2:]))


@control("norm-of-merged-chunks", lambda d: centres(d) and adds_eps(d))
class NormOfMergedChunks(Deviant):
    """Mean and variance are those of chunks, merged one after the other (Welford; Chan, Golub and LeVeque, 1983)."""

    def normed(self, x: Tensor, weight: Tensor | None) -> Tensor:
        if not self.computed.centred or self.computed.rms_eps_by != "add":
            return super().normed(x, weight)
        numbers = x.flatten(-len(self.norm_axes()))
        count, mean, squares = 0, numbers.new_zeros(()), numbers.new_zeros(())
        for chunk in numbers.split(-(-numbers.shape[-1] // 8), -1):
            more = chunk.shape[-1]
            own = chunk.mean(-1, keepdim=True)
            apart, count = own - mean, count + more
            squares = squares + (chunk - own).square().sum(-1, keepdim=True)
            squares = squares + apart.square() * ((count - more) * more / count)
            mean = mean + apart * (more / count)
        unit = ((numbers - mean) / self.rms(squares / count)).view(x.shape)
        return unit if weight is None else self.weighted(unit, weight.view(x.shape[-2:]))


@control("norm-by-clamped-rsqrt", lambda d: clamps_norm(d) and d.rms_eps > 1e-15)
class NormByClampedRsqrt(Deviant):
    """The state is multiplied by the rsqrt of its sum of squares, which is raised to at least the square of the eps."""

    tunable = AS_DECLARED

    def normalised(self, x: Tensor, weight: Tensor | None) -> Tensor:
        count = math.prod(x.shape[k] for k in self.norm_axes())
        squares = x.square().sum(self.norm_axes(), keepdim=True).clamp_min(self.computed.rms_eps**2)
        unit = x * (squares.rsqrt() * math.sqrt(count))
        return unit if weight is None else self.weighted(unit, weight.view(x.shape[-2:]))
