"""The search for mixing matrices that drift as they are stored in a short dtype.

How near one comes to the cap of `proofs.storage` is a question of where roundings fall: n entries of sum 1 cannot all
lie just above the middle between two numbers of the dtype. Searched are the rows p of circulants, which are doubly
stochastic and so what Sinkhorn leaves as it is, and whose powers have row sums s^L, s the sum of the stored p.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from properties.explosion.mixing import Mixing
from properties.explosion.searches.hypothesise import Clock
from properties.explosion.searches.logits import confirmed

if TYPE_CHECKING:
    from properties.explosion.questions.constrained import ConstrainedMixing

_SAMPLES = 100_000


def drifting(question: ConstrainedMixing, mixing: Mixing, clock: Clock) -> Tensor | None:
    """Logits [L, n, n] of the shallowest stack of one circulant that reaches the threshold; None where none does."""
    best: Tensor | None = None
    for n in range(2, question.max_streams + 1):
        clock.tick()
        row = _row(question, n).log()
        depth = _depth(question, mixing, _circulant(row), question.max_depth if best is None else len(best) - 1)
        if depth is None:
            continue
        clock.best = f"depth {depth}, {n} streams"
        best = _circulant(row).repeat(depth, 1, 1)
        for places in (1, 2, 3, 4, 6):
            rounded = _circulant(row.round(decimals=places)).repeat(depth, 1, 1)
            if confirmed(rounded, question, mixing):
                best = rounded
                break
    return best


def _row(question: ConstrainedMixing, n: int) -> Tensor:
    """The row of sum 1 whose stored entries have the largest sum (the smallest, to vanish) of many."""
    generator = torch.Generator().manual_seed(question.seed)
    # Logarithms of very different sizes: an entry in a high binade has room for a large rounding.
    rows = (4 * torch.randn(_SAMPLES, n, dtype=torch.float64, generator=generator)).softmax(-1)
    sums = rows.to(getattr(torch, question.dtype)).double().sum(-1)
    return rows[sums.argmax() if question.direction == "explode" else sums.argmin()]


def _circulant(row: Tensor) -> Tensor:
    return torch.stack([row.roll(shift) for shift in range(len(row))])[None]


def _depth(question: ConstrainedMixing, mixing: Mixing, one: Tensor, most: int) -> int | None:
    """The smallest number of copies that reaches the threshold, by bisection: row sums of powers are powers."""
    if most < 1 or not confirmed(one.repeat(most, 1, 1), question, mixing):
        return None
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if confirmed(one.repeat(middle, 1, 1), question, mixing) else (middle, high)
    return high
