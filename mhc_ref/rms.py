"""The root of the mean square, which every norm so far divides by."""

from __future__ import annotations

import torch
from torch import Tensor

from mhc_ref.dialect import Dialect


def over_rms(x: Tensor, over: tuple[int, ...], dialect: Dialect) -> Tensor:
    """x / rms over some dims, rms = sqrt(mean + eps) or sqrt(mean) + eps; where the rms is exactly 0, x stays 0."""
    mean = x.square().mean(over, keepdim=True)
    if dialect.rms_eps_inside and dialect.rms_eps:
        rms = (mean + dialect.rms_eps).sqrt()
    else:  # a zero state stays zero, and the derivative of sqrt at 0 is not asked for
        rms = torch.where(mean == 0, 0.0, torch.where(mean == 0, 1.0, mean).sqrt()) + dialect.rms_eps
    return x / torch.where(rms == 0, 1.0, rms)
