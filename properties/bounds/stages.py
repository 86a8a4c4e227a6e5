"""Norm, projection by phi, gates, squashes and weighted sums: short chains, bounded as they run."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mhc_ref import Dialect, Params
from mhc_ref.projection import residual_size
from properties.core.rounding import INF, Approx, Rounding

GUARD = 1e-12
"""The norm |x|_2 up to which a normalisation without eps may be guarded against 0 / 0."""


def normalised(x: Approx, weight: Tensor | None, dialect: Dialect, r: Rounding) -> tuple[Approx, Tensor]:
    """x^ = x / rms * weight, and the relative error of 1/rms that all its entries share.

    mean(x^2) over K numbers: one rounding a square, K - 1 in the sum, two for the division, one for eps, and at most
    tiny for each square that underflows, so its relative error is e = gamma_{K+4} + 2 tiny / (mean + eps), plus what an
    error dx of x makes of it, (2 |x| dx + dx^2) / sum. The root halves it, exactly: |sqrt(1+e) - 1| <= e / (2 (1 - e))
    for e < 1; root, reciprocal (rsqrt instructions err by 2 ulp) and the sqrt(K) of a norm-based formula add 8 units.
    An entry then has two roundings more (times 1/rms, times weight).

    A norm without eps must guard its division by 0 somehow, and which way is not declared: the nearer a state is to 0
    the more the usual guards differ, max(|x|_2, 1e-12) of `torch.nn.functional.normalize` being the widest. The error
    of a state within it is infinite.
    """
    over = (-2, -1) if dialect.norm_over == "streams" else (-1,)
    count = math.prod(x.value.shape[d] for d in over)
    squares = x.value.square()
    mean = squares.mean(over, keepdim=True)
    inside = dialect.rms_eps if dialect.rms_eps_inside else 0.0
    total = mean + inside
    safe = torch.where(total > 0, total, 1.0)
    moved = (2 * x.value.abs() * x.error + x.error.square()).mean(over, keepdim=True)
    relative = r.gamma(count + 4) + (2 * r.tiny + moved) / safe
    root = torch.where(relative < 0.5, relative / (2 * (1 - relative.clamp(max=0.5))), INF)
    rms = total.sqrt() + (0.0 if dialect.rms_eps_inside else dialect.rms_eps)
    shared = torch.where(total > 0, root, 0.0 if dialect.rms_eps else INF) + 8 * r.unit
    zero = (rms == 0).expand_as(x.value)
    if not dialect.rms_eps:  # within the guard against 0 / 0, whatever comes out, nothing is claimed
        shared = torch.where((mean * count).sqrt() <= GUARD, INF, shared)
    scale = (
        torch.ones_like(x.value) if weight is None else weight.detach().double().cpu().view(x.value.shape[-2:])
    ) / torch.where(rms == 0, 1.0, rms)
    value = torch.where(zero, 0.0, x.value * scale)
    error = x.error * scale.abs() + 3 * r.unit * value.abs() + r.tiny * scale.abs()
    return Approx(value, torch.where(zero, 0.0, error)), shared


def projected(x: Approx, params: Params, dialect: Dialect, r: Rounding) -> Approx:
    """dynamic(x^ phi), pre | post | res row-major, before gates and biases.

    A sum of K products in any order, with the factor 1/rms inside or outside of it: gamma_{K+3} (`Rounding.dot`) +
    (relative error of 1/rms) of sum |x^| |phi|, plus sum dx^ |phi|, plus tiny for each product that underflows (times
    1/rms when the norm is applied afterwards). tanh is 1-Lipschitz and absolutely accurate to 4 units.
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
    value = by_third(state.value, phi, dialect)
    error = by_third(magnitude, phi.abs(), dialect)
    error = torch.nan_to_num(error, nan=INF, posinf=INF) + floor.unsqueeze(-1) * phi.abs().amax()
    if dialect.dynamic == "tanh":
        return Approx(value.tanh(), capped(error, 2.0) + 4 * r.unit)
    return Approx(value, error)


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

    Without a tanh in between, gates may be folded into phi and the bias into the sum, as the number that an accumulator
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
    if dialect.dynamic == "linear":
        count = channels if dialect.shared_projection else n * channels
        state, _ = normalised(x, params.norm_weight, dialect, r)
        sizes = by_third(state.value.abs() + state.error, params.phi.detach().double().cpu().abs(), dialect)
        terms = (alpha.abs() * sizes).nan_to_num(nan=INF)
        met = torch.where(terms == 0, 0.0, r.gamma(2 * count if r.product else count) * (bias.abs() + terms))
        error = error + (met if r.product else torch.minimum(met, terms * (1 + r.gamma(count))))
    return Approx(logits, error + r.unit * (logits.abs() + error))


def squashed(logits: Approx, kind: str, r: Rounding) -> Approx:
    """sigmoid, softmax over the last axis, or the logits.

    sigmoid: |sigma'| <= 1/4, and sigma' changes by at most e^d over a distance d, so d moves it by at most
    min(d/4, sigma(1-sigma)(e^d - 1)); any formula is accurate *absolutely* to 6 units, (tanh(z/2)+1)/2 included, which
    is not accurate relatively for z << 0. softmax: log p moves by at most d_i + max d; its roundings are relative, with
    exponents of size |z| (log-domain forms round those). An infinite error stays infinite: the logit may be a NaN.
    """
    z, d = logits.value, logits.error
    if kind == "linear":
        return logits
    if kind == "sigmoid":
        value = z.sigmoid()
        moved = torch.minimum(d / 4, value * (1 - value) * capped(d, 700).expm1())
        return Approx(value, capped(moved.nan_to_num(nan=INF, posinf=INF), 1.0) + 6 * r.unit)
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


def squash_gradient(logits: Approx, cotangent: Approx, kind: str, r: Rounding) -> Approx:
    """The pullback of `squashed`.

    sigmoid' = s (1 - s) moves by at most min(d / 10, s (1 - s) (e^d - 1)), |sigmoid''| < 0.0963, and s, hence 1 - s, is
    accurate absolutely to 6 units. softmax: p (c - sum p c).
    """
    if kind == "linear":
        return cotangent
    if kind == "sigmoid":
        s = logits.value.sigmoid()
        slope = s * (1 - s)
        moved = torch.minimum(logits.error / 10, slope * logits.error.clamp(max=350).expm1())
        return times(cotangent, Approx(slope, moved.clamp(max=0.25) + 9 * r.unit), r)
    p = squashed(logits, "softmax", r)
    n = p.value.shape[-1]
    mean = contracted("...i,...i->...", p, cotangent, n, r)
    spread = Approx(mean.value.unsqueeze(-1).expand_as(p.value), mean.error.unsqueeze(-1).expand_as(p.value))
    return times(p, plus(cotangent, Approx(-spread.value, spread.error), r=r), r)
