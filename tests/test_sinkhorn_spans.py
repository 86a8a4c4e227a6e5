"""Sinkhorn of logits with errors of their own: the bound holds for any such logits, and stays near what they can do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import mhc_ref
from mhc_ref import Dialect
from properties import bounds
from properties.bounds import Approx, Rounding
from properties.strategies import PATTERNS

FLOAT64 = Rounding.of(torch.float64)
DIALECTS = {
    "paper": mhc_ref.PAPER,
    "eps": mhc_ref.DEEPSEEK_V4,
    "large eps": mhc_ref.DEEPSEEK_V4.with_(denominator_eps=0.3, entry_eps=0.0),
    "large eps of entries": mhc_ref.PAPER.with_(entry_eps=0.1, denominator_eps=0.01),
    "clamp": mhc_ref.LUCIDRAINS,
    "clamp that acts": mhc_ref.PAPER.with_(denominator="clamp", denominator_eps=0.9, iterations=6),
}


def logits_of_kind(kind: str, n: int) -> Tensor:
    return torch.from_numpy(np.stack([PATTERNS[kind](n, seed, level, 1.0) for seed, level in enumerate((0, 1, 2, 4))]))


def moved_furthest(z: Tensor, size: float, dialect: Dialect, seed: int) -> Tensor:
    """Logits within `size` of z that move one entry of h_res a long way: corners of the box, climbed by gradients."""
    draw = torch.Generator().manual_seed(seed)
    exact = mhc_ref.project(z, dialect)
    wanted = torch.randint(0, z[0].numel(), (len(z),), generator=draw)
    corner = z + size * (torch.randint(0, 2, z.shape, generator=draw).double() * 2 - 1)
    for _ in range(3):
        corner = corner.detach().requires_grad_()
        off = (mhc_ref.project(corner, dialect) - exact).flatten(1).gather(1, wanted[:, None])
        (slope,) = torch.autograd.grad((off * off.sign()).sum(), corner)
        corner = z + size * torch.where(slope == 0, 1.0, slope.sign())
    return mhc_ref.project(corner.detach(), dialect)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["normal", "near permutation", "starved row", "triangular"])
@pytest.mark.parametrize("title", DIALECTS)
def test_no_logits_within_their_errors_leave_the_bound(title: str, kind: str) -> None:
    dialect = DIALECTS[title]
    for n, size in ((2, 0.3), (4, 0.01), (4, 0.1), (3, 0.5)):
        z = logits_of_kind(kind, n)
        bound = bounds.projection(Approx(z, torch.full_like(z, size)), dialect, FLOAT64)
        for seed in range(2):
            off = (moved_furthest(z, size, dialect, seed) - bound.value).abs()
            assert bool((off <= bound.error).all())


@pytest.mark.parametrize("title", ["paper", "eps", "clamp"])
@pytest.mark.parametrize("size", [0.001, 0.01])
def test_the_bound_is_near_what_logits_within_their_errors_do(title: str, size: float) -> None:
    """Within a factor of four, for logits of order 1: what lines share is not counted once more in every division."""
    dialect, z = DIALECTS[title], logits_of_kind("normal", 4)[:3]
    bound = bounds.projection(Approx(z, torch.full_like(z, size)), dialect, FLOAT64)
    worst = [
        ((moved_furthest(z, size, dialect, seed) - bound.value).abs() / bound.error).amax((-2, -1)) for seed in range(3)
    ]
    assert bool((torch.stack(worst).amax(0) > 0.25).all())
