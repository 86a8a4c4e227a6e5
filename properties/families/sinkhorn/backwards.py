"""The gradient of finite Sinkhorn iterations: how far rounding can carry it, and how large it can be."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mhc_ref import Dialect
from properties.core.family import DIM
from properties.core.rounding import INF, Approx, Rounding
from properties.families.sinkhorn import perturbed
from properties.families.sinkhorn.arrays import Array
from properties.families.sinkhorn.divisions import MOST, Step, log_sum_exp, portions, unknown_where
from properties.families.sinkhorn.forwards import Trace, divided_by_temperature, half_steps, scaled, tempered, trace


def pullback(logits: Approx, cotangent: Approx, dialect: Dialect, r: Rounding) -> Approx:
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

    A temperature divides what is pulled back to Z / temperature: 3 u more of it, and what underflows.

    Normwise sharp only: the deviation of an iterate is its a priori bound, and the pullback of a converged iteration
    damps what the bound adds up.
    """
    run = trace(logits, dialect, r)
    with np.errstate(all="ignore"):
        z, dz = (part.numpy() for part in tempered(logits, dialect))
        g, error = _pulled(run, z, dz, cotangent.value.numpy(), cotangent.error.numpy(), dialect, r)
        if dialect.temperature != 1:
            g = g / dialect.temperature
            error = error / dialect.temperature + divided_by_temperature(g, dialect, r)
            error = np.where(np.abs(g) + error > r.largest / 8, INF, error)
    return Approx(torch.from_numpy(g), torch.from_numpy(error))


def _pulled(
    run: Trace, z: Array, dz: Array, bar: Array, dbar: Array, dialect: Dialect, r: Rounding
) -> tuple[Array, Array]:
    n, u = run.begin.shape[-1], r.unit
    value, forward, _, _ = scaled(run, dialect, r)
    g = bar * value
    errors = [np.abs(bar) * forward + 3 * u * np.abs(g) + dbar * (value + forward) + r.tiny]
    size = np.abs(g)
    for step in reversed(run.steps):
        if step.dim == 0:
            known = np.fmin(np.expm1(np.fmin(step.deviation, MOST)), 1.0)
            errors.append(step.weights * size * (4 * u + known))
            g, size = step.weights * g, step.weights * size
            continue
        off = np.where(run.below > 0, 1.0, np.expm1(np.fmin(2 * step.deviation, MOST)))
        mass = g.sum(step.dim, keepdims=True)
        total = size.sum(step.dim, keepdims=True)
        errors.append(u * (4 * size + (n + 6) * step.weights * total) + step.weights * np.abs(mass) * off + r.tiny)
        g, size = g - step.weights * mass, size + step.weights * np.abs(mass)
    errors.reverse()  # errors[s] belongs to the iterate after step s; errors[0] to the logits themselves
    error = np.stack(errors).sum(0) + errors[0] + n * u * size.sum((-2, -1), keepdims=True)
    for some in portions(run.begin, len(run.steps)):
        error[some] += _carried(run.steps, [one[some] for one in errors[1:]], some)
    if perturbed.pays(run, dz, dbar):
        error = np.fmin(error, perturbed.error_of(run, bar, dbar, forward, u, r.tiny))
    if run.shift_dim:
        line = g.sum(run.shift_dim, keepdims=True)
        top = np.arange(n)
        top = top if run.shift_dim == -1 else top[:, None]
        g = g - (top == z.argmax(run.shift_dim, keepdims=True)) * line
        error = error + error.sum(run.shift_dim, keepdims=True)
        dz = dz + divided_by_temperature(z, dialect, r)  # which may make two logits one
        largest = z + dz >= (z - dz).max(run.shift_dim, keepdims=True)
        tied = largest & (largest.sum(run.shift_dim, keepdims=True) > 1)
        error = error + np.where(tied, np.abs(line), 0.0)
    lost = run.lost | run.kinked
    if r.tiny:
        most = np.maximum(run.strain, run.log_m.max((-1, -2))) + np.log(n * (1 + np.abs(bar).max((-1, -2)))) + 1
        lost = lost | (most > -math.log(r.tiny))
    return g, np.where(lost[..., None, None], INF, error)


def _carried(steps: Sequence[Step], own: Sequence[Array], tokens: slice) -> Array:
    """The errors of the iterates after each step, carried to the logits of some of the tokens."""
    if not steps:
        return np.zeros(())
    n = own[0].shape[-1]
    f = np.empty((len(steps) + 1, *own[0].shape, n * n))  # d log m_s / d log m_0
    f[0] = np.eye(n * n).reshape(n, n, n * n)
    for s, step in enumerate(steps):
        np.multiply(f[s], step.weights[tokens, ..., None], out=f[s + 1])
        if step.dim:
            np.subtract(f[s], np.add.reduce(f[s + 1], step.dim - 1, keepdims=True), out=f[s + 1])
    entry = np.stack(own)
    total = np.einsum("stijq,stij->tq", np.abs(f[1:]), entry)
    return unknown_where(entry, total=total).reshape(-1, n, n)


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

    Of logits over a temperature the derivative is that of Z / temperature, over the temperature.

    What rounding can do to the result is added: a log-sum-exp of n terms errs by u (n + 8) and u times the sizes of its
    terms and of itself, twice, as does the subtraction after it; scalings do not expand the sup-norm (see the
    head of `forwards`), so errors add up, and each of the m logarithms in the product can carry all of them.

    Raises:
        ValueError: for an exp start whose entries get an eps before any division, which is not covered, and where
            nothing is divided.
    """
    steps = half_steps(dialect)
    divisions = sum(dim != 0 for dim, _ in steps)
    if divisions < 2 or (dialect.start == "exp" and dialect.entry_eps):
        raise ValueError(f"no bound of the gradient for {dialect}: at least two divisions, the first of exp(Z)")
    z = logits.double().numpy() / dialect.temperature
    n, u = z.shape[-1], float(np.finfo(np.float64).eps) / 2
    log_m = z - z.max(DIM[dialect.first_axis], keepdims=True) if dialect.start == "exp" else z
    grown, unsure = np.zeros(len(z)), np.zeros(len(z))
    ends: list[Array] = []
    for dim, eps in steps:
        log_eps = math.log(eps) if eps else -INF
        if dim == 0:
            log_m = np.logaddexp(log_m, log_eps)
            continue
        log_c = log_sum_exp(log_m, dim)
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
    return torch.from_numpy(along) / dialect.temperature
