"""A stack: how it begins, how far errors grow from block to block, and how it ends."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mhc_ref import Dialect, Params
from properties.bounds import declared
from properties.bounds.agreement import IN_FLOAT64, must_hold
from properties.bounds.arithmetic import contracted, stored, weighted_sum
from properties.bounds.block import Passage, coefficients, passed, read, step
from properties.bounds.token_mix import TokenMix
from properties.core.case import BranchSpec
from properties.core.family import Begin, End, begin_of, end_of
from properties.core.rounding import Approx, Rounding
from properties.core.truth import wide


def begun(h: Tensor, n: int, dialect: Dialect, r: Rounding) -> Approx:
    """How a stack begins: h [..., C] as the dialect has it, [..., n, C]."""
    begin, flat = _trusted_begin(h, n, dialect), Approx.exact(h.reshape(-1, h.shape[-1]))
    if begin.roundings is not None:
        found = stored(declared.begun(begin, flat, n, dialect, r), r)
        return Approx(*(part.unflatten(0, h.shape[:-1]) for part in (found.value, found.error)))
    weights = begin.weights(n, dialect).unsqueeze(-1)
    streams = wide(h).unsqueeze(-2) * weights
    if bool(((weights == 0) | (weights == 1)).all()):
        return Approx.exact(streams.contiguous())
    return stored(Approx(streams, r.unit * streams.abs() + r.tiny), r)


def _trusted_begin(h: Tensor, n: int, dialect: Dialect) -> Begin:
    """How the dialect begins; of a family from outside both formulas have been compared at these sizes."""
    begin = begin_of(dialect)

    def value(given: Approx) -> Approx:
        return begun(given.value, n, dialect, IN_FLOAT64)

    def pull(given: Approx, bar: Approx) -> Approx:
        if begin.roundings is not None:
            return declared.begin_gradient(begin, given, n, bar, dialect, IN_FLOAT64)
        return contracted("n,tnc->tc", Approx.exact(begin.weights(n, dialect)), bar, n, IN_FLOAT64)

    if begin.is_outside:
        must_hold(begin, dialect, (h.shape[-1],), (n,), value, pull)
    return begin


def states(
    state: Approx, params: Sequence[Params], branches: Sequence[BranchSpec], dialect: Dialect, r: Rounding
) -> list[Approx]:
    """The state [tokens, n, C] before each block, and after the last; branches are computed in the dtype of the
    state."""
    return [state, *(way.after for way in passages(state, params, branches, dialect, r))]


def passages(
    state: Approx, params: Sequence[Params], branches: Sequence[BranchSpec | TokenMix], dialect: Dialect, r: Rounding
) -> list[Passage]:
    """Every block on the way forward, each with the h_pre of the one before it."""
    found: list[Passage] = []
    for one, branch in zip(params, branches, strict=True):
        found.append(passed(state, one, branch, dialect, r, found[-1].h.pre if found else None))
        state = found[-1].after
    return found


def after(
    state: Approx, params: Sequence[Params], outputs: Sequence[Tensor], dialect: Dialect, r: Rounding
) -> tuple[Approx, Approx | None]:
    """The state after all blocks whose branches gave these outputs, and the h_pre of the last of them."""
    last = None
    for one, y in zip(params, outputs, strict=False):
        _, state, last = step(state, one, y, dialect, r, last)
    return state, last


def collapsed(
    state: Approx, dialect: Dialect, r: Rounding, head: Params | None = None, last: Approx | None = None
) -> Approx:
    """The weighted sum over streams that the dialect declares, with its bound: by fixed weights, or the h_pre of a
    head or of the last block. An end that is not gated and declares its roundings may do anything.

    Raises:
        ValueError: the dialect collapses by a head or the last h_pre, and there is none.
    """
    end, n = _trusted_end(state, dialect), state.value.shape[-2]
    if end.LAST:
        if last is None:
            raise ValueError(f"collapse={dialect.collapse!r} needs the h_pre of the last block")
        return read(state, last, r)
    if end.roundings is not None and not end.HEAD:
        return stored(declared.ended(end, state, dialect, r), r)
    weights = end.weights(n, dialect)
    if end.HEAD:
        if head is None:
            raise ValueError(f"collapse={dialect.collapse!r} needs the parameters of the head")
        return read(state, coefficients(state, head, dialect, r).pre, r)
    each = Approx.exact(weights.expand(state.value.shape[:-1]).contiguous())
    return stored(weighted_sum(each, state, r, extra=2), r)


def _trusted_end(state: Approx, dialect: Dialect) -> End:
    """How the dialect ends; of a family from outside that has no parameters both formulas have been compared."""
    end, shape = end_of(dialect), tuple(state.value.shape[-2:])

    def value(x: Approx) -> Approx:
        return collapsed(x, dialect, IN_FLOAT64)

    def pull(x: Approx, bar: Approx) -> Approx:
        if end.roundings is not None:
            return declared.end_gradient(end, x, bar, dialect, IN_FLOAT64)
        weights = end.weights(shape[0], dialect).expand(x.value.shape[:-1])
        return contracted("tn,tc->tnc", Approx.exact(weights), bar, 1, IN_FLOAT64)

    if end.is_outside and not end.gated:
        must_hold(end, dialect, shape, (None,), value, pull)
    return end
