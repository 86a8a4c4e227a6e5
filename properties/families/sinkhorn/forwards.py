"""Finite Sinkhorn iterations: how far rounding can carry them.

*The iteration.* Write l_s for the logarithm of the iterate before half-step s; the half-step along an axis is
l_{s+1} = l_s - log(sum exp l_s + eps) on every line. With w = exp l_{s+1} (the share of an entry in its line; the eps
has the rest) its Jacobian is I - 1 w^T on each line.

*What a half-step may add.* To an entry: u (3 + |l_{s+1}|), for a division or a multiplication by a reciprocal, or in
the log domain for rounding a number as large as l. To a whole line: (n + 4) u for the sum, the eps, exp and log, plus
u (sum_j w_ij S_ij + |scaling|), S = |Z| + |row scaling| + |column scaling|, for potentials that are stored as
logarithms. Before the first: u (4 + 3 |z|), z the shifted logit, for the shift and for exp, exp2(z log2 e) included.

*First order.* With G = d l_T / d l_{s+1}, accumulated backwards (G <- G - (G 1) w^T line by line, O(n^4) a step), an
entry's error moves log M_ij by at most |G_ij,kl|, a line's by the *signed* sum of G over that line. This is what keeps
the bound near 100 u: plain interval arithmetic would double at every half-step.

*Remainder.* log-sum-exp has second derivative Var_w <= sum w eta^2, eta the deviation of l_s, so a half-step
adds at most e^{2 max eta} sum_j w_ij eta_ij^2 / 2 to its line. A bound of eta that does not double: half-steps
do not expand the sup-norm of log-scalings (the gradient of log-sum-exp is a sub-probability vector), so with
E_ij the accumulated errors of entries, d_i <- log(sum_j w_ij exp(E_ij + d_j) + (1 - sum_j w_ij)) + (line error)
bounds the scalings without any remainder, and eta <= E + d_row + d_column.

*Underflow.* An entry that falls below 4 tiny in an iterate may be flushed to 0 or, being subnormal, rounded up to at
most twice its value: after k such iterates its own error is up to 2^k <= e^k times its value, and so is its share of a
line. Where that exceeds 2^-10 the line may be lost: the example is outside the domain of the linear form, and the error
is inf.

*Overflow.* Scaling vectors are admitted, so an example whose cumulative scalings leave the range of the dtype is
outside the domain too; for gradients, one whose 1/s^2 or ratio of scalings does. So is one of an exp start that no
iteration shifts, where an entry itself does, or that entry times the cotangent.

*Clamped denominators* are 1-Lipschitz in log sum; at the kink, where both branches are possible, the difference of the
two is admitted as a line error.

Everything here is numpy in float64: hundreds of small steps, for which it is several times quicker than torch.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mhc_ref import Dialect
from properties.core.family import DIM
from properties.core.rounding import INF, Approx, Projection, Rounding

Array = np.ndarray[Any, np.dtype[np.float64]]

LOST = 2.0**-10
MOST = 350.0
"""Where exp of a deviation is cut off: far beyond any error that is still a statement.

Caps are taken by `np.fmin`, for which a NaN (0 times an error that overflowed) is above any cap, as it should be."""


@dataclass(frozen=True)
class Step:
    """One half-step of the exact iteration, [tokens, n, n], lines with keepdim.

    Attributes:
        dim: the normalised dim, -1 or -2; 0 for the elementwise addition of entry_eps.
        weights: the share of an entry in its denominator; for dim 0 the derivative of log(m + eps) by log m.
        entry: what rounding may add to an entry, in units of log m.
        line: what it may add to all entries of a line together, remainder included.
        deviation: the largest |error| of log m after the step, summed over everything before it.
    """

    dim: int
    weights: Array
    entry: Array
    line: Array
    deviation: Array


@dataclass(frozen=True)
class Trace:
    """The exact iterates of one finite projection with all that rounding may add on the way.

    Attributes:
        begin, entry: relative errors of entries that no scaling shares, before the first and after the last step.
        log_m: the logarithm of the result; `final` what writing it down may add.
        before_last: the deviation before the last step.
        below: in how many iterates an entry lay below 4 tiny, where it may be flushed or rounded up.
        lost: tokens of which a line may be lost to underflow, or a scaling to overflow.
        kinked: tokens of which a sum may lie on either side of its clamp.
        strain: the logarithm of the largest number that a backward pass may meet, before the cotangent, [tokens].
        shift_dim: the dim over which an exp start subtracts a maximum that an eps makes visible; 0 if it does not.
    """

    steps: list[Step]
    begin: Array
    log_m: Array
    final: Array
    entry: Array
    before_last: Array
    below: Array
    lost: np.ndarray[Any, np.dtype[np.bool_]]
    kinked: np.ndarray[Any, np.dtype[np.bool_]]
    strain: Array
    shift_dim: int

    @functools.cached_property
    def propagated(self) -> Array:
        """sum over steps of |d log M / d (error of the step)| * (the step's error): [tokens, n, n]."""
        tokens, n, _ = self.begin.shape
        g = np.broadcast_to(np.eye(n * n).reshape(1, n * n, n, n), (tokens, n * n, n, n))
        total = np.zeros((tokens, n * n))
        for step in reversed(self.steps):
            total += np.einsum("tqij,tij->tq", np.abs(g), step.entry)
            if step.dim == 0:
                g = g * step.weights[:, None]
                continue
            by_line = g.sum(step.dim, keepdims=True)
            total += (np.abs(by_line) * step.line[:, None]).sum((-2, -1))
            g = g - by_line * step.weights[:, None]
        total += np.einsum("tqij,tij->tq", np.abs(g), self.begin)
        return np.where(np.isnan(total), INF, total).reshape(tokens, n, n)


def half_steps(dialect: Dialect) -> list[tuple[int, float]]:
    """(dim, eps) of every step after the logits, dim 0 standing for the addition of entry_eps."""
    pairs = [DIM[dialect.first_axis], DIM[dialect.last_axis]] * dialect.iterations
    steps: list[tuple[int, float]] = []
    if dialect.start == "softmax":
        steps.append((DIM[dialect.start_axis], 0.0))
        pairs = pairs[1:] if dialect.softmax_is_first_half_step else pairs
    if dialect.entry_eps:
        steps.append((0, dialect.entry_eps))
    return steps + [(dim, dialect.denominator_eps) for dim in pairs]


class _Vectors:
    """The scaling vectors that a linear form may keep, as logarithms, and how large numbers get on their account.

    `largest` is the largest |log-scaling|. Backwards, 1/s has the derivative 1/s^2, and the cotangent of an early
    iterate is about (final scalings) / (its own scalings), where an entry that is 0 by then makes NaN of an infinity:
    `strain` bounds the logarithm of both.
    """

    def __init__(self, start: dict[int, Array], batch: tuple[int, ...]) -> None:
        self._now = start
        self._least = dict(start)
        self.largest = np.zeros(batch)
        self.strain = np.zeros(batch)

    def divide(self, dim: int, denominator: Array) -> None:
        """A half-step divides the lines of `dim` by exp(denominator)."""
        self._now[dim] = self._now[dim] - denominator
        self._least[dim] = np.minimum(self._least[dim], self._now[dim])
        self.largest = np.maximum(self.largest, np.abs(self._now[dim]).max((-1, -2)))
        rise = sum((self._now[d] - self._least[d]).max((-1, -2)) for d in (-1, -2))
        twice = 2 * np.maximum(self.largest, np.abs(denominator).max((-1, -2)))
        self.strain = np.maximum(self.strain, np.maximum(twice, rise))


def log_sum_exp(log_m: Array, dim: int) -> Array:
    """log(sum exp log_m) over a dim, kept."""
    top = log_m.max(dim, keepdims=True)
    return np.log(np.exp(log_m - top).sum(dim, keepdims=True)) + top


def trace(logits: Approx, dialect: Dialect, r: Rounding) -> Trace:
    """Run the exact iteration once and note what rounding may add at every step."""
    z, dz = logits.value.contiguous().numpy(), logits.error.contiguous().numpy()
    return _remembered(z.tobytes(), dz.tobytes(), z.shape, dialect, r)


# A law bounds the same logits several times, and the simplest examples of one law are those of the next: a third of
# all traces are of logits that were seen among the last few.
@functools.lru_cache(maxsize=64)
def _remembered(z: bytes, dz: bytes, shape: tuple[int, ...], dialect: Dialect, r: Rounding) -> Trace:
    with np.errstate(all="ignore"):
        return _trace(np.frombuffer(z).reshape(shape), np.frombuffer(dz).reshape(shape), dialect, r)


def _trace(z: Array, dz: Array, dialect: Dialect, r: Rounding) -> Trace:
    n, u = z.shape[-1], r.unit
    first = DIM[dialect.first_axis]
    shifted = dialect.start == "exp" and dialect.iterations > 0
    plain = not dialect.entry_eps and not dialect.denominator_eps

    def flat() -> dict[int, Array]:
        return {-1: np.zeros_like(z[..., :1]), -2: np.zeros_like(z[..., :1, :])}

    scalings, drift = flat(), flat()  # the exact log-scalings; the largest error of the computed ones
    log_m, begin = z, dz
    if shifted:
        shift = z.max(first, keepdims=True)
        log_m = z - shift
        scalings[first] = -shift
        # Where no eps stands beside the matrix, a common shift of a line is divided out again.
        begin = dz if plain else dz + dz.max(first, keepdims=True)
    begin = begin + u * (4 + 3 * np.abs(log_m))
    kernel, entry, before_last = z, begin, begin
    size = np.abs(kernel)
    log_tiny = math.log(4 * r.tiny) if r.tiny else -INF
    below = np.zeros_like(z)
    lost = np.asarray(np.isinf(dz).any((-1, -2)))
    if r.tiny and dialect.start == "exp" and not shifted:
        lost = lost | ((log_m + begin).max((-1, -2)) > -log_tiny)
    if dialect.start == "exp" and not dialect.entry_eps:
        below = (log_m < log_tiny).astype(np.float64)
    kinked = np.zeros_like(lost)
    vectors = _Vectors(flat(), z.shape[:-2])
    steps: list[Step] = []
    for dim, eps in half_steps(dialect):
        deviation = np.fmin(entry + drift[-1] + drift[-2], MOST)
        before_last = deviation
        log_eps = math.log(eps) if eps else -INF
        if dim == 0:
            joined = np.logaddexp(log_m, log_eps)
            share = np.exp(log_m - joined)
            local = u * (3 + np.abs(joined)) + r.tiny / eps + share * (np.expm1(deviation) - deviation)
            entry = share * deviation + local
            steps.append(Step(0, share, local, np.zeros_like(z[..., :1]), entry))
            drift, scalings = flat(), flat()
            vectors = _Vectors(flat(), z.shape[:-2])
            kernel = log_m = joined
            size = np.abs(kernel)
            continue
        log_sum = denominator = log_sum_exp(log_m, dim)
        log_m_before = log_m
        if eps and dialect.denominator == "add":
            denominator = np.logaddexp(log_sum, log_eps)
        elif eps:
            denominator = np.maximum(log_sum, log_eps)
        log_m = log_m_before - denominator
        share = np.exp(log_m)
        w = share * (log_sum > log_eps) if eps and dialect.denominator == "clamp" else share
        total = np.abs(scalings[-1]) + np.abs(scalings[-2]) + size
        line = u * (n + 4 + (w * total).sum(dim, keepdims=True) + np.abs(scalings[dim]) + np.abs(denominator))
        if below.any():
            missing = np.where(below > 0, np.exp(log_m + below), 0.0).sum(dim, keepdims=True)
            lost = lost | (missing > LOST).any((-1, -2))
            line = line + 2 * missing
        spread = deviation.max(dim, keepdims=True)
        if eps and dialect.denominator == "clamp":
            reach = line + spread
            either = np.abs(log_sum - log_eps) < reach
            line = line + np.where(either, reach, 0.0)
            kinked = kinked | either.any((-1, -2))
        remainder = np.exp(2 * spread) * (w * deviation * deviation).sum(dim, keepdims=True) / 2
        local = u * (3 + np.abs(log_m))
        # log(sum w e^moved + (1 - sum w)), written so that nothing is lost where moved is tiny.
        moved = np.expm1(np.fmin(entry + drift[-3 - dim], MOST))
        drift[dim] = np.log1p((w * moved).sum(dim, keepdims=True)) + line
        entry = entry + local
        scalings[dim] = scalings[dim] - denominator
        if steps or dialect.start == "exp":  # a softmax start divides by its own sum out of sight
            vectors.divide(dim, denominator)
        steps.append(Step(dim, w, local, line + remainder, entry + drift[-1] + drift[-2]))
        if not dialect.entry_eps:
            below = below + (log_m < log_tiny)
    final = u * (4 + np.abs(log_m) + np.abs(kernel) + np.abs(scalings[-1]) + np.abs(scalings[-2]))
    if r.tiny:
        lost = lost | (vectors.largest > -log_tiny)
    visible = 0 if plain or not shifted else first
    return Trace(steps, begin, log_m, final, entry, before_last, below, lost, kinked, vectors.strain, visible)


def projection(logits: Approx, dialect: Dialect, r: Rounding) -> Projection:
    """h_res of [tokens, n, n] logits and what rounding can do to it; the derivation heads this module."""
    run = trace(logits, dialect, r)
    with np.errstate(all="ignore"):
        return Projection(*(torch.from_numpy(part) for part in scaled(run, dialect, r)))


def scaled(run: Trace, dialect: Dialect, r: Rounding) -> tuple[Array, Array, Array, Array]:
    """The parts of a `Projection`."""
    value = np.exp(run.log_m)
    error = value * np.expm1(np.fmin(run.final + run.propagated, MOST)) + r.tiny
    error = np.where(run.below > 0, error + np.exp(run.log_m + run.below), error)
    if dialect.iterations > 0 or dialect.start == "softmax":
        error = np.fmin(error, 1.0)  # both lie between 0 and 1
    lost = run.lost[..., None, None]
    error = np.where(lost, INF, error)
    odds = np.where(np.logical_or(run.below > 0, lost), INF, run.entry + run.final)
    last = DIM[dialect.last_axis]
    if not run.steps or run.steps[-1].dim != last:
        return value, error, odds, error.sum(last)
    # The last division makes the sum right whatever came before, but for what an eps keeps: s / (s + eps).
    kept = np.maximum(1 - value.sum(last), 0)
    own = run.final + r.unit * (3 + np.abs(run.log_m)) + np.fmin(run.steps[-1].line, 1.0)
    line = (value * own).sum(last) + kept * np.fmin(2 * run.before_last.max((-2, -1)), 1.0)[..., None]
    return value, error, odds, np.where(run.lost[..., None], INF, line + value.shape[-1] * r.tiny)
