"""Projection by phi, gates and weighted sums: short chains, bounded as they run."""

from __future__ import annotations

import torch
from torch import Tensor

from mhc_ref import Dialect, Params
from mhc_ref.packing import residual_size
from properties.core.family import dynamic_of, gate_of, norm_of
from properties.core.rounding import INF, Approx, Rounding


def normalised(x: Approx, weight: Tensor | None, dialect: Dialect, r: Rounding) -> tuple[Approx, Tensor]:
    """x^ [tokens, n, C] by the norm of the dialect, times the norm weight, and the relative error that its entries
    share."""
    return norm_of(dialect).bound(x, weight, dialect, r)


def products(x: Approx, params: Params, dialect: Dialect, r: Rounding) -> Approx:
    """x^ phi, pre | post | res row-major.

    A sum of K products in any order, with the factor 1/rms inside or outside of it: gamma_{K+3} (`Rounding.dot`) +
    (relative error of 1/rms) of sum |x^| |phi|, plus sum dx^ |phi|, plus tiny for each product that underflows (times
    1/rms when the norm is applied afterwards).
    """
    n, channels = x.value.shape[-2:]
    state, shared = normalised(x, params.norm_weight, dialect, r)
    phi = params.phi.detach().double().cpu()
    count = channels if dialect.shared_projection else n * channels
    weight = (
        1.0 if params.norm_weight is None else params.norm_weight.detach().double().abs().max().clamp_min(1.0).item()
    )
    rms_inverse = torch.where(state.value == 0, 0.0, state.value / torch.where(x.value == 0, 1.0, x.value)).abs()
    floor = count * r.tiny * (1 + weight * rms_inverse.amax((-2, -1)))
    relative = r.dot(count + 3) + shared
    magnitude = relative * state.value.abs() + (1 + r.dot(count + 3)) * state.error
    error = by_third(magnitude, phi.abs(), dialect)
    error = torch.nan_to_num(error, nan=INF, posinf=INF) + floor.unsqueeze(-1) * phi.abs().amax()
    return Approx(by_third(state.value, phi, dialect), error)


def projected(x: Approx, params: Params, dialect: Dialect, r: Rounding) -> Approx:
    """dynamic(x^ phi), pre | post | res row-major, before gates and biases."""
    return dynamic_of(dialect).bound(products(x, params, dialect, r), dialect, r)


def by_third(state: Tensor, phi: Tensor, dialect: Dialect) -> Tensor:
    """state [..., n, C] times phi, packed pre | post | res row-major whether phi is shared or not."""
    if not dialect.shared_projection:
        return state.flatten(-2) @ phi
    by_stream = state @ phi
    return torch.cat([by_stream[..., 0], by_stream[..., 1], by_stream[..., 2:].flatten(-2)], -1)


def gated_logits(x: Approx, params: Params, dialect: Dialect, r: Rounding) -> Approx:
    """alpha * dynamic(x^ phi) + bias: three roundings of the product, one of the sum. A gate of 0 silences any
    error."""
    return gated(projected(x, params, dialect, r), x, params, dialect, r)


def gates(params: Params, n: int, dialect: Dialect) -> Tensor:
    """alpha, repeated for every logit that it gates, [2n + R] in float64."""
    sizes = torch.tensor([n, n, residual_size(n, dialect)])
    return params.alpha.detach().double().cpu().repeat_interleave(sizes)


def gated(p: Approx, x: Approx, params: Params, dialect: Dialect, r: Rounding) -> Approx:
    """alpha * p + bias, `p` the projection of the state x.

    With nothing in between, gates may be folded into phi and the bias into the sum, as the number that an accumulator
    starts from or as a column of ones beside the state. At most K additions then meet the bias b; one of a to b errs
    by u (|b| + S) at most, S the sum of the gated products' magnitudes, and where sums are rounded to nearest by |a| at
    most, b itself being a number: together min(gamma_K (|b| + S), S (1 + gamma_K)), nothing where phi is 0. (Tensor
    cores truncate: gamma_2K, and no such minimum.) The reference adds the bias last and has no share in this.
    """
    n, channels = x.value.shape[-2:]
    alpha = gates(params, n, dialect)
    bias = params.bias.detach().double().cpu()
    product = alpha * p.value
    # A gate of 0 silences any error but that of a NaN.
    moved = torch.where((alpha == 0) & torch.isfinite(p.error), 0.0, alpha.abs() * p.error).nan_to_num(
        nan=INF, posinf=INF
    )
    error = moved * (1 + 4 * r.unit) + 4 * r.unit * product.abs()
    logits = product + bias
    if dynamic_of(dialect).passes:
        count = channels if dialect.shared_projection else n * channels
        state, _ = normalised(x, params.norm_weight, dialect, r)
        sizes = by_third(state.value.abs() + state.error, params.phi.detach().double().cpu().abs(), dialect)
        terms = (alpha.abs() * sizes).nan_to_num(nan=INF)
        met = torch.where(terms == 0, 0.0, r.gamma(2 * count if r.product else count) * (bias.abs() + terms))
        error = error + (met if r.product else torch.minimum(met, terms * (1 + r.gamma(count))))
    return Approx(logits, error + r.unit * (logits.abs() + error))


def squashed(logits: Approx, kind: str, dialect: Dialect, r: Rounding) -> Approx:
    """The gates of the family `kind`, of logits [tokens, n]."""
    return gate_of(kind).bound(logits, dialect, r)


def softmax(logits: Approx, r: Rounding) -> Approx:
    """The softmax over the last axis.

    log p moves by at most d_i + max d, d the errors of the logits; its roundings are relative, with exponents of size
    |z| (log-domain forms round those). An infinite error stays infinite: the logit may be a NaN.
    """
    z, d = logits.value, logits.error
    value = z.softmax(-1)
    n = z.shape[-1]
    moved = d + d.amax(-1, keepdim=True) + r.unit * (n + 8 + 4 * z.abs().amax(-1, keepdim=True))
    error = (value * capped(moved, 700).expm1()).nan_to_num(nan=INF, posinf=INF) + n * r.tiny
    return Approx(value, capped(error, 1.0))


def capped(error: Tensor, most: float) -> Tensor:
    """An error that the range of a function limits, unless nothing is claimed at all."""
    return torch.where(torch.isinf(error), INF, error.clamp(max=most))


def affine(approx: Approx, scale: float, shift: float, r: Rounding) -> Approx:
    """scale * a + shift with one rounding each."""
    value = scale * approx.value + shift
    return Approx(
        value,
        abs(scale) * approx.error * (1 + 2 * r.unit) + r.unit * (abs(scale) * approx.value.abs() + value.abs()) * 1.01,
    )


def weighted_sum(weights: Approx, terms: Approx, r: Rounding, extra: int = 0) -> Approx:
    """sum_k w_k t_k over the second-last axis of `terms` [..., k, C], `weights` [..., k]: gamma_{k+extra} of
    sum |w||t| in any order (`Rounding.dot`), plus the errors of the factors, plus tiny for each product that
    underflows."""
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


def times(a: Approx, b: Approx, r: Rounding) -> Approx:
    """a * b, elementwise: |a| db + |b| da + da db, one rounding, one underflow."""
    value = a.value * b.value
    own = a.value.abs() * b.error + (b.value.abs() + b.error) * a.error
    return Approx(value, own * (1 + 2 * r.unit) + 2 * r.unit * value.abs() + r.tiny)


def plus(*terms: Approx, r: Rounding) -> Approx:
    """A sum of a few tensors in any order: gamma of the sum of magnitudes."""
    value = torch.stack([t.value for t in terms]).sum(0)
    size = torch.stack([t.value.abs() + t.error for t in terms]).sum(0)
    return Approx(value, torch.stack([t.error for t in terms]).sum(0) + r.gamma(len(terms)) * size)


def contracted(equation: str, a: Approx, b: Approx, count: int, r: Rounding) -> Approx:
    """einsum(equation, a, b), a sum of `count` products in any order."""
    value = torch.einsum(equation, a.value, b.value)
    size = torch.einsum(equation, a.value.abs() + a.error, b.value.abs() + b.error)
    own = torch.einsum(equation, a.error, b.value.abs()) + torch.einsum(equation, a.value.abs() + a.error, b.error)
    return Approx(value, own + r.dot(count + 2) * size + count * r.tiny)


def squash_gradient(logits: Approx, cotangent: Approx, kind: str, dialect: Dialect, r: Rounding) -> Approx:
    """The pullback of `squashed`."""
    return gate_of(kind).pullback(logits, cotangent, dialect, r)


def softmax_gradient(logits: Approx, cotangent: Approx, r: Rounding) -> Approx:
    """The pullback of `softmax`: p (c - sum p c)."""
    p = softmax(logits, r)
    n = p.value.shape[-1]
    mean = contracted("...i,...i->...", p, cotangent, n, r)
    spread = Approx(mean.value.unsqueeze(-1).expand_as(p.value), mean.error.unsqueeze(-1).expand_as(p.value))
    return times(p, plus(cotangent, Approx(-spread.value, spread.error), r=r), r)
