"""Controls that norm the state by another formula: what no law may accuse, as in `properties.catalogue.controls`."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mhc_ref import Params
from properties.catalogue.deviations.any_size import ScaledNorm, scales
from properties.core.deviant import Deviant
from properties.core.reads import read_of
from properties.core.slips import Controls, by_rms, clamps_norm

CONTROLS = Controls()
control = CONTROLS.control


@control("norm-after-matmul", by_rms)
class NormAfterMatmul(Deviant):
    """The state is projected first and divided by its rms afterwards, mHC eq. (14)-(16), the weight folded into phi."""

    def projected(self, x: Tensor, params: Params) -> Tensor:
        weight = None if params.norm_weight is None else self.computed.norm_offset + params.norm_weight
        rms = self.divisor(x)
        if not self.computed.shared_projection:
            if self.norm_axes() == (-1,) or not read_of(self.computed).by_stream:
                return super().projected(x, params)
            return self.matmul(x, params.phi if weight is None else weight.unsqueeze(-1) * params.phi) / rms.squeeze(-1)
        weighted = x if weight is None else x * weight.view(x.shape[-2:])
        by_stream = weighted @ params.phi / rms
        return torch.cat([by_stream[..., 0], by_stream[..., 1], by_stream[..., 2:].flatten(-2)], -1)


@control("scaled-norm", scales)
class NormOfAnySize(ScaledNorm):
    """A state is divided by its largest entry before it is squared, so that states of any size are normalised."""


@control("norm-by-normalize", clamps_norm)
class NormByNormalize(Deviant):
    """The norm is `torch.nn.functional.normalize`, times the root of how many numbers it is of."""

    def normalised(self, x: Tensor, weight: Tensor | None) -> Tensor:
        numbers = x.flatten(-len(self.norm_axes()))
        unit = torch.nn.functional.normalize(numbers, dim=-1, eps=self.computed.rms_eps) * math.sqrt(numbers.shape[-1])
        return unit.view(x.shape) if weight is None else self.weighted(unit.view(x.shape), weight.view(x.shape[-2:]))


@control("norm-by-clamped-rsqrt", lambda d: clamps_norm(d) and d.rms_eps > 1e-15)
class NormByClampedRsqrt(Deviant):
    """The state is multiplied by the rsqrt of its sum of squares, which is raised to at least the square of the eps."""

    def normalised(self, x: Tensor, weight: Tensor | None) -> Tensor:
        count = math.prod(x.shape[k] for k in self.norm_axes())
        squares = x.square().sum(self.norm_axes(), keepdim=True).clamp_min(self.computed.rms_eps**2)
        unit = x * (squares.rsqrt() * math.sqrt(count))
        return unit if weight is None else self.weighted(unit, weight.view(x.shape[-2:]))
