"""Divisions of rows and columns in turn: the exact iterates, and what rounding may add at each of them.

The derivation heads `forwards`. Only what follows from the iterate before is computed step by step: the matrices are so
small that a call of numpy costs more than its arithmetic, and the rest is said of all steps at once.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from mhc_ref.dialect import Denominator
from properties.core.rounding import INF, Rounding

Array = np.ndarray[Any, np.dtype[np.float64]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]

LOST = 2.0**-10
MOST = 350.0
"""Where exp of a deviation is cut off: far beyond any error that is still a statement.

Caps are taken by `np.fmin`, for which a NaN (0 times an error that overflowed) is above any cap, as it should be."""

_NUMBERS = 2**20


@dataclass(frozen=True)
class Step:
    """One half-step of the exact iteration, [tokens, n, n], lines with keepdim.

    Attributes:
        dim: the normalised dim, -1 or -2; 0 for the elementwise addition of entry_eps.
        weights: the share of an entry in its denominator; for dim 0 the derivative of log(m + eps) by log m.
        entry: what rounding may add to an entry, in units of log m.
        line: what it may add to all entries of a line together, remainder included.
        deviation: the largest |error| of log m after the step, summed over everything before it.
        rounded: of `line`, what rounding adds; the rest is the remainder.
    """

    dim: int
    weights: Array
    entry: Array
    line: Array
    deviation: Array
    rounded: Array


@dataclass(frozen=True)
class Iterate:
    """How far the iteration has come.

    Attributes:
        log_m: the logarithm of the matrix, [tokens, n, n].
        kernel: that of the matrix from which potentials start.
        entry: the accumulated errors of entries.
        scalings, drift: by dim, the exact log-scalings of its lines, and the largest error of the computed ones.
        spans: by dim, how far the errors of two lines' scalings can lie apart, [tokens, 1, 1]; empty where that is not
            followed, which pays where logits have errors beyond their roundings.
        before: the deviation before the last step.
        below: in how many iterates an entry lay below 4 tiny, where it may be flushed or rounded up.
        lost: tokens of which a line may be lost to underflow.
        kinked: tokens of which a sum may lie on either side of its clamp.
    """

    log_m: Array
    kernel: Array
    entry: Array
    scalings: dict[int, Array]
    drift: dict[int, Array]
    spans: dict[int, Array]
    before: Array
    below: Array
    lost: Flags
    kinked: Flags

    @property
    def deviation(self) -> Array:
        """The largest |error| of log m that the next step may meet."""
        return np.fmin(self.entry + self.drift[-1] + self.drift[-2], MOST)


class Divided(NamedTuple):
    """Where some divisions led, each of them, and the logarithms of what lines of one dim and the other, in the order
    of their first division, were divided by, [times, tokens, ...]."""

    now: Iterate
    steps: list[Step]
    divisors: list[Array]


def even(z: Array) -> dict[int, Array]:
    """The spans of scalings without an error."""
    return {-1: np.zeros((*z.shape[:-2], 1, 1)), -2: np.zeros((*z.shape[:-2], 1, 1))}


def unscaled(z: Array) -> dict[int, Array]:
    """The log-scalings of rows and of columns at the beginning."""
    return {-1: np.zeros_like(z[..., :1]), -2: np.zeros_like(z[..., :1, :])}


def log_sum_exp(log_m: Array, dim: int) -> Array:
    """log(sum exp log_m) over a dim, kept."""
    top = np.maximum.reduce(log_m, dim, keepdims=True)
    return np.log(np.add.reduce(np.exp(log_m - top), dim, keepdims=True)) + top


def divided(
    now: Iterate, dim: int, count: int, eps: float, denominator: Denominator, r: Rounding, floor: float
) -> Divided:
    """So many divisions of lines, of one dim and the other in turn.

    Arguments:
        dim: that of the first division, -1 or -2.
        floor: the logarithm of what may be flushed; -inf where nothing is.
    """
    n, u = now.log_m.shape[-1], r.unit
    log_eps = math.log(eps) if eps else -INF
    clamped = bool(eps) and denominator == "clamp"
    dims = (dim, -3 - dim)
    turns = [(s % 2, s // 2) for s in range(count)]  # of each step, which of the two dims, for which time
    iterates = np.empty((count + 1, *now.log_m.shape))
    iterates[0] = now.log_m
    sums = [np.empty(((count + 1 - h) // 2, *now.scalings[dims[h]].shape)) for h in (0, 1)]
    divisors = [np.empty_like(one) for one in sums] if eps else sums
    for s, (h, k) in enumerate(turns):
        sums[h][k] = log_sum_exp(iterates[s], dims[h])
        if clamped:
            np.maximum(sums[h][k], log_eps, out=divisors[h][k])
        elif eps:
            np.logaddexp(sums[h][k], log_eps, out=divisors[h][k])
        np.subtract(iterates[s], divisors[h][k], out=iterates[s + 1])
    log_m = iterates[1:]
    weights = np.exp(log_m)
    if clamped:
        for h in (0, 1):
            weights[h::2] *= sums[h] > log_eps
    local = u * (3 + np.abs(log_m))
    entry = running(now.entry, local)
    below = running(now.below, log_m < floor)
    scalings = [running(now.scalings[dims[h]], -divisors[h]) for h in (0, 1)]
    lines: list[Array] = []
    lost, kinked = now.lost, now.kinked
    for h in (0, 1):
        own, other = _before(scalings, h)
        total = np.abs(own) + np.abs(other) + np.abs(now.kernel)
        stored = (weights[h::2] * total).sum(dims[h], keepdims=True)
        lines.append(u * (n + 4 + stored + np.abs(own) + np.abs(divisors[h])))
        if (held := below[h:-1:2]).any():
            missing = np.where(held > 0, np.exp(log_m[h::2] + held), 0.0).sum(dims[h], keepdims=True)
            lost = lost | (missing > LOST).any((0, -2, -1))
            lines[h] += 2 * missing

    drift = [np.empty_like(one) for one in scalings]
    for h in (0, 1):
        drift[h][0] = now.drift[dims[h]]
    for s, (h, k) in enumerate(turns):
        own, other, line = drift[h][k], drift[1 - h][k + h], lines[h][k]
        if clamped:
            spread = np.fmin(_sum(entry[s], own, other, dims[h]), MOST).max(dims[h], keepdims=True)
            either = np.abs(sums[h][k] - log_eps) < line + spread
            line += np.where(either, line + spread, 0.0)
            kinked = kinked | either.any((-1, -2))
        # log(sum w e^moved + (1 - sum w)), written so that nothing is lost where moved is tiny.
        moved = np.expm1(np.fmin(entry[s] + other, MOST))
        np.add(np.log1p(np.add.reduce(weights[s] * moved, dims[h], keepdims=True)), line, out=drift[h][k + 1])

    spans = _spans(now, dims, weights, entry, drift, lines, bool(eps)) if now.spans else []
    steps: list[Any] = [None] * count
    last = now.before
    for h in (0, 1):
        own, other = _before(drift, h)
        shares = weights[h::2]
        deviation = np.fmin(_sum(entry[h:-1:2], own, other, dims[h]), MOST)
        spread = deviation.max(dims[h], keepdims=True)
        remainder = np.exp(2 * spread) * (shares * deviation * deviation).sum(dims[h], keepdims=True) / 2
        reached = _sum(entry[1 + h :: 2], drift[h][1:], other, dims[h])
        if spans:
            span = _before(spans, h)[1]
            curved, mean = _beside_the_mean(entry[h:-1:2], shares, own, other, span, dims[h], eps, clamped)
            remainder = np.fmin(remainder, curved)
            reached = np.fmin(reached, mean + local[h::2] + lines[h])
        made = map(functools.partial(Step, dims[h]), shares, local[h::2], lines[h] + remainder, reached, lines[h])
        steps[h::2] = made
        if count and turns[-1][0] == h:
            last = deviation[-1]
    after = Iterate(
        iterates[-1],
        now.kernel,
        entry[-1],
        {dims[h]: scalings[h][-1] for h in (0, 1)},
        {dims[h]: drift[h][-1] for h in (0, 1)},
        {dims[h]: spans[h][-1] for h in (0, 1)} if spans else {},
        last,
        below[-1],
        lost,
        kinked,
    )
    return Divided(after, steps, divisors)


def _spans(
    now: Iterate,
    dims: tuple[int, int],
    weights: Array,
    entry: Array,
    drift: Sequence[Array],
    lines: Sequence[Array],
    eps: bool,
) -> list[Array]:
    """How far the errors of two lines' scalings can lie apart, before and after each division, [times, tokens, 1, 1].

    A division makes the error of a line's scaling minus a mean of e_ij + a_j over its shares w_i, e the errors of
    entries and a those of the scalings across. Two such means of a lie (1 - overlap) osc(a) apart at most, the overlap
    being sum_j min(w_ij, w_kj) (Dobrushin 1956), each share moved by e^-osc(a) at most: common parts of a are gone, and
    what grew with every division, since each passes on all that the one before had left, contracts. The share p that an
    eps has of a line does not take part in a, so that p max|a| is left of the common part.
    """
    found = [np.empty((len(one), *now.log_m.shape[:-2], 1, 1)) for one in drift]
    known: list[tuple[Array, ...]] = []
    for h in (0, 1):
        found[h][0] = now.spans[dims[h]]
        shares = weights[h::2] if dims[h] == -1 else np.swapaxes(weights[h::2], -1, -2)
        overlap = np.ones(shares.shape[:-2])
        for k in range(shares.shape[-1]):
            np.fmin(overlap, np.minimum(shares, shares[..., k : k + 1, :]).sum(-1).min(-1), out=overlap)
        overlap, rest, across = overlap[..., None, None], np.zeros(()), np.zeros(())
        if eps:
            across = _before(drift, h)[1].max((-1, -2), keepdims=True)
            rest = np.maximum(1 - shares.sum(-1).min(-1), 0)[..., None, None]
            overlap = overlap / (1 + rest * np.expm1(np.fmin(across, MOST)))
            rest = rest * np.exp(np.fmin(across, MOST)) / (1 - rest) * across
        base = 2 * (entry[h:-1:2].max((-1, -2), keepdims=True) + lines[h].max((-1, -2), keepdims=True))
        known.append((overlap, base, rest, across, 2 * drift[h][1:].max((-1, -2), keepdims=True)))
    for s in range(len(weights)):
        h, k = s % 2, s // 2
        overlap, base, rest, across, most = known[h]
        span = found[1 - h][k + h]
        shrunk = np.exp(-span)
        grown = base[k] + span * (1 - overlap[k] * shrunk)
        if eps:
            grown += np.fmin(rest[k] / shrunk, across[k])
        np.fmin(grown, most[k], out=found[h][k + 1])
    return found


def _beside_the_mean(
    entry: Array, shares: Array, own: Array, other: Array, span: Array, dim: int, eps: float, clamped: bool
) -> tuple[Array, Array]:
    """Of the division of lines: the half of its second derivative, and the deviation of the entries after it but for
    what the division itself adds.

    Both are about how far entries of a line lie apart, |e_ij| + osc(a): what they share, the error of their own line
    and a common part of those across, a division takes out. Of a share p that stands beside them, an eps, it is not
    taken out; of a clamped line nothing is curved.
    """
    apart = entry + span
    most = apart.max(dim, keepdims=True)
    curved = np.exp(np.fmin(2 * most, MOST)) * (shares * apart * apart).sum(dim, keepdims=True)
    mean = apart + most
    if eps:
        across = other.max((-1, -2), keepdims=True)
        rest, moved = np.maximum(1 - shares.sum(dim, keepdims=True), 0), own + across
        pulled = rest * np.exp(np.fmin(across + 2 * most, MOST)) / (1 - rest)
        mean = mean + np.fmin(pulled, 1.0) * (across + most)
        if not clamped:
            curved = (curved + rest * moved * moved * np.exp(np.fmin(moved + most, MOST))) / (1 - rest)
    return curved / 2, mean


def portions(tokens: int, n: int, steps: int) -> list[slice]:
    """The tokens, as many at a time as have derivatives of all steps, n^4 numbers each, that fit into a few MB."""
    some = max(1, _NUMBERS // ((steps + 1) * n**4))
    return [slice(k, k + some) for k in range(0, tokens, some)]


def running(start: Array, added: Array | Flags) -> Array:
    """start, start + added[0], start + added[0] + added[1], ..."""
    return np.add.accumulate(np.concatenate([start[None], added]), 0)


def unknown_where(*errors: Array, total: Array) -> Array:
    """What errors, each with the tokens on its first or second axis, add up to, [tokens, ...]: infinite where one of a
    token is and so 0 times an infinity may be in it, and otherwise as it is."""
    if all(np.isfinite(one).all() for one in errors):
        return total
    return np.where(np.isnan(total), INF, total)


def _before(series: Sequence[Array], h: int) -> tuple[Array, Array]:
    """Of the lines of a dim and of those across, what held before each division of that dim."""
    own = series[h][:-1]
    return own, series[1 - h][h : h + len(own)]


def _sum(entry: Array, own: Array, across: Array, dim: int) -> Array:
    """The error of an entry with those of its row and of its column, in this order."""
    return entry + own + across if dim == -1 else entry + across + own


def strained(divisors: Sequence[Array]) -> tuple[Array, Array]:
    """How large numbers get on account of the scaling vectors that a linear form may keep, as logarithms, [tokens].

    The first is the largest |log-scaling|. Backwards, 1/s has the derivative 1/s^2, and the cotangent of an early
    iterate is about (final scalings) / (its own scalings), where an entry that is 0 by then makes NaN of an infinity:
    the second bounds the logarithm of both.
    """
    vectors = [running(np.zeros(one.shape[1:]), -one) for one in divisors]
    largest = np.maximum(*(np.abs(one).max((0, -1, -2)) for one in vectors))
    if not len(divisors[0]):
        return largest, largest
    divided_by = np.maximum(*(np.abs(one).max((0, -1, -2), initial=0.0) for one in divisors))
    first, second = ((one - np.minimum.accumulate(one)).max((-1, -2)) for one in vectors)
    # After a division of the first lines there was one less of the others; after one of those there were as many.
    rise = np.concatenate([first[1:] + second[: len(first) - 1], first[1 : len(second)] + second[1:]]).max(0)
    return largest, np.maximum(2 * np.maximum(largest, divided_by), rise)
