"""The ways in which a cotangent may lie in memory.

Autograd hands a cotangent on as it came: permuted by a transpose, as a part of something larger by a cat, and of
strides 0 by a sum over some axes or over all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from properties.laws.layouts import among_nan


def ordered(*order: int) -> Callable[[Tensor], Tensor]:
    """The same values, whose axes, the last three of them at most, lie in memory in that order."""

    def laid(bar: Tensor) -> Tensor:
        axes = [axis for axis in order if axis >= -bar.ndim]
        first = bar.ndim - len(axes)
        every = [*range(first), *(axis % bar.ndim for axis in axes)]
        back = [every.index(axis) for axis in range(bar.ndim)]
        return bar.permute(every).contiguous().permute(back)

    return laid


def stepping(axis: int) -> Callable[[Tensor], Tensor]:
    """Every second entry of twice as many along an axis, where there is one."""

    def laid(bar: Tensor) -> Tensor:
        if not -bar.ndim <= axis < bar.ndim:
            return bar
        place = axis % bar.ndim
        return torch.stack([bar, bar - 1], place + 1).select(place + 1, 0)

    return laid


def off_the_start(bar: Tensor) -> Tensor:
    """One entry after the start of a storage."""
    return torch.cat([bar.new_ones(1), bar.flatten()])[1:].view(bar.shape)


def sliced(bar: Tensor) -> Tensor:
    """The first entries of rows that are twice as wide."""
    return torch.cat([bar, bar - 1], -1)[..., : bar.shape[-1]]


LYING: Mapping[str, Callable[[Tensor], Tensor]] = {
    "for cotangents that are not contiguous": stepping(-1),
    "for slices of wider cotangents": sliced,  # or every second row of more of them
    "for cotangents that are every second of more tokens": stepping(0),
    "for cotangents off the start of a storage": off_the_start,
    "for cotangents that are parts of something that is NaN beside them": among_nan,
    "for cotangents that lie [.., C, n]": ordered(-3, -1, -2),
    "for cotangents whose tokens are innermost": ordered(-2, -1, -3),
    "for cotangents whose tokens come between": ordered(-2, -3, -1),
    "for cotangents that lie in the reverse order": ordered(-1, -2, -3),
    "for cotangents whose channels are outermost": ordered(-1, -3, -2),
}
"""Each way, with one axis of tokens."""


def same_along(bar: Tensor, axes: Sequence[int]) -> Tensor:
    """The first entry along some axes everywhere, without a copy, as an entry of a longer table."""
    first = bar
    for axis in axes:
        if -bar.ndim <= axis < bar.ndim:
            first = first.narrow(axis, 0, 1)
    if first.numel() == bar.numel():
        return first
    table = torch.cat([first.flatten(), bar.flatten()[first.numel() :] + 1])  # what a wrong stride reads
    return table[: first.numel()].view(first.shape).expand(bar.shape)


EXPANDED: Mapping[str, tuple[int, ...]] = {
    "along its last axis alone": (-1,),
    "along its tokens alone": (0,),
    "along its streams alone": (-2,),
    "along every axis": (0, -1, -2),
}
"""The axes of each way, with one axis of tokens."""
