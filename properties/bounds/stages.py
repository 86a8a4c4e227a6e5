"""Norm, products with phi, and gates: short chains, bounded as they run, each link by its family."""

from __future__ import annotations

import torch
from torch import Tensor

from mhc_ref import Dialect, Params
from mhc_ref.packing import residual_size
from properties.bounds import declared
from properties.bounds.agreement import IN_FLOAT64, must_hold
from properties.core.family import Dynamic, Gate, Norm, dynamic_of, gate_of, norm_of
from properties.core.rounding import INF, Approx, Rounding


def normalised(x: Approx, weight: Tensor | None, dialect: Dialect, r: Rounding) -> tuple[Approx, Tensor]:
    """x^ [tokens, n, C] by the norm of the dialect, times the norm weight, and the relative error that its entries
    share."""
    norm = _trusted_norm(x, dialect)
    if norm.roundings is not None:
        return declared.normalised(norm, x, weight, dialect, r)
    return norm.bound(x, weight, dialect, r)


def norm_gradient(x: Approx, g: Approx, through: Tensor, shared: Tensor, dialect: Dialect, r: Rounding) -> Approx:
    """The pullback of `normalised` by the state, without the weight; see `properties.core.family.Norm.pullback`."""
    norm = _trusted_norm(x, dialect)
    if norm.roundings is not None:
        return declared.norm_gradient(norm, x, g, through, dialect, r)
    return norm.pullback(x, g, through, shared, dialect, r)


Normalised = tuple[Approx, Tensor]
"""What `normalised` gives, for whoever has it already."""


def products(x: Approx, params: Params, dialect: Dialect, r: Rounding, norm: Normalised | None = None) -> Approx:
    """x^ phi, pre | post | res row-major.

    A sum of K products in any order, with the factor 1/rms inside or outside of it: gamma_{K+3} (`Rounding.dot`) +
    (relative error of 1/rms) of sum |x^| |phi|, plus sum dx^ |phi|, plus tiny for each product that underflows (times
    1/rms when the norm is applied afterwards).
    """
    n, channels = x.value.shape[-2:]
    state, shared = norm or normalised(x, params.norm_weight, dialect, r)
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
    return activated(products(x, params, dialect, r), dialect, r)


def activated(products: Approx, dialect: Dialect, r: Rounding) -> Approx:
    """What the dialect makes of the products with phi."""
    dynamic = _trusted_dynamic(products, dialect)
    if dynamic.roundings is not None:
        return declared.value(dynamic, "activate", products, dialect, r)
    return dynamic.bound(products, dialect, r)


def activation_gradient(products: Approx, activated: Approx, g: Approx, dialect: Dialect, r: Rounding) -> Approx:
    """The pullback of `activated`."""
    dynamic = _trusted_dynamic(products, dialect)
    if dynamic.roundings is not None:
        return declared.pulled(dynamic, "activate", products, g, dialect, r)
    return dynamic.pullback(products, activated, g, dialect, r)


def by_third(state: Tensor, phi: Tensor, dialect: Dialect) -> Tensor:
    """state [..., n, C] times phi, packed pre | post | res row-major whether phi is shared or not."""
    if not dialect.shared_projection:
        return state.flatten(-2) @ phi
    by_stream = state @ phi
    return torch.cat([by_stream[..., 0], by_stream[..., 1], by_stream[..., 2:].flatten(-2)], -1)


def gated_logits(x: Approx, params: Params, dialect: Dialect, r: Rounding) -> Approx:
    """alpha * dynamic(x^ phi) + bias: three roundings of the product, one of the sum. A gate of 0 silences any
    error."""
    norm = normalised(x, params.norm_weight, dialect, r)
    return gated(activated(products(x, params, dialect, r, norm), dialect, r), x, params, dialect, r, norm)


def gates(params: Params, n: int, dialect: Dialect) -> Tensor:
    """alpha, repeated for every logit that it gates, [2n + R] in float64."""
    alpha = params.alpha.detach().double().cpu()
    sizes = torch.tensor([n, n, residual_size(n, dialect)])[: len(alpha)]  # no gate of res where it has no logits
    return alpha.repeat_interleave(sizes)


def gated(
    p: Approx, x: Approx, params: Params, dialect: Dialect, r: Rounding, norm: Normalised | None = None
) -> Approx:
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
        state, _ = norm or normalised(x, params.norm_weight, dialect, r)
        sizes = by_third(state.value.abs() + state.error, params.phi.detach().double().cpu().abs(), dialect)
        terms = (alpha.abs() * sizes).nan_to_num(nan=INF)
        met = torch.where(terms == 0, 0.0, r.gamma(2 * count if r.product else count) * (bias.abs() + terms))
        error = error + (met if r.product else torch.minimum(met, terms * (1 + r.gamma(count))))
    return Approx(logits, error + r.unit * (logits.abs() + error))


def squashed(logits: Approx, kind: str, dialect: Dialect, r: Rounding) -> Approx:
    """The gates of the family `kind`, of logits [tokens, n]."""
    gate = _trusted_gate(logits, kind, dialect)
    if gate.roundings is not None:
        return declared.value(gate, "gates", logits, dialect, r)
    return gate.bound(logits, dialect, r)


def squash_gradient(logits: Approx, cotangent: Approx, kind: str, dialect: Dialect, r: Rounding) -> Approx:
    """The pullback of `squashed`."""
    gate = _trusted_gate(logits, kind, dialect)
    if gate.roundings is not None:
        return declared.pulled(gate, "gates", logits, cotangent, dialect, r)
    return gate.pullback(logits, cotangent, dialect, r)


# Of a family from outside both formulas have been compared, at the sizes of the example, before its bounds are used.


def _trusted_gate(logits: Approx, kind: str, dialect: Dialect) -> Gate:
    def pull(z: Approx, bar: Approx) -> Approx:
        return squash_gradient(z, bar, kind, dialect, IN_FLOAT64)

    gate = gate_of(kind)
    if gate.is_outside:
        shape = tuple(logits.value.shape[1:])
        must_hold(gate, dialect, shape, (), lambda z: squashed(z, kind, dialect, IN_FLOAT64), pull)
    return gate


def _trusted_dynamic(products: Approx, dialect: Dialect) -> Dynamic:
    def value(p: Approx) -> Approx:
        return activated(p, dialect, IN_FLOAT64)

    def pull(p: Approx, bar: Approx) -> Approx:
        return activation_gradient(p, value(p), bar, dialect, IN_FLOAT64)

    dynamic = dynamic_of(dialect)
    if dynamic.is_outside:
        shape = tuple(products.value.shape[1:])
        must_hold(dynamic, dialect, shape, (), value, pull)
    return dynamic


def _trusted_norm(x: Approx, dialect: Dialect) -> Norm:
    def value(state: Approx) -> Approx:
        found, shared = normalised(state, None, dialect, IN_FLOAT64)
        return Approx(found.value, found.error + (shared * found.value.abs()).nan_to_num(nan=INF, posinf=INF))

    def pull(state: Approx, bar: Approx) -> Approx:
        shared = normalised(state, None, dialect, IN_FLOAT64)[1]
        return norm_gradient(state, bar, bar.value.abs(), shared, dialect, IN_FLOAT64)

    norm = norm_of(dialect)
    if norm.is_outside:
        must_hold(norm, dialect, tuple(x.value.shape[1:]), (), value, pull)
    return norm
