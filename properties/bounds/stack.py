"""A stack: how it begins, how far errors grow from block to block, and how it ends."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mhc_ref import Dialect, Params
from properties.bounds.arithmetic import stored, weighted_sum
from properties.bounds.block import coefficients, passed, read, step
from properties.core.case import BranchSpec
from properties.core.family import begin_of, end_of
from properties.core.rounding import Approx, Rounding


def begun(h: Tensor, n: int, dialect: Dialect, r: Rounding) -> Approx:
    """How a stack begins: h [..., C] as the dialect has it, [..., n, C]."""
    weights = begin_of(dialect).weights(n, dialect).unsqueeze(-1)
    streams = h.detach().to("cpu", torch.float64).unsqueeze(-2) * weights
    exactly = Approx.exact(streams.contiguous())
    return (
        exactly
        if bool(((weights == 0) | (weights == 1)).all())
        else stored(Approx(streams, r.unit * streams.abs() + r.tiny), r)
    )


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
    """The weighted sum over streams that the dialect declares, with its bound: by fixed weights, or the h_pre of a
    head.

    Raises:
        ValueError: the dialect collapses by a head, and there are no parameters of one.
    """
    end, n = end_of(dialect), state.value.shape[-2]
    weights = end.weights(n, dialect)
    if end.HEAD:
        if head is None:
            raise ValueError(f"collapse={dialect.collapse!r} needs the parameters of the head")
        return read(state, coefficients(state, head, dialect, r).pre, r)
    each = Approx.exact(weights.expand(state.value.shape[:-1]).contiguous())
    return stored(weighted_sum(each, state, r, extra=2), r)
