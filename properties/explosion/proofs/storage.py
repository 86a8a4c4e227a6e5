"""What storing mixing matrices in a short dtype adds: they drift (family mhc, a dtype other than float64).

A stored entry is at most (1 + u) of itself, or itself and half the smallest subnormal number eta; it passes float64 and
float32 on its way, whose units v are added. So a row of n entries that summed to 1 sums to at most 1 + u + n eta and a
few v, at least to 1 less that, and the rows of L of them to at most that to the power of L: with bfloat16 (u = 1/256)
25 sub-layers are the least that can reach 1.1. How near one comes is a question of where roundings
fall: n entries of sum 1 cannot all lie just above the middle between two numbers of the dtype. That is searched: the
rows p of circulants, which are doubly stochastic and so what Sinkhorn leaves as it is, and whose powers have row sums
s^L, s the sum of the stored p.
"""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from properties.explosion.mixing import Mixing
from properties.explosion.request import Request
from properties.explosion.searches.hypothesise import Clock
from properties.explosion.searches.logits import confirmed

_SAMPLES = 100_000


def growth(request: Request, n: int, sign: int = 1) -> Fraction:
    """What storing multiplies a row sum of n entries by, at most (at least for sign -1); 1 in float64."""
    if not request.stored:
        return Fraction(1)
    info = torch.finfo(getattr(torch, request.dtype))
    smallest = Fraction(info.smallest_normal) * Fraction(info.eps)
    # Two units of the widest dtype on the way: one for that, one for float64 and the products of units.
    on_the_way = Fraction(torch.finfo(torch.float64 if request.dtype == "float32" else torch.float32).eps)
    return 1 + sign * (Fraction(info.eps) / 2 + on_the_way + n * smallest)


def drifting(request: Request, mixing: Mixing, clock: Clock) -> Tensor | None:
    """Logits [L, n, n] of the shallowest stack of one circulant that reaches the threshold; None where none does."""
    best: Tensor | None = None
    for n in range(2, request.max_streams + 1):
        clock.tick()
        row = _row(request, n).log()
        depth = _depth(request, mixing, _circulant(row), request.max_depth if best is None else len(best) - 1)
        if depth is None:
            continue
        clock.best = f"depth {depth}, {n} streams"
        best = _circulant(row).repeat(depth, 1, 1)
        for places in (1, 2, 3, 4, 6):
            rounded = _circulant(row.round(decimals=places)).repeat(depth, 1, 1)
            if confirmed(rounded, request, mixing):
                best = rounded
                break
    return best


def _row(request: Request, n: int) -> Tensor:
    """The row of sum 1 whose stored entries have the largest sum (the smallest, to vanish) of many."""
    generator = torch.Generator().manual_seed(request.seed)
    # Logarithms of very different sizes: an entry in a high binade has room for a large rounding.
    rows = (4 * torch.randn(_SAMPLES, n, dtype=torch.float64, generator=generator)).softmax(-1)
    sums = rows.to(getattr(torch, request.dtype)).double().sum(-1)
    return rows[sums.argmax() if request.direction == "explode" else sums.argmin()]


def _circulant(row: Tensor) -> Tensor:
    return torch.stack([row.roll(shift) for shift in range(len(row))])[None]


def _depth(request: Request, mixing: Mixing, one: Tensor, most: int) -> int | None:
    """The smallest number of copies that reaches the threshold, by bisection: row sums of powers are powers."""
    if most < 1 or not confirmed(one.repeat(most, 1, 1), request, mixing):
        return None
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if confirmed(one.repeat(middle, 1, 1), request, mixing) else (middle, high)
    return high
