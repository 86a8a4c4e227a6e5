"""Starting points for constrained mixing: logits that pile the column mass of a stack onto one stream.

A column sum of C_L ... C_1 is c C_{L-1} ... C_1 with c = 1^T C_L: mass that starts evenly spread and is moved by one
matrix after the other. The matrices are chosen one by one so that most of it comes to stream 0: from a library of
patterns, from random logits, and from both by gradient ascent. Random generation alone is weak here, because the best
logits differ by hundreds.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

import mhc_ref
from mhc_ref import Dialect
from properties.explosion.proofs.manifold import flipped, last_axis
from properties.explosion.searches.hypothesise import Clock

_OFFSETS = (0.0, 1.0, 4.0, 16.0, 50.0, 200.0)
_DROPS = (1.0, 2.0, 3.0, 5.0, 7.0, 9.0, 12.0, 14.0, 20.0, 50.0, 200.0, 1000.0)
_RANDOM = 600
_CLIMBERS = 12
_STEPS = 60
_STEPS_LATER = 20
_PACE = 0.2


class Concentration:
    """Stacks of n streams that concentrate more and more, one sub-layer longer at each `extend`."""

    def __init__(self, dialect: Dialect, n: int, seed: int, clock: Clock) -> None:
        self._dialect = dialect
        self._n = n
        self._clock = clock
        self._mass = torch.ones(n, dtype=torch.float64)
        self._chosen: list[Tensor] = []
        self._warm = torch.empty(0, n, n, dtype=torch.float64)
        self._patterns = torch.cat([_patterns(n), _random(n, seed)])

    @property
    def depth(self) -> int:
        return len(self._chosen)

    def extend(self) -> None:
        """Choose the logits of one more matrix, below those chosen so far."""
        pool = torch.cat([self._warm, self._patterns])
        start = pool[self._moved(pool).topk(min(_CLIMBERS, len(pool))).indices]
        steps = _STEPS if len(self._chosen) < 3 else _STEPS_LATER
        self._warm = climbed(self._moved, start, steps, self._clock)
        pool = torch.cat([start, self._warm])
        best = pool[self._moved(pool).argmax()]
        self._chosen.append(best)
        self._mass = self._mass @ canonical(best, self._dialect)

    def logits(self) -> Tensor:
        """The stack [L, n, n] as the dialect takes it, the first sub-layer to be applied first."""
        chosen = torch.stack(self._chosen if flipped(self._dialect) else self._chosen[::-1])
        return chosen if last_axis(self._dialect) == "row" else chosen.mT.contiguous()

    def pool(self) -> Tensor:
        """The patterns and random logits that are tried, [N, n, n], as the dialect takes them."""
        return self._patterns if last_axis(self._dialect) == "row" else self._patterns.mT.contiguous()

    def _moved(self, logits: Tensor) -> Tensor:
        return (self._mass @ canonical(logits, self._dialect))[:, 0]


def canonical(logits: Tensor, dialect: Dialect) -> Tensor:
    """C: the projection turned so that its last division is by row sums."""
    if last_axis(dialect) == "row":
        return mhc_ref.project(logits, dialect)
    return mhc_ref.project(logits.mT, dialect).mT


def _slope(height: Tensor, at: Tensor) -> Tensor:
    return torch.autograd.grad(height, at)[0]


def climbed(
    height: Callable[[Tensor], Tensor],
    start: Tensor,
    steps: int,
    clock: Clock,
    slope_of: Callable[[Tensor, Tensor], Tensor] = _slope,
) -> Tensor:
    """`start` after gradient ascent on `height`, each on its own, in Adam's steps.

    Written out, because importing torch.optim takes seconds.

    Args:
        slope_of: the gradient of a height by a place, where what is differentiated is somebody's code.
    """
    at, mean, square = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    for step in range(1, steps + 1):
        clock.tick()
        at.requires_grad_()
        slope = slope_of(height(at).sum(), at)
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope * slope
        size = (square / (1 - 0.999**step)).sqrt() + 1e-8
        at = at.detach() + _PACE * mean / (1 - 0.9**step) / size
    return at


def _patterns(n: int) -> Tensor:
    """All rows but one prefer stream 0, by `drop`, and lie `offset` below the one that is spread over all streams."""
    patterns: list[Tensor] = []
    for spread, offset, drop in itertools.product(range(n), _OFFSETS, _DROPS):
        logits = torch.full((n, n), -offset - drop, dtype=torch.float64)
        logits[:, 0] = -offset
        logits[spread] = 0
        patterns.append(logits)
    return torch.stack(patterns)


def _random(n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    scales = torch.tensor([2.0, 5.0, 10.0], dtype=torch.float64).repeat(_RANDOM // 3)
    return torch.randn(_RANDOM, n, n, dtype=torch.float64, generator=generator) * scales.view(-1, 1, 1)
