"""A stack: how it begins, how far errors grow from block to block, and how it ends."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mhc_ref import Dialect, Params
from properties.bounds.arithmetic import stored, weighted_sum
from properties.bounds.block import coefficients, passed, read, step
from properties.core.case import BranchSpec
from properties.core.rounding import Approx, Rounding


def copies(h: Tensor, n: int) -> Approx:
    """How a stack begins: n copies of h [..., C], [..., n, C]."""
    wide = h.detach().to("cpu", torch.float64)
    return Approx.exact(wide.unsqueeze(-2).expand(*h.shape[:-1], n, h.shape[-1]).contiguous())


def states(
    state: Approx, params: Sequence[Params], branches: Sequence[BranchSpec], dialect: Dialect, r: Rounding
) -> list[Approx]:
    """The state [tokens, n, C] before each block, and after the last; branches are computed in the dtype of the
    state."""
    found = [state]
    for one, branch in zip(params, branches, strict=True):
        found.append(passed(found[-1], one, branch, dialect, r).after)
    return found


def after(state: Approx, params: Sequence[Params], outputs: Sequence[Tensor], dialect: Dialect, r: Rounding) -> Approx:
    """The state after all blocks whose branches gave these outputs."""
    for one, y in zip(params, outputs, strict=False):
        _, state = step(state, one, y, dialect, r)
    return state


def collapsed(state: Approx, dialect: Dialect, r: Rounding, head: Params | None = None) -> Approx:
    """The declared sum or mean over streams, or the gated sum of a head, with its bound.

    Raises:
        ValueError: the dialect collapses by a head, and there are no parameters of one.
    """
    if dialect.collapse == "head":
        if head is None:
            raise ValueError("collapse='head' needs the parameters of the head")
        return read(state, coefficients(state, head, dialect, r).pre, r)
    weights = torch.full(state.value.shape[:-1], share(state.value.shape[-2], dialect), dtype=torch.float64)
    return stored(weighted_sum(Approx.exact(weights), state, r, extra=2), r)


def share(n: int, dialect: Dialect) -> float:
    """The weight of each stream in a sum or a mean."""
    return 1.0 if dialect.collapse == "sum" else 1.0 / n
