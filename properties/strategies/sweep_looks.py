"""Inputs of a sweep that look out of the ordinary along their tokens or channels.

Cotangents that fade or soar, tiles of zeros, and outputs of which one is used.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from properties.core.case import BranchSpec, Case

TILE = 16
"""So many tokens a prompt has, as far as there are more."""
LARGE = 64
"""The same where there are four times as many: a tile of a backward pass."""


def faded(bar: Tensor) -> Tensor:
    """A cotangent that is far smaller at tokens 3, 8, 13, ..., by 2^30, 2^60 and 2^100 in turn: what underflows there,
    or is left out as if it were zero, is claimed at that size, and sums over tokens keep the size of the others. At
    tokens 0, 16, 32, ... it is zero, as the loss of a prompt is: who looks at the first of a tile skips the others."""
    number = torch.arange(bar.shape[0])
    exponents = torch.tensor([30.0, 60.0, 100.0])[number // 5 % 3]
    return _times(bar, -exponents * (number % 5 == 3), number % 16 != 0)


def soared(bar: Tensor) -> Tensor:
    """A cotangent that is far larger at tokens 0, 5, 10, ..., by 2^44 and 2^20 in turn, and far smaller at tokens 2, 3,
    7, 8, ..., by 2^30, 2^60 and 2^100: the first of all is beyond what half precision and squares of a square hold."""
    number = 1 + torch.arange(bar.shape[0])
    up = torch.tensor([44.0, 20.0])[number // 5 % 2] * (number % 5 == 1)
    down = torch.tensor([30.0, 60.0, 100.0])[number // 5 % 3] * (number % 5 > 2)
    return _times(bar, up - down)


def _times(bar: Tensor, exponents: Tensor, kept: Tensor | float = 1.0) -> Tensor:
    """Each token times a power of 2, or 0 where it is not kept; nearer to 1 in float16, as its range is."""
    short = min(1.0, -math.log2(torch.finfo(bar.dtype).smallest_normal) / 126)
    sizes = (exponents * short).trunc().exp2() * kept
    return bar * sizes.to(bar.dtype).view(-1, *[1] * (bar.ndim - 1))


def hollowed(case: Case, back: bool) -> Case:
    """The same values with whole tiles of zeros along the channels, of the power of two that fits twice: dead channels
    are no padding, as their part of the branch, or of a gradient through the logits, is as large as that of others.

    Backwards it is the cotangent of a block that has them, and the state of everything else.
    """

    def emptied(one: Tensor) -> Tensor:
        width = 1 << (one.shape[-1] // 2).bit_length() - 1 if one.shape[-1] > 1 else 1
        one = one.clone()
        one[..., width : 2 * width] = 0.0
        return one

    if back and ("branch" in case or "branches" in case):
        return case.with_(cotangents=tuple(map(emptied, case.cotangents)))
    made = case.with_(**{name: emptied(getattr(case, name)) for name in ("x", "h") if name in case})
    if "branch" in made:  # what a branch puts there shows
        made = made.with_(branch=BranchSpec("constant", made.branch.weight))
    return made


def prompted(case: Case, back: bool) -> Case:
    """The same values whose first tokens are zero, and those of a second run of as many: what is padded on the left is
    no end of a sequence, and owes its biases and its branch; backwards their cotangents are, as of a prompt that has no
    loss."""

    def emptied(one: Tensor) -> Tensor:
        number, count = torch.arange(one.shape[0]), min(LARGE if one.shape[0] >= 4 * LARGE else TILE, one.shape[0] // 2)
        kept = (number >= count) & ((number < 2 * count) | (number >= 3 * count))
        return one * kept.to(one.dtype).view(-1, *[1] * (one.ndim - 1))

    if back:
        return case.with_(cotangents=tuple(map(emptied, case.cotangents)))
    made = case.with_(**{name: emptied(getattr(case, name)) for name in ("x", "h") if name in case})
    if "branch" in made:
        made = made.with_(branch=BranchSpec("constant", made.branch.weight))
    return made


def evened(bar: Tensor, axis: int) -> Tensor:
    """The same values along an axis that is not of tokens, or along that of tokens, in full."""
    return bar.narrow(axis, 0, 1).expand(bar.shape).contiguous() if axis > -bar.ndim else bar


def alone(case: Case, which: int) -> Case:
    """The same values where one output is used, and the cotangents of the others are zero."""
    bars = enumerate(case.cotangents)
    return case.with_(cotangents=tuple(bar if k == which else torch.zeros_like(bar) for k, bar in bars))
