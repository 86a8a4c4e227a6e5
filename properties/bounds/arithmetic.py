"""Sums, products and softmax of numbers that have errors: what every stage is made of."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from properties.core.rounding import INF, Approx, Rounding, known
from properties.core.rows import Count, most_of


def capped(error: Tensor, most: float) -> Tensor:
    """An error that the range of a function limits, unless nothing is claimed at all."""
    return torch.where(torch.isinf(error), INF, error.clamp(max=most))


def _finite(value: Tensor, error: Tensor, size: Tensor, r: Rounding) -> Approx:
    """A value of which nothing is claimed where the sizes of what it is made of are beyond the compute dtype."""
    beyond = r.beyond(size)
    return Approx(value, torch.where(beyond, INF, error) if bool(beyond.any()) else error)


def addends(*factors: Approx, over: tuple[int, ...]) -> Count:
    """The most products of these factors, equal in shape, that are added along some dims and may be other than 0.

    A product with an exact 0 is an exact 0, and to add that rounds nothing, in any order and with any accumulator: a
    number passes through fewer roundings than its sum has numbers that are not 0, however many zeros stand between
    them. What has an error may be other than 0. In a pass over many cases each token has the count of its case.
    """
    there = torch.stack([(one.value != 0) | (one.error != 0) for one in factors]).all(0)
    if not there.numel():
        return 0
    return most_of(there.sum(over).flatten(1).amax(1) if there.ndim > len(over) + 1 else there.sum(over))


def is_rounded(constant: float, r: Rounding) -> bool:
    """Whether a constant of a dialect has more bits than the numbers of the compute dtype, as 0.1 has."""
    bits = math.frexp(constant)[0] * 2.0 ** round(-math.log2(r.unit))
    return bits != round(bits)


def affine(approx: Approx, scale: float, shift: float, r: Rounding) -> Approx:
    """scale * a + shift with one rounding each, and one of each constant that is no number of the compute dtype.

    Without a shift there is no sum, whose rounding then stands for that of the scale.
    """
    value = scale * approx.value + shift
    product = abs(scale) * approx.value.abs()
    constants = abs(shift) * is_rounded(shift, r) + product * (is_rounded(scale, r) if shift else 0)
    return Approx(
        value,
        abs(scale) * approx.error * (1 + 2 * r.unit) + r.unit * (product + value.abs() + constants) * 1.01,
    )


def weighted_sum(weights: Approx, terms: Approx, r: Rounding, extra: int = 0) -> Approx:
    """sum_k w_k t_k over the second-last axis of `terms` [..., k, C], `weights` [..., k] or [..., k, C]:
    gamma_{k+extra} of sum |w||t| in any order (`Rounding.dot`), plus the errors of the factors, plus tiny for each
    product that underflows."""
    if weights.value.ndim == terms.value.ndim:
        k = weights.value.shape[-2]
        size = (weights.value.abs() + weights.error) * (terms.value.abs() + terms.error)
        moved = weights.error * terms.value.abs() + (weights.value.abs() + weights.error) * terms.error
        error = (known(moved) + r.dot(k + extra) * known(size)).sum(-2) + k * r.tiny
        return Approx((weights.value * terms.value).sum(-2), error)
    w, t = weights.value.unsqueeze(-2), terms.value
    dw, dt = weights.error.unsqueeze(-2), terms.error
    value = (w @ t).squeeze(-2)
    spread = (w.abs() + dw) @ (t.abs() + dt)
    own = dw @ t.abs() + (w.abs() + dw) @ dt
    k = weights.value.shape[-1]
    return Approx(value, (own + r.dot(k + extra) * spread).squeeze(-2) + k * r.tiny)


def stored(approx: Approx, r: Rounding) -> Approx:
    """Rounded once more into the dtype of the state, where that is coarser than the compute dtype.

    What may lie beyond the state's largest finite number may be stored as an infinity: nothing is claimed there.
    """
    error = approx.error * (1 + r.state_unit) + r.state_unit * approx.value.abs() + r.state_tiny
    return Approx(approx.value, torch.where(approx.value.abs() + error > r.state_max, INF, error))


def holding(value: Tensor, error: Tensor, size: Tensor, r: Rounding) -> Approx:
    """A sum that the dtype of the state holds, of numbers whose magnitudes are `size` in all: of others nothing is
    claimed."""
    return Approx(value, torch.where(size + error > r.state_max, INF, error))


def entering(approx: Approx, r: Rounding) -> Approx:
    """What a stage computes of: stored in the dtype of the state where the stage computes in that."""
    return stored(approx, r) if r.accumulated else approx


def as_parameter(gradient: Approx, r: Rounding) -> Approx:
    """The gradient by a parameter, which is stored as the parameter is: rounded once more, to the dtype of the state,
    where that is.

    It is so for every way in which a parameter is used, and for the sum of two; parts of one, such as the columns of
    phi that give h_pre, are no second use, since autograd adds exact zeros to what it knows of them.
    """
    return stored(gradient, r) if r.stores_in_state else gradient


def times(a: Approx, b: Approx, r: Rounding) -> Approx:
    """a * b, elementwise: |a| db + |b| da + da db, one rounding, one underflow."""
    value = a.value * b.value
    own = a.value.abs() * b.error + (b.value.abs() + b.error) * a.error
    return _finite(value, own * (1 + 2 * r.unit) + 2 * r.unit * value.abs() + r.tiny, value.abs() + own, r)


def plus(*terms: Approx, r: Rounding) -> Approx:
    """A sum of a few tensors in any order: gamma of the sum of magnitudes."""
    value = torch.stack([t.value for t in terms]).sum(0)
    size = torch.stack([t.value.abs() + t.error for t in terms]).sum(0)
    return _finite(value, torch.stack([t.error for t in terms]).sum(0) + r.gamma(len(terms)) * size, size, r)


def contracted(equation: str, a: Approx, b: Approx, count: int, r: Rounding) -> Approx:
    """einsum(equation, a, b), a sum of `count` products in any order."""
    value = torch.einsum(equation, a.value, b.value)
    size = torch.einsum(equation, a.value.abs() + a.error, b.value.abs() + b.error)
    own = torch.einsum(equation, a.error, b.value.abs()) + torch.einsum(equation, a.value.abs() + a.error, b.error)
    return _finite(value, own + r.dot(count + 2) * size + count * r.tiny, size, r)


def softmax(logits: Approx, r: Rounding) -> Approx:
    """The softmax over the last axis.

    log p moves by at most d_i + max d, d the errors of the logits; its roundings are relative, with exponents of size
    |z| (log-domain forms round those). An infinite error stays infinite: the logit may be a NaN.
    """
    z, d = logits.value, logits.error
    value = z.softmax(-1)
    n = z.shape[-1]
    moved = d + d.amax(-1, keepdim=True) + r.unit * (n + 8 + 4 * z.abs().amax(-1, keepdim=True))
    error = known(value * capped(moved, 700).expm1()) + n * r.tiny
    return Approx(value, capped(error, 1.0))


def softmax_gradient(logits: Approx, cotangent: Approx, r: Rounding) -> Approx:
    """The pullback of `softmax`: p (c - sum p c)."""
    p = softmax(logits, r)
    n = p.value.shape[-1]
    mean = contracted("...i,...i->...", p, cotangent, n, r)
    spread = Approx(mean.value.unsqueeze(-1).expand_as(p.value), mean.error.unsqueeze(-1).expand_as(p.value))
    return times(p, plus(cotangent, Approx(-spread.value, spread.error), r=r), r)
