"""What storing mixing matrices in a short dtype adds: they drift (family mhc, a dtype other than float64).

A stored entry is at most (1 + u) of itself, or itself and half the smallest subnormal number eta; it passes float64 and
float32 on its way, whose units v are added. So a row of n entries that summed to 1 sums to at most 1 + u + n eta and a
few v, at least to 1 less that, and the rows of L of them to at most that to the power of L: with bfloat16 (u = 1/256)
25 sub-layers are the least that can reach 1.1. How near one comes is searched (`searches.drift`).
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from properties.explosion.questions.constrained import ConstrainedMixing


def growth(question: ConstrainedMixing, n: int, sign: int = 1) -> Fraction:
    """What storing multiplies a row sum of n entries by, at most (at least for sign -1); 1 in float64."""
    if not question.stored:
        return Fraction(1)
    info = torch.finfo(getattr(torch, question.dtype))
    smallest = Fraction(info.smallest_normal) * Fraction(info.eps)
    # Two units of the widest dtype on the way: one for that, one for float64 and the products of units.
    on_the_way = Fraction(torch.finfo(torch.float64 if question.dtype == "float32" else torch.float32).eps)
    return 1 + sign * (Fraction(info.eps) / 2 + on_the_way + n * smallest)
