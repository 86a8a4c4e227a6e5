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
bounds the scalings without any remainder, and eta <= E + d_row + d_column. That grows with every division, each of
which may pass on the largest error of an entry once more: in 40 of them an error of .01 in the logits becomes .8. What
an iteration can really lose is how far the errors lie apart, since each division takes out of its lines what their
entries share, and that contracts (`divisions`): where logits have errors, the remainder is the smaller of the two.

*Underflow.* An entry that falls below 4 tiny in an iterate may be flushed to 0 or, being subnormal, rounded up to at
most twice its value: after k such iterates its own error is up to 2^k <= e^k times its value, and so is its share of a
line. Where that exceeds 2^-10 the line may be lost: the example is outside the domain of the linear form, and the error
is inf.

*Temperature.* Where it is not 1 the logits are Z / tau, and their errors dZ / tau. tau may be rounded, as may its
reciprocal and what comes of it, before the maximum is subtracted or after: 3 u |Z / tau| of rounding in each entry
before the first half-step, and the smallest number where that underflows. It is no error of a logit that
is given. A quotient beyond the range of the dtype is outside the domain.

*Overflow.* Scaling vectors are admitted, so an example whose cumulative scalings leave the range of the dtype is
outside the domain too; for gradients, one whose 1/s^2 or ratio of scalings does. So is one of an exp start that no
iteration shifts, where an entry itself does, or that entry times the cotangent.

*Clamped denominators* are 1-Lipschitz in log sum; at the kink, where both branches are possible, the difference of the
two is admitted as a line error.

Everything here is float64, numpy's on the CPU and torch's on a device (`arrays`).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from mhc_ref import Dialect
from properties.core.family import DIM
from properties.core.rounding import INF, Approx, Projection, Rounding
from properties.families.sinkhorn.arrays import Array, Flags, as_arrays, as_tensor, functions_of
from properties.families.sinkhorn.divisions import (
    MOST,
    Iterate,
    Step,
    divided,
    even,
    portions,
    strained,
    unknown_where,
    unscaled,
)


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
    lost: Flags
    kinked: Flags
    strain: Array
    shift_dim: int

    @functools.cached_property
    def propagated(self) -> Array:
        """sum over steps of |d log M / d (error of the step)| * (the step's error): [tokens, n, n]."""
        xp = functions_of(self.begin)
        parts = [self._propagated(some) for some in portions(self.begin, len(self.steps))]
        return xp.concatenate(parts) if parts else xp.zeros_like(self.begin)

    def _propagated(self, tokens: slice) -> Array:
        """Of some of the tokens."""
        xp, n = functions_of(self.begin), self.begin.shape[-1]
        entry = xp.stack([self.begin[tokens], *(step.entry[tokens] for step in self.steps)])
        g = xp.empty((*entry.shape, n * n), entry)  # d log M / d log m, of m at the beginning and after each step
        g[-1] = xp.eye(n * n, entry).reshape(n, n, n * n)
        sums: list[Array] = []
        lines: list[Array] = []
        for s in reversed(range(len(self.steps))):
            step, weights = self.steps[s], self.steps[s].weights[tokens, ..., None]
            if step.dim == 0:
                xp.multiply(g[s + 1], weights, out=g[s])
                continue
            by_line = xp.total(g[s + 1], step.dim - 1, keepdims=True)
            xp.subtract(g[s + 1], xp.multiply(by_line, weights, out=g[s]), out=g[s])
            sums.append(by_line.reshape(-1, n, n * n))
            lines.append(step.line[tokens].reshape(-1, n))
        total = xp.einsum("stijq,stij->tq", xp.abs(g, out=g), entry)
        if sums:
            total += xp.einsum("stkq,stk->tq", xp.abs(xp.stack(sums)), xp.stack(lines))
        return unknown_where(entry, *lines, total=total).reshape(-1, n, n)


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


def trace(logits: Approx, dialect: Dialect, r: Rounding) -> Trace:
    """Run the exact iteration once and note what rounding may add at every step."""
    z, dz = as_arrays(*(part.contiguous() for part in tempered(logits, dialect)))
    if not isinstance(z, np.ndarray):
        return _trace(z, dz, dialect, r)
    return _remembered(z.tobytes(), dz.tobytes(), z.shape, dialect, r)


def tempered(logits: Approx, dialect: Dialect) -> tuple[Tensor, Tensor]:
    """Z / temperature, and the errors of Z over it."""
    return logits.value / dialect.temperature, logits.error / dialect.temperature


def divided_by_temperature(z: Array, dialect: Dialect, r: Rounding) -> Array:
    """What rounding adds to each of Z / temperature."""
    xp = functions_of(z)
    return 3 * r.unit * xp.abs(z) + r.tiny if dialect.temperature != 1 else xp.zeros_like(z)


# A law bounds the same logits several times, and the simplest examples of one law are those of the next: a third of
# all traces are of logits that were seen among the last few.
@functools.lru_cache(maxsize=64)
def _remembered(z: bytes, dz: bytes, shape: tuple[int, ...], dialect: Dialect, r: Rounding) -> Trace:
    with np.errstate(all="ignore"):
        return _trace(np.frombuffer(z).reshape(shape), np.frombuffer(dz).reshape(shape), dialect, r)


def _trace(z: Array, dz: Array, dialect: Dialect, r: Rounding) -> Trace:
    xp, u = functions_of(z), r.unit
    first = DIM[dialect.first_axis]
    shifted = dialect.start == "exp" and dialect.iterations > 0
    plain = not dialect.entry_eps and not dialect.denominator_eps
    begin = dz + divided_by_temperature(z, dialect, r)
    log_m, scalings = z, unscaled(z)
    if shifted:
        shift = xp.most(z, first, keepdims=True)
        log_m, scalings[first] = z - shift, -shift
        # Where no eps stands beside the matrix, a common shift of a line is divided out again.
        begin = begin if plain else begin + xp.most(begin, first, keepdims=True)
    begin = begin + u * (4 + 3 * xp.abs(log_m))
    log_tiny = math.log(4 * r.tiny) if r.tiny else -INF
    floor = -INF if dialect.entry_eps else log_tiny
    beyond = r.largest / 8 if dialect.temperature != 1 else INF
    lost = xp.any(xp.isinf(dz) | (xp.abs(z) > beyond), (-1, -2))
    if r.tiny and dialect.start == "exp" and not shifted:
        lost = lost | (xp.most(log_m + begin, (-1, -2)) > -log_tiny)
    below = xp.floats(log_m < floor) if dialect.start == "exp" else xp.zeros_like(z)
    spans = even(z) if dz.any() else {}
    now = Iterate(log_m, z, begin, scalings, unscaled(z), spans, begin, below, lost, xp.zeros_like(lost))
    steps: list[Step] = []
    divisions = [dim for dim, _ in half_steps(dialect) if dim]
    if dialect.start == "softmax":  # it divides by its own sum out of sight: no scaling vector has to hold that
        now, steps, _ = divided(now, divisions.pop(0), 1, 0.0, "add", r, floor)
    if dialect.entry_eps:
        now, step = _raised(now, dialect.entry_eps, r)
        steps.append(step)
    begun = divisions[0] if divisions else first
    now, more, divisors = divided(now, begun, len(divisions), dialect.denominator_eps, dialect.denominator, r, floor)
    largest, strain = strained(divisors)
    final = u * (4 + xp.abs(now.log_m) + xp.abs(now.kernel) + xp.abs(now.scalings[-1]) + xp.abs(now.scalings[-2]))
    lost = now.lost | (largest > -log_tiny) if r.tiny else now.lost
    visible = 0 if plain or not shifted else first
    return Trace(
        steps + more, begin, now.log_m, final, now.entry, now.before, now.below, lost, now.kinked, strain, visible
    )


def _raised(now: Iterate, eps: float, r: Rounding) -> tuple[Iterate, Step]:
    """The iterate after eps is added to every entry, from which scalings begin anew."""
    xp = functions_of(now.log_m)
    joined = xp.logaddexp(now.log_m, math.log(eps))
    share = xp.exp(now.log_m - joined)
    deviation = now.deviation
    local = r.unit * (3 + xp.abs(joined)) + r.tiny / eps + share * (xp.expm1(deviation) - deviation)
    entry = share * deviation + local
    none = xp.zeros_like(share[..., :1])
    step = Step(0, share, local, none, entry, none)
    fresh = unscaled(share)
    spans = even(share) if now.spans else {}
    after = replace(
        now, log_m=joined, kernel=joined, entry=entry, scalings=fresh, drift=fresh, spans=spans, before=deviation
    )
    return after, step


def projection(logits: Approx, dialect: Dialect, r: Rounding) -> Projection:
    """h_res of [tokens, n, n] logits and what rounding can do to it; the derivation heads this module."""
    run = trace(logits, dialect, r)
    with np.errstate(all="ignore"):
        return Projection(*(as_tensor(part) for part in scaled(run, dialect, r)))


def scaled(run: Trace, dialect: Dialect, r: Rounding) -> tuple[Array, Array, Array, Array]:
    """The parts of a `Projection`."""
    xp = functions_of(run.log_m)
    value = xp.exp(run.log_m)
    error = value * xp.expm1(xp.minimum(run.final + run.propagated, MOST)) + r.tiny
    error = xp.where(run.below > 0, error + xp.exp(run.log_m + run.below), error)
    if dialect.iterations > 0 or dialect.start == "softmax":
        error = xp.minimum(error, 1.0)  # both lie between 0 and 1
    lost = run.lost[..., None, None]
    error = xp.where(lost, INF, error)
    odds = xp.where(xp.logical_or(run.below > 0, lost), INF, run.entry + run.final)
    last = DIM[dialect.last_axis]
    if not run.steps or run.steps[-1].dim != last:
        return value, error, odds, error.sum(last)
    # The last division makes the sum right whatever came before, but for what an eps keeps: s / (s + eps).
    kept = xp.maximum(1 - value.sum(last), 0)
    own = run.final + r.unit * (3 + xp.abs(run.log_m)) + xp.fmin(run.steps[-1].line, 1.0)
    line = (value * own).sum(last) + kept * xp.fmin(2 * xp.most(run.before_last, (-2, -1)), 1.0)[..., None]
    return value, error, odds, xp.where(run.lost[..., None], INF, line + value.shape[-1] * r.tiny)
