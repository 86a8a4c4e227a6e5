"""How the tokens, the state and the parameters of a size lie in memory, on which axes, and what asks for a gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from mhc_ref import Params
from properties.core.case import BranchSpec, Case
from properties.strategies.layouts import (
    ALONE,
    BARE,
    CUT,
    FROZEN,
    INFERENCE,
    LAYOUTS,
    ROWS,
    SEQUENCES,
    STEP,
    STILL,
    SUMMED,
    THREE,
    TURNED,
    TWICE,
)

AXES = (SEQUENCES, STEP, BARE, THREE, INFERENCE)
"""The layouts that are no matter of memory."""
ELSEWHERE = (TURNED, ROWS)
"""Those of what is no state."""
MEMORY = (*LAYOUTS[1:], CUT, *ELSEWHERE)
"""Those that are."""
USED = (SUMMED, TWICE, *ALONE)
"""Those that are a matter of what is done with outputs."""
ASKING = {FROZEN: True, STILL: False}
"""Those that are a matter of what asks for a gradient, and whether states do; what is no state does otherwise."""
STATES = ("x", "y", "h")


def layout_of(case: Case) -> str:
    """That of a case."""
    return case.layout if "layout" in case else ""


def asks(name: str, layout: str) -> bool:
    """Whether what is called so asks for a gradient."""
    return layout not in ASKING or (name in STATES) == ASKING[layout]


def arranged(one: Any, layout: str) -> Any:
    """What has one axis of tokens with as many as the layout says."""
    if not isinstance(one, Tensor) or layout in ("", INFERENCE):
        return one
    count = one.shape[0]
    axes = {SEQUENCES: _sequences(count), STEP: (count, 1), BARE: (), THREE: _three(count)}[layout]
    return one.reshape(*axes, *one.shape[1:])


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


def in_order(one: Tensor, layout: str) -> Tensor:
    """What was given for tokens so arranged, with one axis of them."""
    if layout == INFERENCE or not one.numel():
        return one  # mappings that are not emitted have no axes
    return one.unsqueeze(0) if layout == BARE else one.flatten(0, 2 if layout == THREE else 1)


def lying(one: Any, layout: str) -> Any:
    """An argument as the layout says: where it is of parameters, a state stays, and otherwise parameters do."""
    if isinstance(one, Params):
        return one._replace(phi=turned(one.phi)) if layout == TURNED else one
    if isinstance(one, tuple):
        return tuple(lying(part, layout) for part in cast("tuple[Any, ...]", one))
    return laid(one, layout) if isinstance(one, Tensor) else one


def returning(branches: Sequence[BranchSpec], layout: str) -> Sequence[Callable[[Tensor], Tensor]]:
    """The branches, whose outputs lie as the layout says."""
    return tuple(partial(_in_rows, one) for one in branches) if layout == ROWS else branches


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
    if layout == CUT:
        pair = arranged(one, SEQUENCES)
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
    if layout == CUT:
        return torch.cat([one, torch.zeros_like(one[:, :1])], 1)
    start = int(layout.rpartition(" ")[2])
    return torch.cat([one.new_zeros(start), one.flatten()])


def taken_out(one: Tensor, like: Tensor, layout: str) -> Tensor:
    """The part again, with one axis of tokens."""
    if not one.numel() or layout in ELSEWHERE:
        return one
    if layout == "slice":
        return one[..., : like.shape[-1]]
    if layout == CUT:
        return one[:, :-1].flatten(0, 1)
    return one[one.numel() - like.numel() :].view(like.shape)
