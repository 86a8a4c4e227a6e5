"""Whether torch records gradients during a call. What a method gives does not hang on it, so that calls take turns.

A kernel without gradients is another one in most libraries: it saves nothing, fuses more, and has a softmax or a root
of its own. Inputs at which such a kernel is wrong need not be drawn for it especially, where every call whose output is
judged by itself is made in one of four ways.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

PLAIN, QUIET, RECORDED = "", "under torch.no_grad()", "with gradients recorded"
SERVING = "in torch.inference_mode()"
WAYS = (PLAIN, QUIET, RECORDED, SERVING)
"""As torch is by default, with inputs that ask for no gradient; as in inference; as in training; as servers do."""

_FEW = 64
"""The way hangs on so many entries at most."""


def way_of(given: Any, recorded: bool, ways: Sequence[str] = WAYS) -> str:
    """The way in which a call with this first argument is made: by its shape and entries, so that it is the same when
    the call is tried again, in another process or years later.

    Arguments:
        given: the first argument; what is no tensor, or an empty one, or asks for gradients already, is left as it is.
        recorded: whether gradients may be recorded.
        ways: those that take turns.
    """
    if not isinstance(given, Tensor) or not given.numel() or given.requires_grad or not torch.is_grad_enabled():
        return PLAIN
    row = given if given.numel() <= _FEW else given[(0,) * (given.ndim - 1)][:_FEW]
    entries = row.detach().to("cpu", torch.float64).contiguous().numpy().tobytes()
    turn = zlib.crc32(entries, zlib.crc32(repr(tuple(given.shape)).encode())) % len(ways)
    return ways[turn] if recorded or ways[turn] != RECORDED else PLAIN
