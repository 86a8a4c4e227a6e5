"""How the tokens, the state and the parameters of a size lie in memory, on which axes, and what asks for a gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from mhc_ref import Params
from properties.core import arranged as token_axes
from properties.core.arranged import on_two
from properties.core.case import BranchSpec, Case
from properties.laws.cotangents import ordered, same_along, stepping
from properties.strategies.layouts import (
    ALONE,
    BARE,
    CUT,
    CUT_THREE,
    EVEN,
    FIRST_FROZEN,
    FREE,
    FROZEN,
    INNERMOST,
    LAYOUTS,
    MANY_SEQUENCES,
    PERMUTED,
    REWRITTEN,
    ROWS,
    SEQUENCES,
    SPACED,
    STEP,
    STILL,
    SUMMED,
    THREE,
    TURNED,
    TWICE,
    YIELDED,
    parts_of,
)

AXES = (SEQUENCES, MANY_SEQUENCES, STEP, BARE, THREE)
"""Those parts of layouts that say on which axes tokens lie."""
ELSEWHERE = (TURNED, ROWS, REWRITTEN)
"""Those of what is no state."""
CUTS = {CUT: SEQUENCES, CUT_THREE: THREE}
"""Those of which the second axis is cut, and the axes."""
MEMORY = (*LAYOUTS[1:], *CUTS, *ELSEWHERE)
"""Those that are a matter of memory."""
USED = (SUMMED, TWICE, *ALONE)
"""Those that are a matter of what is done with outputs."""


def _same(bar: Tensor, axis: int) -> Tensor:
    """What is the same along an axis, if it is not that of tokens, expanded along that alone."""
    return same_along(bar, (axis,)) if axis > -bar.ndim else bar


COTANGENTS: dict[str, Callable[[Tensor], Tensor]] = {
    PERMUTED: ordered(-3, -1, -2),
    INNERMOST: ordered(-2, -1, -3),
    SPACED: stepping(0),
    **{one: partial(_same, axis=axis) for one, axis in EVEN.items()},
}
"""Those that are a matter of how a cotangent lies."""
STATES = ("x", "y", "h")
ASKING: dict[str, Callable[[str], bool]] = {
    FROZEN: lambda name: name in STATES,
    STILL: lambda name: name not in STATES,
    YIELDED: lambda name: name == "y",
    FIRST_FROZEN: lambda name: " of layer " in name and int(name.rpartition(" ")[2]) >= FREE,
}
"""Those that are a matter of what asks for a gradient, and whether what is called so does."""


def layout_of(case: Case) -> str:
    """That of a case."""
    return case.layout if "layout" in case else ""


def axes_of(layout: str) -> str:
    """On which axes tokens lie, of `AXES`, or "" for one; cut sequences lie on two."""
    return next((CUTS.get(part, part) for part in parts_of(layout) if part in (*AXES, *CUTS)), "")


def memory_of(layout: str) -> tuple[str, ...]:
    """How what is handed over lies in memory, of `MEMORY`."""
    return tuple(part for part in parts_of(layout) if part in MEMORY)


def asks(name: str, layout: str) -> bool:
    """Whether what is called so asks for a gradient."""
    return all(ASKING[part](name) for part in parts_of(layout) if part in ASKING)


def arranged(one: Any, axes: str) -> Any:
    """What has one axis of tokens with as many as are said."""
    if not isinstance(one, Tensor) or not axes:
        return one
    count = one.shape[0]
    shapes = {SEQUENCES: _sequences, MANY_SEQUENCES: _many, STEP: _steps, THREE: _three}
    return one.reshape(*(() if axes == BARE else shapes[axes](count)), *one.shape[1:])


def _many(count: int) -> tuple[int, int]:
    return on_two(count, token_axes.SEQUENCES)


def _steps(count: int) -> tuple[int, int]:
    return on_two(count, token_axes.STEPS)


def _sequences(count: int) -> tuple[int, int]:
    """Two or three long sequences or one, four, or many of two: some models have the sequence first, [S, B, n, C]."""
    if count % 8 == 0:
        return (4, count // 4) if count % 32 == 0 else (count // 2, 2)
    first = 2 if count % 2 == 0 else 3 if count % 3 == 0 else 1
    return first, count // first


def _three(count: int) -> tuple[int, int, int]:
    """As of a batch that is cut for several devices, or of frames: two by three, or two by two, or one by one."""
    a, b = (2, 3) if count % 6 == 0 else (2, 2) if count % 4 == 0 else (1, 1)
    return a, b, count // (a * b)


def in_order(one: Tensor, axes: str) -> Tensor:
    """What was given for tokens so arranged, with one axis of them."""
    if not axes or not one.numel():
        return one  # mappings that are not emitted have no axes
    return one.unsqueeze(0) if axes == BARE else one.flatten(0, 2 if axes == THREE else 1)


def lying(one: Any, layout: str) -> Any:
    """An argument as the layout says: parameters lie in memory as it says of them, and states as it says of those, on
    the axes that it has."""
    if isinstance(one, Params):
        return one._replace(phi=turned(one.phi)) if TURNED in parts_of(layout) else one
    if isinstance(one, tuple):
        return tuple(lying(part, layout) for part in cast("tuple[Any, ...]", one))
    if not isinstance(one, Tensor):
        return one
    for part in memory_of(layout):
        one = laid(one, part)
    return one if CUTS.keys() & parts_of(layout) else arranged(one, axes_of(layout))


def returning(branches: Sequence[BranchSpec], layout: str) -> Sequence[Callable[[Tensor], Tensor]]:
    """The branches, whose outputs lie as the layout says."""
    return tuple(partial(_in_rows, one) for one in branches) if ROWS in parts_of(layout) else branches


def _in_rows(branch: BranchSpec, u: Tensor) -> Tensor:
    y = branch(u)
    return torch.cat([y, y + 1], -1)[..., : y.shape[-1]]


def turned(phi: Tensor) -> Tensor:
    """The same values, whose columns lie one after the other, as the weight of a linear layer."""
    return phi.mT.contiguous().mT


def laid(one: Tensor, layout: str) -> Tensor:
    """The same values one or two entries after the start of a storage, as a slice of wider rows, or on two axes, of
    which the last token of every sequence was cut off."""
    if layout in ELSEWHERE:
        return one
    if layout == "slice":
        return torch.cat([one, one + 1], -1)[..., : one.shape[-1]]
    if layout in CUTS:
        pair = arranged(one, CUTS[layout])
        return torch.cat([pair, pair[:, :1] + 1], 1)[:, :-1]
    start = int(layout.rpartition(" ")[2])
    storage = one.new_empty(one.numel() + start)
    storage[start:] = one.flatten()
    return storage.as_strided(one.shape, one.contiguous().stride(), start)


def within_more(one: Tensor, layout: str) -> Tensor:
    """As a part of something larger, so that the part lies as the layout says."""
    if not one.numel() or layout in ELSEWHERE:
        return one
    if layout == "slice":
        return torch.cat([one, torch.zeros_like(one)], -1)
    if layout in CUTS:
        return torch.cat([one, torch.zeros_like(one[:, :1])], 1)
    start = int(layout.rpartition(" ")[2])
    return torch.cat([one.new_zeros(start), one.flatten()])


def taken_out(one: Tensor, like: Tensor, layout: str) -> Tensor:
    """The part again, of which every axis but a cut one is as of `like`."""
    if not one.numel() or layout in ELSEWHERE:
        return one
    if layout == "slice":
        return one[..., : like.shape[-1]]
    if layout in CUTS:
        return one[:, :-1]
    return one[one.numel() - like.numel() :].view(like.shape)


def handing(outputs: Sequence[Tensor], layout: str) -> Sequence[Tensor]:
    """Outputs whose cotangents lie as the layout says when they arrive."""
    for part in parts_of(layout):
        if part in COTANGENTS:
            outputs = [cast("Tensor", _Handing.apply(one, COTANGENTS[part])) for one in outputs]
    return outputs


class _Handing(torch.autograd.Function):
    """Its argument, whose cotangent is handed on as it is laid."""

    @staticmethod
    def forward(ctx: Any, out: Tensor, laid: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.laid = laid
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, *bars: Any) -> Any:
        return ctx.laid(bars[0]), None
