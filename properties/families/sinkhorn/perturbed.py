"""The gradient of finite Sinkhorn iterations whose logits have errors of their own, to first order exactly.

*Forwards.* A half-step takes a mean of its line away from log m, so an error of log m after it is (I - 1 w^T) that of
before, what it adds to entries and lines itself, and the remainder of log-sum-exp, which is added to a line. So the
error of every iterate is exactly eta_s = F_s c + sum_k J_sk e_k, c the errors of the logits, F_s the derivative of
log m_s by log m_0, and e_k all that was added on the way, known by the trace: |eta_s - F_s c| <= rest_s.

*Backwards.* g_s = g_{s+1} - w_s mu_s, mu_s the line sums of g_{s+1}, is run with w_s e^eta. With g_s + D_s c + Q_s in
its place, c to first order,

    D_s = D_{s+1} - w_s (sum D_{s+1}) - w_s mu_s F_{s+1},
    Q_s = Q_{s+1} - w_s (sum Q_{s+1}) + own
          - w_s [(e^eta - 1 - F_{s+1} c) mu_s + (e^eta - 1) sum (D_{s+1} c + Q_{s+1})],

`own` being the roundings of the backward pass. So the gradient moves by |D_0| |c| and by what the brackets, of second
order in c and of first order in the unit, add to Q, each carried by the exact products of I - w 1^T. Two errors of the
logits of opposite effect cancel in D; where every |w mu| is charged with the largest |eta| they do not.
"""

from __future__ import annotations

import numpy as np

from properties.core.rounding import INF
from properties.families.sinkhorn.arrays import Array
from properties.families.sinkhorn.forwards import Trace

_NUMBERS = 2**20
"""The most numbers that are worth it: every step carries what all others have added."""
_WORTH = 1e-5
"""Errors of logits below which the simpler bound is near: a few hundred times as much is one in a thousand."""
_SMALL = 0.5
"""The largest deviation at which second-order terms are bounded by doubling."""


def pays(run: Trace, logit_errors: Array, cotangent_errors: Array) -> bool:
    """Whether errors of the logits are far above their own roundings, and the tokens are few; or nothing has an error.

    Where a projection is pulled back by itself what it is given is exact, and the simpler bound, which charges every
    half-step with the largest deviation, is ten times as large.
    """
    tokens, n, _ = run.begin.shape
    numbers = tokens * n**4 * (len(run.steps) + 1)
    if not (logit_errors.any() or cotangent_errors.any()):
        return numbers <= _NUMBERS // 32
    return bool((logit_errors > _WORTH).any()) and numbers <= _NUMBERS // 8


def error_of(run: Trace, bar: Array, dbar: Array, forward: Array, u: float, tiny: float) -> Array:
    """What may be wrong with the gradient by log m_0, [tokens, n, n]; infinite where deviations are not small.

    Arguments:
        bar, dbar: the cotangent and its error.
        forward: the error of h_res.
    """
    tokens, n, _ = run.begin.shape
    inputs, rests, moved = _forwards(run)
    begin = run.begin.reshape(tokens, -1)
    value, u = np.exp(run.log_m), 1.5 * u  # of numbers that are themselves off by half at most
    g = bar * value
    d = g[..., None] * inputs[-1]
    size = np.abs(g)
    own = np.abs(g) * (rests[-1] + _second(moved[-1]) + 2 * run.final + 3 * u) + dbar * (value + forward) + tiny
    carried = np.zeros((tokens, n, n, n * n * (len(run.steps) + 1)))
    sizes = np.zeros((tokens, carried.shape[-1]))
    unit, count = np.eye(n * n).reshape(n, n, n * n), 0
    direct = np.zeros_like(g)

    def add(more: Array) -> None:
        nonlocal count, direct
        carried[..., count : count + n * n] = unit
        sizes[:, count : count + n * n] = more.reshape(tokens, -1)
        count, direct = count + n * n, direct + more

    add(own)
    for s in reversed(range(len(run.steps))):
        step = run.steps[s]
        w, wide, p = step.weights, step.weights[..., None], carried[..., :count]
        if step.dim == 0:  # the share of an entry that an eps is added to: m_s / m_{s+1}
            off = np.einsum("tijk,tk->tij", np.abs(d), begin) + np.einsum("tijk,tk->tij", np.abs(p), sizes[:, :count])
            both = moved[s] + moved[s + 1]
            own = w * (4 * u * size + np.abs(g) * (rests[s] + rests[s + 1] + _second(both)) + np.expm1(both) * off)
            d = wide * (d + g[..., None] * (inputs[s] - inputs[s + 1]))
            p *= wide
            g, size = w * g, w * size
        else:
            axis = step.dim - 1
            mass, total = g.sum(step.dim, keepdims=True), size.sum(step.dim, keepdims=True)
            by_d, by_p = d.sum(axis, keepdims=True), p.sum(axis, keepdims=True)
            off = np.einsum("tijk,tk->tij", np.abs(by_d), begin)
            off = off + np.einsum("tijk,tk->tij", np.abs(by_p), sizes[:, :count])
            own = u * (4 * size + (n + 6) * w * total) + tiny
            own = own + w * (np.abs(mass) * (2 * rests[s + 1] + _second(moved[s + 1])) + np.expm1(moved[s + 1]) * off)
            d = d - wide * by_d - (w * mass)[..., None] * inputs[s + 1]
            p -= wide * by_p
            g, size = g - w * mass, size + w * np.abs(mass)
        add(own)
    found = np.einsum("tijk,tk->tij", np.abs(d), begin) + np.einsum("tijk,tk->tij", np.abs(carried), sizes)
    found = found + direct + own + n * u * size.sum((-2, -1), keepdims=True)
    large = np.stack(moved).max((0, -2, -1)) > _SMALL
    return np.where((large | (run.below > 0).any((-2, -1)))[:, None, None] | np.isnan(found), INF, found)


def _second(deviation: Array) -> Array:
    """|e^x - 1 - x| for |x| <= deviation."""
    return np.exp(deviation) * deviation * deviation / 2


def _forwards(run: Trace) -> tuple[list[Array], list[Array], list[Array]]:
    """Before the first step and after each: F [tokens, n, n, n*n], `rest`, and the largest error, [tokens, n, n]."""
    tokens, n, _ = run.begin.shape
    q, steps = n * n, run.steps
    unit = np.eye(q).reshape(n, n, q)
    rows, columns = np.repeat(np.eye(n)[:, None], n, 1), np.repeat(np.eye(n)[None], n, 0)
    begin = run.begin.reshape(tokens, q)
    f = np.zeros((tokens, n, n, q + len(steps) * (q + n)))
    sizes = np.zeros((tokens, f.shape[-1]))
    f[..., :q], count = unit, q
    inputs, rests, moved = [f[..., :q].copy()], [np.zeros_like(run.begin)], [run.begin]
    for step in steps:
        now, w = f[..., :count], step.weights[..., None]
        if step.dim == 0:
            now *= w
        else:
            now -= (w * now).sum(step.dim - 1, keepdims=True)
            f[..., count + q : count + q + n] = rows if step.dim == -1 else columns
            most = np.exp(2 * moved[-1].max(step.dim, keepdims=True))
            remainder = most * (step.weights * moved[-1] * moved[-1]).sum(step.dim, keepdims=True) / 2
            sizes[:, count + q : count + q + n] = np.fmin(step.line, step.rounded + remainder).reshape(tokens, n)
        f[..., count : count + q] = unit
        sizes[:, count : count + q] = step.entry.reshape(tokens, q)
        count += q + n
        rest = np.einsum("tijk,tk->tij", np.abs(f[..., q:count]), sizes[:, q:count])
        inputs.append(f[..., :q].copy())
        rests.append(rest)
        moved.append(np.fmin(step.deviation, rest + np.einsum("tijk,tk->tij", np.abs(f[..., :q]), begin)))
    return inputs, rests, moved
