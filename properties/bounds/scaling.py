"""Finite Sinkhorn iterations: how far rounding can carry them, forwards and backwards.

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
outside the
domain too; for gradients, one whose 1/s^2 or ratio of scalings does. So is one of an exp start that no iteration
shifts, where an entry itself does, or that entry times the cotangent.

*Clamped denominators* are 1-Lipschitz in log sum; at the kink, where both branches are possible, the difference of the
two is admitted as a line error.

Everything here is numpy in float64: hundreds of small steps, for which it is several times quicker than torch.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mhc_ref import Dialect
from properties.core.rounding import INF, Approx, Rounding

Array = np.ndarray[Any, np.dtype[np.float64]]

_DIM = {"row": -1, "column": -2}
_LOST = 2.0**-10
_MOST = 350.0
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


class Scaled(NamedTuple):
    """value, error, entry and line as in `properties.bounds.Projection`."""

    value: Tensor
    error: Tensor
    entry: Tensor
    line: Tensor


def _half_steps(dialect: Dialect) -> list[tuple[int, float]]:
    """(dim, eps) of every step after the logits, dim 0 standing for the addition of entry_eps."""
    pairs = [_DIM[dialect.first_axis], _DIM[dialect.last_axis]] * dialect.iterations
    steps: list[tuple[int, float]] = []
    if dialect.start == "softmax":
        steps.append((_DIM[dialect.start_axis], 0.0))
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


def _log_sum(log_m: Array, dim: int) -> Array:
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
    first = _DIM[dialect.first_axis]
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
    for dim, eps in _half_steps(dialect):
        deviation = np.fmin(entry + drift[-1] + drift[-2], _MOST)
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
        log_sum = denominator = _log_sum(log_m, dim)
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
            lost = lost | (missing > _LOST).any((-1, -2))
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
        moved = np.expm1(np.fmin(entry + drift[-3 - dim], _MOST))
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


def sinkhorn(logits: Approx, dialect: Dialect, r: Rounding) -> Scaled:
    """h_res of [tokens, n, n] logits and what rounding can do to it; the derivation heads this module."""
    run = trace(logits, dialect, r)
    with np.errstate(all="ignore"):
        return Scaled(*(torch.from_numpy(part) for part in _scaled(run, dialect, r)))


def _scaled(run: Trace, dialect: Dialect, r: Rounding) -> tuple[Array, Array, Array, Array]:
    value = np.exp(run.log_m)
    error = value * np.expm1(np.fmin(run.final + run.propagated, _MOST)) + r.tiny
    error = np.where(run.below > 0, error + np.exp(run.log_m + run.below), error)
    if dialect.iterations > 0 or dialect.start == "softmax":
        error = np.fmin(error, 1.0)  # both lie between 0 and 1
    lost = run.lost[..., None, None]
    error = np.where(lost, INF, error)
    odds = np.where(np.logical_or(run.below > 0, lost), INF, run.entry + run.final)
    last = _DIM[dialect.last_axis]
    if not run.steps or run.steps[-1].dim != last:
        return value, error, odds, error.sum(last)
    # The last division makes the sum right whatever came before, but for what an eps keeps: s / (s + eps).
    kept = np.maximum(1 - value.sum(last), 0)
    own = run.final + r.unit * (3 + np.abs(run.log_m)) + np.fmin(run.steps[-1].line, 1.0)
    line = (value * own).sum(last) + kept * np.fmin(2 * run.before_last.max((-2, -1)), 1.0)[..., None]
    return value, error, odds, np.where(run.lost[..., None], INF, line + value.shape[-1] * r.tiny)


def sinkhorn_gradient(logits: Approx, cotangent: Approx, dialect: Dialect, r: Rounding) -> Approx:
    """The vector-Jacobian product d <cotangent, M> / d Z, [tokens, n, n].

    In logarithms the pullback of a half-step is g <- g - w (line sums of g), starting at g = cotangent * M. A backward
    pass adds, in each half-step, u (4 s + (n + 6) w sum s) of its own, s >= |g| being the sum of all that was added up
    (with potentials nothing cancels before the end), and w |sum g| times the relative error of w left by the forward
    pass (`Step.deviation`). These are carried to the logits by the exact |d log m_s / d Z|; where the iteration keeps
    potentials instead of iterates, they reach the logits directly, so both are added. The maximum that an exp start
    subtracts gives and takes back the line sum of g: n u sum |g| more.

    At a kink every one-sided derivative and every mean of them is admitted. Where logits share the maximum and an eps
    makes the shift visible, the line sum of g may be charged to any of them or split, so each may be off by all of it;
    where a sum may lie on either side of its clamp, nothing is claimed.

    Normwise sharp only: the deviation of an iterate is its a priori bound, and the pullback of a converged iteration
    damps what the bound adds up.
    """
    run = trace(logits, dialect, r)
    with np.errstate(all="ignore"):
        z, dz = logits.value.numpy(), logits.error.numpy()
        g, error = _pulled(run, z, dz, cotangent.value.numpy(), cotangent.error.numpy(), dialect, r)
    return Approx(torch.from_numpy(g), torch.from_numpy(error))


def _pulled(
    run: Trace, z: Array, dz: Array, bar: Array, dbar: Array, dialect: Dialect, r: Rounding
) -> tuple[Array, Array]:
    tokens, n, _ = run.begin.shape
    u = r.unit
    value, forward, _, _ = _scaled(run, dialect, r)
    g = bar * value
    errors = [np.abs(bar) * forward + 3 * u * np.abs(g) + dbar * (value + forward) + r.tiny]
    size = np.abs(g)
    for step in reversed(run.steps):
        if step.dim == 0:
            known = np.fmin(np.expm1(np.fmin(step.deviation, _MOST)), 1.0)
            errors.append(step.weights * size * (4 * u + known))
            g, size = step.weights * g, step.weights * size
            continue
        off = np.where(run.below > 0, 1.0, np.expm1(np.fmin(2 * step.deviation, _MOST)))
        mass = g.sum(step.dim, keepdims=True)
        total = size.sum(step.dim, keepdims=True)
        errors.append(u * (4 * size + (n + 6) * step.weights * total) + step.weights * np.abs(mass) * off + r.tiny)
        g, size = g - step.weights * mass, size + step.weights * np.abs(mass)
    errors.reverse()  # errors[s] belongs to the iterate after step s; errors[0] to the logits themselves
    error = np.stack(errors).sum(0) + errors[0] + n * u * size.sum((-2, -1), keepdims=True)
    f = np.broadcast_to(np.eye(n * n).reshape(1, n, n, n * n), (tokens, n, n, n * n))  # d log m_s / d log m_0
    for step, own in zip(run.steps, errors[1:], strict=True):
        weighted = step.weights[..., None] * f
        f = weighted if step.dim == 0 else f - weighted.sum(step.dim - 1, keepdims=True)
        error = error + np.einsum("tijq,tij->tq", np.abs(f), own).reshape(tokens, n, n)
    if run.shift_dim:
        line = g.sum(run.shift_dim, keepdims=True)
        top = np.arange(n)
        top = top if run.shift_dim == -1 else top[:, None]
        g = g - (top == z.argmax(run.shift_dim, keepdims=True)) * line
        error = error + error.sum(run.shift_dim, keepdims=True)
        largest = z + dz >= (z - dz).max(run.shift_dim, keepdims=True)
        tied = largest & (largest.sum(run.shift_dim, keepdims=True) > 1)
        error = error + np.where(tied, np.abs(line), 0.0)
    lost = run.lost | run.kinked
    if r.tiny:
        most = np.maximum(run.strain, run.log_m.max((-1, -2))) + np.log(n * (1 + np.abs(bar).max((-1, -2)))) + 1
        lost = lost | (most > -math.log(r.tiny))
    return g, np.where(lost[..., None, None], INF, error)


def pullback_norm(logits: Tensor, dialect: Dialect) -> Tensor:
    """An upper bound of the spectral norm of d h_res / d logits at [tokens, n, n] logits, [tokens].

    Let y_s be the derivative of log M_s, M_s the matrix after half-step s. A half-step divides the lines of M by
    D = c + eps, or max(c, eps), c their sums, so y_s = (I - theta P) y_{s-1} with P the mean of a line weighted by it,
    and theta = c / D, or 1 where c >= eps and 0 elsewhere. P is an orthogonal projection in the norm
    |y|_s^2 = sum M_s y^2, so with 0 <= theta <= 1 nothing grows but the norm itself:
    |y_s|_s <= |y_{s-1}|_s <= |y_{s-1}|_{s-1} / sqrt(min D).

    * First half-step, or softmax: W (I - P) = diag(w) - w w^T on each line, w its share, has a norm of at most 1/2, and
      it is the square of sqrt(W) (I - P): |y_1|_1 <= sqrt(1/2) |dZ|. What an eps keeps of the mean and of the maximum,
      which was subtracted, adds 2 (1 - theta) |dZ| at most. Adding entry_eps to M makes M y^2 no larger.
    * Last half-step: dM = M y, and likewise |dM| <= (sqrt(1/2) + 1 - theta) |y|.

    Together (sqrt(1/2) + 2 (1 - theta_1)) (sqrt(1/2) + 1 - theta_m) prod_{s = 2..m} (min D_s)^(-1/2): the 1/2 of the
    limit as the sums tend to 1, and computed along the iteration where they do not. Without eps it is (1 + n (m - 1))/2
    at most, whatever the sums: the last softmax forgets the scalings of its own lines and is 1/2-Lipschitz, and each
    half-step before it sets its scalings to minus a weighted mean of dZ and the other scalings.

    What rounding can do to the result is added: a log-sum-exp of n terms errs by u (n + 8) and u times the sizes of its
    terms and of itself, twice, as does the subtraction after it; scalings do not expand the sup-norm (see the head of
    this module), so errors add up, and each of the m logarithms in the product can carry all of them.

    Raises:
        ValueError: for an exp start whose entries get an eps before any division, which is not covered, and where
            nothing is divided.
    """
    steps = _half_steps(dialect)
    divisions = sum(dim != 0 for dim, _ in steps)
    if dialect.residual != "sinkhorn" or divisions < 2 or (dialect.start == "exp" and dialect.entry_eps):
        raise ValueError(f"no bound of the gradient for {dialect}: at least two divisions, the first of exp(Z)")
    z = logits.double().numpy()
    n, u = z.shape[-1], float(np.finfo(np.float64).eps) / 2
    log_m = z - z.max(_DIM[dialect.first_axis], keepdims=True) if dialect.start == "exp" else z
    grown, unsure = np.zeros(len(z)), np.zeros(len(z))
    ends: list[Array] = []
    for dim, eps in steps:
        log_eps = math.log(eps) if eps else -INF
        if dim == 0:
            log_m = np.logaddexp(log_m, log_eps)
            continue
        log_c = _log_sum(log_m, dim)
        if dialect.denominator == "add":
            log_d = np.logaddexp(log_c, log_eps)
            lost = np.exp(log_eps - log_d)
        else:
            log_d = np.maximum(log_c, log_eps)
            lost = (log_c < log_eps).astype(np.float64)
        unsure += u * (n + 8 + 4 * (np.abs(log_m).max((-1, -2)) + np.abs(log_c).max((-1, -2))))
        ends.append(lost.max((-1, -2)))
        if len(ends) > 1:
            grown -= log_d.min((-1, -2)) / 2
        log_m = log_m - log_d
    half = math.sqrt(0.5)
    along = (half + 2 * ends[0]) * (half + ends[-1]) * np.exp(grown + divisions * unsure)
    if not dialect.entry_eps and not dialect.denominator_eps:
        along = np.minimum(along, (1 + n * (divisions - 1)) / 2)
    return torch.from_numpy(along)
