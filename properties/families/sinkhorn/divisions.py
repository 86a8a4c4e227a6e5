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

from mhc_ref.dialect import Denominator
from properties.core.rounding import INF, Rounding
from properties.families.sinkhorn.arrays import Array, Flags, functions_of

LOST = 2.0**-10
MOST = 350.0
"""Where exp of a deviation is cut off: far beyond any error that is still a statement.

Caps are taken by `fmin`, for which a NaN (0 times an error that overflowed) is above any cap, as it should be."""


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
        return functions_of(self.entry).fmin(self.entry + self.drift[-1] + self.drift[-2], MOST)


class Divided(NamedTuple):
    """Where some divisions led, each of them, and the logarithms of what lines of one dim and the other, in the order
    of their first division, were divided by, [times, tokens, ...]."""

    now: Iterate
    steps: list[Step]
    divisors: list[Array]


def even(z: Array) -> dict[int, Array]:
    """The spans of scalings without an error."""
    none = functions_of(z).zeros_like(z[..., :1, :1])
    return {-1: none, -2: none}


def unscaled(z: Array) -> dict[int, Array]:
    """The log-scalings of rows and of columns at the beginning."""
    xp = functions_of(z)
    return {-1: xp.zeros_like(z[..., :1]), -2: xp.zeros_like(z[..., :1, :])}


def log_sum_exp(log_m: Array, dim: int) -> Array:
    """log(sum exp log_m) over a dim, kept."""
    xp = functions_of(log_m)
    top = xp.most(log_m, dim, keepdims=True)
    return xp.log(xp.total(xp.exp(log_m - top), dim, keepdims=True)) + top


def divided(
    now: Iterate, dim: int, count: int, eps: float, denominator: Denominator, r: Rounding, floor: float
) -> Divided:
    """So many divisions of lines, of one dim and the other in turn.

    Arguments:
        dim: that of the first division, -1 or -2.
        floor: the logarithm of what may be flushed; -inf where nothing is.
    """
    xp, n, u = functions_of(now.log_m), now.log_m.shape[-1], r.unit
    log_eps = math.log(eps) if eps else -INF
    clamped = bool(eps) and denominator == "clamp"
    dims = (dim, -3 - dim)
    turns = [(s % 2, s // 2) for s in range(count)]  # of each step, which of the two dims, for which time
    iterates = xp.empty((count + 1, *now.log_m.shape), now.log_m)
    iterates[0] = now.log_m
    sums = [xp.empty(((count + 1 - h) // 2, *now.scalings[dims[h]].shape), now.log_m) for h in (0, 1)]
    divisors = [xp.empty_like(one) for one in sums] if eps else sums
    for s, (h, k) in enumerate(turns):
        sums[h][k] = log_sum_exp(iterates[s], dims[h])
        if clamped:
            xp.maximum(sums[h][k], log_eps, out=divisors[h][k])
        elif eps:
            xp.logaddexp(sums[h][k], log_eps, out=divisors[h][k])
        xp.subtract(iterates[s], divisors[h][k], out=iterates[s + 1])
    log_m = iterates[1:]
    weights = xp.exp(log_m)
    if clamped:
        for h in (0, 1):
            weights[h::2] *= sums[h] > log_eps
    local = u * (3 + xp.abs(log_m))
    entry = running(now.entry, local)
    below = running(now.below, log_m < floor)
    scalings = [running(now.scalings[dims[h]], -divisors[h]) for h in (0, 1)]
    lines: list[Array] = []
    lost, kinked = now.lost, now.kinked
    for h in (0, 1):
        own, other = _before(scalings, h)
        total = xp.abs(own) + xp.abs(other) + xp.abs(now.kernel)
        stored = xp.total(weights[h::2] * total, dims[h], keepdims=True)
        lines.append(u * (n + 4 + stored + xp.abs(own) + xp.abs(divisors[h])))
        if (held := below[h:-1:2]).any():
            missing = xp.total(xp.where(held > 0, xp.exp(log_m[h::2] + held), 0.0), dims[h], keepdims=True)
            lost = lost | xp.any(missing > LOST, (0, -2, -1))
            lines[h] += 2 * missing

    drift = [xp.empty_like(one) for one in scalings]
    for h in (0, 1):
        drift[h][0] = now.drift[dims[h]]
    for s, (h, k) in enumerate(turns):
        own, other, line = drift[h][k], drift[1 - h][k + h], lines[h][k]
        if clamped:
            spread = xp.most(xp.fmin(_sum(entry[s], own, other, dims[h]), MOST), dims[h], keepdims=True)
            either = xp.abs(sums[h][k] - log_eps) < line + spread
            line += xp.where(either, line + spread, 0.0)
            kinked = kinked | xp.any(either, (-1, -2))
        # log(sum w e^moved + (1 - sum w)), written so that nothing is lost where moved is tiny.
        moved = xp.expm1(xp.fmin(entry[s] + other, MOST))
        xp.add(xp.log1p(xp.total(weights[s] * moved, dims[h], keepdims=True)), line, out=drift[h][k + 1])

    spans = _spans(now, dims, weights, entry, drift, lines, bool(eps)) if now.spans else []
    steps: list[Any] = [None] * count
    last = now.before
    for h in (0, 1):
        own, other = _before(drift, h)
        shares = weights[h::2]
        deviation = xp.fmin(_sum(entry[h:-1:2], own, other, dims[h]), MOST)
        spread = xp.most(deviation, dims[h], keepdims=True)
        remainder = xp.exp(2 * spread) * xp.total(shares * deviation * deviation, dims[h], keepdims=True) / 2
        reached = _sum(entry[1 + h :: 2], drift[h][1:], other, dims[h])
        if spans:
            span = _before(spans, h)[1]
            curved, mean = _beside_the_mean(entry[h:-1:2], shares, own, other, span, dims[h], eps, clamped)
            remainder = xp.fmin(remainder, curved)
            reached = xp.fmin(reached, mean + local[h::2] + lines[h])
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
    xp = functions_of(now.log_m)
    found = [xp.empty((len(one), *now.log_m.shape[:-2], 1, 1), now.log_m) for one in drift]
    known: list[tuple[Array, ...]] = []
    for h in (0, 1):
        found[h][0] = now.spans[dims[h]]
        shares = weights[h::2] if dims[h] == -1 else xp.swapaxes(weights[h::2], -1, -2)
        overlap = xp.ones(shares.shape[:-2], shares)
        for k in range(shares.shape[-1]):
            xp.fmin(overlap, xp.least(xp.total(xp.minimum(shares, shares[..., k : k + 1, :]), -1), -1), out=overlap)
        overlap, rest, across = overlap[..., None, None], xp.zeros((), shares), xp.zeros((), shares)
        if eps:
            across = xp.most(_before(drift, h)[1], (-1, -2), keepdims=True)
            rest = xp.maximum(1 - xp.least(xp.total(shares, -1), -1), 0)[..., None, None]
            overlap = overlap / (1 + rest * xp.expm1(xp.fmin(across, MOST)))
            rest = rest * xp.exp(xp.fmin(across, MOST)) / (1 - rest) * across
        base = 2 * (xp.most(entry[h:-1:2], (-1, -2), keepdims=True) + xp.most(lines[h], (-1, -2), keepdims=True))
        known.append((overlap, base, rest, across, 2 * xp.most(drift[h][1:], (-1, -2), keepdims=True)))
    for s in range(len(weights)):
        h, k = s % 2, s // 2
        overlap, base, rest, across, most = known[h]
        span = found[1 - h][k + h]
        shrunk = xp.exp(-span)
        grown = base[k] + span * (1 - overlap[k] * shrunk)
        if eps:
            grown += xp.fmin(rest[k] / shrunk, across[k])
        xp.fmin(grown, most[k], out=found[h][k + 1])
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
    xp, apart = functions_of(entry), entry + span
    most = xp.most(apart, dim, keepdims=True)
    curved = xp.exp(xp.fmin(2 * most, MOST)) * xp.total(shares * apart * apart, dim, keepdims=True)
    mean = apart + most
    if eps:
        across = xp.most(other, (-1, -2), keepdims=True)
        rest, moved = xp.maximum(1 - xp.total(shares, dim, keepdims=True), 0), own + across
        pulled = rest * xp.exp(xp.fmin(across + 2 * most, MOST)) / (1 - rest)
        mean = mean + xp.fmin(pulled, 1.0) * (across + most)
        if not clamped:
            curved = (curved + rest * moved * moved * xp.exp(xp.fmin(moved + most, MOST))) / (1 - rest)
    return curved / 2, mean


def portions(like: Array, steps: int) -> list[slice]:
    """The tokens of logits [tokens, n, n], as many at a time as have derivatives of all steps, n^4 numbers each, that
    fit into a few MB, or on a device into a GB."""
    tokens, n, _ = like.shape
    some = max(1, functions_of(like).numbers // ((steps + 1) * n**4))
    return [slice(k, k + some) for k in range(0, tokens, some)]


def running(start: Array, added: Array | Flags) -> Array:
    """start, start + added[0], start + added[0] + added[1], ..."""
    xp = functions_of(start)
    return xp.accumulated(xp.concatenate([start[None], added]))


def unknown_where(*errors: Array, total: Array) -> Array:
    """What errors, each with the tokens on its first or second axis, add up to, [tokens, ...]: infinite where one of a
    token is and so 0 times an infinity may be in it, and otherwise as it is."""
    xp = functions_of(total)
    if all(xp.isfinite(one).all() for one in errors):
        return total
    return xp.where(xp.isnan(total), INF, total)


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
    xp = functions_of(divisors[0])
    vectors = [running(xp.zeros(one.shape[1:], one), -one) for one in divisors]
    largest = xp.maximum(*(xp.most(xp.abs(one), (0, -1, -2)) for one in vectors))
    if not len(divisors[0]):
        return largest, largest
    by_both = [xp.most(xp.abs(one), (0, -1, -2)) for one in divisors if len(one)]  # of one division there is one
    divided_by = functools.reduce(xp.maximum, by_both)
    first, second = (xp.most(one - xp.lowest(one), (-1, -2)) for one in vectors)
    # After a division of the first lines there was one less of the others; after one of those there were as many.
    both = xp.concatenate([first[1:] + second[: len(first) - 1], first[1 : len(second)] + second[1:]])
    return largest, xp.maximum(2 * xp.maximum(largest, divided_by), xp.most(both, 0))
