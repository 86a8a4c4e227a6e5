"""Norm, products with phi, and gates: short chains, bounded as they run, each link by its family."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mhc_ref import Dialect, Params
from mhc_ref.packing import beyond, logit_sizes
from properties.bounds import declared
from properties.bounds.agreement import IN_FLOAT64, must_hold
from properties.bounds.arithmetic import addends, affine, entering, is_rounded, times
from properties.bounds.rms import centred
from properties.core.family import Dynamic, Gate, dynamic_of, gate_of
from properties.core.norms import Norm, keeps_zeros, norm_of
from properties.core.reads import read_of
from properties.core.rounding import Approx, Rounding, known, noted
from properties.core.rows import Count, at_most, beside, place
from properties.core.truth import wide


def normalised(x: Approx, weight: Tensor | None, dialect: Dialect, r: Rounding) -> tuple[Approx, Tensor]:
    """x^ [tokens, n, C] by the norm of the dialect, times the norm weight, and the relative error that its entries
    share."""
    r = r.at("norm")
    if weight is not None and dialect.norm_offset:
        bare, shared = normalised(x, None, dialect, r)
        return times(bare, norm_weight(weight, x.value.shape[-2:], dialect, r).expanded(bare), r), shared
    norm = _trusted_norm(x, dialect)
    if norm.roundings is not None:
        return declared.normalised(norm, x, weight, dialect, r)
    found, shared = norm.bound(x, weight, dialect, r)
    return found, noted(shared)


def norm_weight(weight: Tensor, shape: Sequence[int], dialect: Dialect, r: Rounding) -> Approx:
    """What the normalised state is multiplied by, offset + weight, in the shape [n, C] of a state.

    x^ (offset + w) rounds the sum once; x^ offset + x^ w has a rounding of each term and one of the sum, relative to
    |offset| + |w|, which is more where the two cancel: two units of that, and one of an offset that is rounded itself.
    """
    own, offset = wide(weight).view(*shape), dialect.norm_offset
    constant = abs(offset) * is_rounded(offset, r)
    error = r.unit * (2 * (abs(offset) + own.abs()) + constant) if offset else torch.zeros_like(own)
    return Approx(offset + own, error)


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
    1/rms when the norm is applied afterwards). Products with a phi or a state of 0 are 0, and to add 0 rounds nothing:
    K counts the others (`summands`).
    """
    state, shared = norm or normalised(x, params.norm_weight, dialect, r)
    n, r = x.value.shape[-2], r.at("products")
    phi = of_logits(wide(params.phi), n, dialect)
    count = summands(x, phi, dialect)
    others = 3 if not r.accumulated else 5  # the operands are stored, too
    weight = (
        1.0
        if params.norm_weight is None
        else (params.norm_weight.detach().double().abs() + abs(dialect.norm_offset)).max().clamp_min(1.0).item()
    )
    over = norm_of(dialect).OVER
    bare = centred(x, over, dialect, r).value if over else x.value
    rms_inverse = torch.where(state.value == 0, 0.0, state.value / torch.where(bare == 0, 1.0, bare)).abs()
    floor = count * r.tiny * (1 + weight * rms_inverse.amax((-2, -1)))
    rounded = r.dot(beside(count, 3) + others)
    relative = rounded + shared
    magnitude = relative * state.value.abs() + (1 + rounded) * state.error
    error = by_third(magnitude, phi.abs(), dialect)
    error = known(error) + floor.unsqueeze(-1) * phi.abs().amax()
    found = Approx(by_third(state.value, phi, dialect), error)
    return found if (share := read_of(dialect).share(n, dialect)) == 1 else affine(found, share, 0.0, r)


def of_logits(phi: Tensor, n: int, dialect: Dialect) -> Tensor:
    """The columns of phi that give logits: all but the last ones, where the read has parameters there."""
    return phi[:, : sum(logit_sizes(n, dialect))] if beyond(dialect) else phi


def summands(x: Approx, phi: Tensor, dialect: Dialect) -> Count:
    """How many products with phi are added at most that are not 0: those of a phi of 0 are, and those of a state of 0
    where the norm keeps it."""
    if not keeps_zeros(dialect):
        return terms_of(phi)
    return at_most(addends(x, over=(-1,) if dialect.shared_projection else (-2, -1)), terms_of(phi))


def projected(x: Approx, params: Params, dialect: Dialect, r: Rounding) -> Approx:
    """dynamic(x^ phi), pre | post | res row-major, before gates and biases."""
    return activated(products(x, params, dialect, r), dialect, r)


def activated(products: Approx, dialect: Dialect, r: Rounding) -> Approx:
    """What the dialect makes of the products with phi."""
    r = r.at("logits")
    products, dynamic = entering(products, r), _trusted_dynamic(products, dialect)
    if dynamic.roundings is not None:
        return declared.value(dynamic, "activate", products, dialect, r)
    return dynamic.bound(products, dialect, r)


def activation_gradient(products: Approx, activated: Approx, g: Approx, dialect: Dialect, r: Rounding) -> Approx:
    """The pullback of `activated`."""
    dynamic = _trusted_dynamic(products, dialect)
    if dynamic.roundings is not None:
        return declared.pulled(dynamic, "activate", products, g, dialect, r)
    return dynamic.pullback(products, activated, g, dialect, r)


def terms_of(phi: Tensor) -> int:
    """The most entries of a column of phi that are not 0."""
    return int((phi != 0).sum(0).max()) if phi.numel() else 0


def by_third(state: Tensor, phi: Tensor, dialect: Dialect) -> Tensor:
    """state [..., n, C] times phi, packed pre | post | res row-major whether phi is shared or not."""
    if not dialect.shared_projection:
        return state.flatten(-2) @ phi
    by_stream = state @ phi
    return torch.cat([by_stream[..., 0], by_stream[..., 1], by_stream[..., 2:].flatten(-2)], -1)


def gated_logits(x: Approx, params: Params, dialect: Dialect, r: Rounding) -> Approx:
    """alpha * dynamic(x^ phi) + bias: three roundings of the product, one of the sum. A gate of 0 silences any
    error. A read without gates and biases has the products, or what it makes of them."""
    norm = normalised(x, params.norm_weight, dialect, r)
    found = gated(activated(products(x, params, dialect, r, norm), dialect, r), x, params, dialect, r, norm)
    return completed(found, x.value.shape[-2], params, dialect, r)


def completed(logits: Approx, n: int, params: Params, dialect: Dialect, r: Rounding) -> Approx:
    """What a read without gates and biases makes of the products, of which it may be all of them."""
    reads, g = read_of(dialect), r.at("gates")
    return reads.completed_bound(entering(logits, g), n, params, dialect, g) if reads.joins(dialect) else logits


def gates(params: Params, n: int, dialect: Dialect) -> Tensor:
    """alpha, repeated for every logit that it gates, [P + n + R] in float64; ones where logits have no gates."""
    sizes = logit_sizes(n, dialect)
    if not read_of(dialect).affine(dialect):
        return torch.ones(sum(sizes), dtype=torch.float64, device=place())
    # There is no gate of res where it has no logits.
    return torch.cat([gate.expand(size) for gate, size in zip(wide(params.alpha), sizes, strict=False)])


def gated(
    p: Approx, x: Approx, params: Params, dialect: Dialect, r: Rounding, norm: Normalised | None = None
) -> Approx:
    """alpha * p + bias, `p` the projection of the state x.

    With nothing in between, gates may be folded into phi and the bias into the sum, as the number that an accumulator
    starts from or as a column of ones beside the state. At most k additions then meet the bias b, as many as there are
    products that are not 0; one of a to b errs by u (|b| + S) at most, S the sum of the gated products' magnitudes, and
    where sums are rounded to nearest by |a| at most, b itself being a number: together min(gamma_k (|b| + S),
    S (1 + gamma_k)), nothing where phi is 0. (Tensor cores truncate: gamma_2k, and no such minimum.) The reference adds
    the bias last and has no share in this.
    """
    n = x.value.shape[-2]
    if not read_of(dialect).affine(dialect):
        return p
    sums, r = r, r.at("logits")
    alpha = gates(params, n, dialect)
    bias = wide(params.bias)
    p = entering(p, r)
    product = alpha * p.value
    # A gate of 0 silences any error but that of a NaN.
    moved = known(torch.where((alpha == 0) & torch.isfinite(p.error), 0.0, alpha.abs() * p.error))
    error = moved * (1 + 4 * r.unit) + 4 * r.unit * product.abs()
    logits = product + bias
    if dynamic_of(dialect).passes:
        phi = of_logits(wide(params.phi), n, dialect)
        count = beside(summands(x, phi, dialect), 2)
        state, _ = norm or normalised(x, params.norm_weight, dialect, r)
        sizes = by_third(state.value.abs() + state.error, phi.abs(), dialect)
        terms = known(alpha.abs() * sizes) * read_of(dialect).share(n, dialect)
        met = torch.where(terms == 0, 0.0, sums.gamma(2 * count if sums.product else count) * (bias.abs() + terms))
        error = error + (met if sums.product else torch.minimum(met, terms * (1 + sums.gamma(count))))
    if r.accumulated:
        error = error + r.unit * bias.abs() + r.tiny
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
        return Approx(found.value, found.error + known(shared * found.value.abs()))

    def pull(state: Approx, bar: Approx) -> Approx:
        shared = normalised(state, None, dialect, IN_FLOAT64)[1]
        return norm_gradient(state, bar, bar.value.abs(), shared, dialect, IN_FLOAT64)

    norm = norm_of(dialect)
    if norm.is_outside:
        must_hold(norm, dialect, tuple(x.value.shape[1:]), (), value, pull)
    return norm
