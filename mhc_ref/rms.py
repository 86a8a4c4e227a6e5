"""The root of the mean square, which every norm so far divides by, of a state that may be centred before."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mhc_ref.dialect import Dialect


def rms(x: Tensor, over: tuple[int, ...], dialect: Dialect) -> Tensor:
    """sqrt(mean + eps) or sqrt(mean) + eps over some dims, which stay with size 1; 1 in place of an exact 0.

    Where the dialect clamps it is max(|x|_2, eps) / sqrt(K), K the numbers along these dims.
    """
    mean = x.square().mean(over, keepdim=True)
    # a zero state stays zero, and the derivative of sqrt at 0 is not asked for
    plain = torch.where(mean == 0, 0.0, torch.where(mean == 0, 1.0, mean).sqrt())
    if dialect.rms_eps_by == "clamp":
        root = plain.clamp_min(dialect.rms_eps / math.sqrt(math.prod(x.shape[d] for d in over)))
    elif dialect.rms_eps_inside and dialect.rms_eps:
        root = (mean + dialect.rms_eps).sqrt()
    else:
        root = plain + dialect.rms_eps
    return torch.where(root == 0, 1.0, root)


def over_rms(x: Tensor, over: tuple[int, ...], dialect: Dialect) -> Tensor:
    """x / rms over some dims, x less its mean there where that is declared; where the rms is exactly 0, x stays 0."""
    if dialect.centred:
        x = x - x.mean(over, keepdim=True)
    return x / rms(x, over, dialect)
