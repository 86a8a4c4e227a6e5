"""Gradients of the mappings by state and parameters: the chain rule, each stage with its error."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mhc_ref import Dialect, Params
from mhc_ref.packing import logit_sizes, logits_shape
from properties.bounds.arithmetic import affine, as_parameter, contracted, holding, plus, times
from properties.bounds.projection import projection_gradient
from properties.bounds.stages import (
    activated,
    activation_gradient,
    completed,
    gated,
    gates,
    norm_gradient,
    norm_weight,
    normalised,
    of_logits,
    products,
    squash_gradient,
)
from properties.core.family import dynamic_of
from properties.core.reads import read_of
from properties.core.rounding import Approx, Rounding, Uses, known
from properties.core.sums import added_up
from properties.core.truth import wide


class Pullback(NamedTuple):
    """Gradients of a scalar by the state [tokens, n, C] and the parameters of a block."""

    x: Approx
    phi: Approx
    bias: Approx
    alpha: Approx
    norm_weight: Approx


def coefficients_gradient(
    x: Approx,
    params: Params,
    pre: Approx,
    post: Approx,
    res: Approx,
    dialect: Dialect,
    r: Rounding,
    each: bool = False,
) -> Pullback:
    """The pullback of the mappings for cotangents of h_pre, h_post [tokens, n] and h_res [tokens, n, n].

    `each`: what every token adds to the gradients by the parameters, [tokens, ...], with what rounding can do to a sum
    of all of them: the first of them add up to the gradients of so many tokens, their errors among them.

    The chain rule, stage by stage, each stage with the error of what it is given and its own roundings. Where an
    implementation applies 1/rms after the matmul, the sum over channels is taken through |g| |phi| |x^|, which is
    added.
    """
    n, channels = x.value.shape[-2:]
    tokens = x.value.shape[0]
    terms = added_up(tokens)
    sizes, reads = logit_sizes(n, dialect), read_of(dialect)
    size = sizes[2]
    norm = state, shared = normalised(x, params.norm_weight, dialect, r)
    raw = products(x, params, dialect, r, norm)
    p = activated(raw, dialect, r)
    z = gated(p, x, params, dialect, r, norm)
    made = completed(z, n, params, dialect, r)
    thirds = [Approx(*part) for part in zip(made.value.split(sizes, -1), made.error.split(sizes, -1), strict=True)]
    shape = logits_shape(n, dialect)
    matrix = Approx(thirds[2].value.unflatten(-1, shape), thirds[2].error.unflatten(-1, shape))
    kept = "t" if each else ""
    g_pre, beyond_logits, read_weight, read_state = reads.pullback(thirds[0], x, params, pre, dialect, r, kept)
    g_post = affine(squash_gradient(thirds[1], post, dialect.post, dialect, r), dialect.post_scale, 0.0, r)
    g_res = projection_gradient(matrix, res, dialect, r)
    g = Approx(
        torch.cat([g_pre.value, g_post.value, g_res.value.flatten(1)], -1),
        torch.cat([g_pre.error, g_post.error, g_res.error.flatten(1)], -1),
    )
    flushed, columns = _flushed(x, params, dialect, r), of_logits(wide(params.phi), n, dialect).abs()
    ones = Approx.exact(torch.ones(tokens))
    bias = contracted(f"tm,t->{kept}m", g, ones, terms, r)
    by_gate = times(g, p, r)
    ends = (sizes[0], sizes[0] + n, sizes[0] + n + size)
    edges = (slice(0, ends[0]), slice(ends[0], ends[1]), slice(ends[1], ends[2]))[: len(params.alpha)]
    alphas = [
        contracted(
            f"tm,t->{kept}", Approx(by_gate.value[:, e], by_gate.error[:, e]), ones, terms * (e.stop - e.start), r
        )
        for e in edges
    ]
    alpha = Approx(torch.stack([a.value for a in alphas], -1), torch.stack([a.error for a in alphas], -1))
    alpha = _less(alpha, (columns + 1).sum() * flushed, each)
    if reads.affine(dialect):
        g = times(g, Approx.exact(gates(params, n, dialect)).expanded(g), r)
    elif (back := reads.completed_pullback(z, n, params, g, dialect, r, kept)) is not None:
        g, bias, alpha = back.products, back.bias, back.alpha
        beyond_logits = back.beyond if beyond_logits is None else _beside(beyond_logits, back.beyond)
    else:
        bias, alpha = (Approx.exact(torch.zeros_like(one.value)) for one in (bias, alpha))
    g = activation_gradient(raw, p, g, dialect, r)
    if (share := reads.share(n, dialect)) != 1:
        g = affine(g, share, 0.0, r)
    full = Approx(state.value, state.error + known(shared * state.value.abs()))
    phi_value = Approx.exact(of_logits(params.phi, n, dialect))
    if dialect.shared_projection:
        g = Approx(_by_stream(g.value, n), _by_stream(g.error, n))
        phi = contracted(f"tsc,tsm->{kept}cm", full, g, terms * n, r)
        g_state = contracted("tsm,cm->tsc", g, phi_value, n + 2, r)
        through = torch.einsum("tsm,cm->tsc", g.value.abs() + g.error, phi_value.value.abs())
    else:
        wide_state = Approx(full.value.flatten(-2), full.error.flatten(-2))
        phi = contracted(f"tk,tm->{kept}km", wide_state, g, terms, r)
        back = contracted("tm,km->tk", g, phi_value, sum(sizes), r)
        g_state = Approx(back.value.unflatten(-1, (n, channels)), back.error.unflatten(-1, (n, channels)))
        through = torch.einsum("tm,km->tk", g.value.abs() + g.error, phi_value.value.abs()).unflatten(-1, (n, channels))
    phi = _less(phi, flushed, each)
    bare = state if params.norm_weight is None else normalised(x, None, dialect, r)[0]
    bare = Approx(bare.value, bare.error + known(shared * bare.value.abs()))
    by_channel = (columns + 1).sum(-1).amax()
    by_weight = times(g_state, bare, r)
    weight = contracted(f"tnc,t->{kept}nc", by_weight, ones, terms, r)
    weight = _less(Approx(weight.value.flatten(-2), weight.error.flatten(-2)), by_channel * flushed, each)
    own = (
        Approx.exact(torch.ones(n, channels))
        if params.norm_weight is None
        else norm_weight(params.norm_weight, (n, channels), dialect, r)
    )
    g_state = times(g_state, own.expanded(g_state), r)
    through = through * (own.value.abs() + own.error)
    by_x = norm_gradient(x, g_state, through, shared, dialect, r)
    size = size_of_uses(by_x)
    by_x = _less(by_x, by_channel * flushed, True)
    if dynamic_of(dialect).constant:  # nothing is normalised, and what a norm of this state may be says nothing
        by_x, phi, weight = (Approx.exact(torch.zeros_like(one.value)) for one in (by_x, phi, weight))
        size = torch.zeros_like(size)
    if beyond_logits is not None:
        phi = Approx(*(torch.cat(both, -1) for both in zip(_pair(phi), _pair(beyond_logits), strict=True)))
    if read_weight is not None:
        weight = plus(as_parameter(weight, r), as_parameter(read_weight, r), r=r)
    if read_state is not None:
        size = size + size_of_uses(read_state)
        by_x = plus(by_x, read_state, r=r)
    by_x = Uses(by_x.value, holding(by_x.value, by_x.error, size, r).error, size)
    return Pullback(by_x, *(as_parameter(one, r) for one in (phi, bias, alpha, weight)))


def _flushed(x: Approx, params: Params, dialect: Dialect, r: Rounding) -> Tensor:
    """What may be lost of a token's share in the gradient by phi where the cotangent of a logit is so small that a
    number on the way is flushed, [tokens].

    Products with phi are formed of x, and divided by the rms afterwards: then g / rms may be flushed, which meets x. Of
    a phi that gates and the norm weight were folded into, the gradient by phi is what x^T g leaves, times either. The
    gradients by gates and by the norm weight are sums of that times phi, and that by x of g / rms times phi.
    """
    if dynamic_of(dialect).constant:  # nothing is multiplied by phi
        return x.value.new_zeros(len(x.value))
    n, weight = x.value.shape[-2], params.norm_weight
    reach = 1 + (x.value.abs() + x.error).flatten(1).amax(1)
    folded = 1.0 if weight is None else (wide(weight).abs() + abs(dialect.norm_offset)).amax().clamp(min=1)
    return r.tiny * reach * folded * gates(params, n, dialect).abs().amax().clamp(min=1)


def _less(one: Approx, lost: Tensor, each: bool) -> Approx:
    """The same of which so much may be lost, [tokens], of each token or of the sum over all."""
    by_token = lost.view(-1, *[1] * (one.value.ndim - 1)) if each else lost.sum()
    return Approx(one.value, one.error + by_token)


def size_of_uses(one: Approx) -> Tensor:
    """The sum of the magnitudes of what uses of a state hand back, of a gradient by it."""
    return one.size if isinstance(one, Uses) else one.value.abs()


def _pair(one: Approx) -> tuple[Tensor, Tensor]:
    return one.value, one.error


def _beside(one: Approx, other: Approx) -> Approx:
    """The sum of two, of which one is 0 wherever the other is not: nothing is rounded."""
    return Approx(one.value + other.value, one.error + other.error)


def _by_stream(packed: Tensor, n: int) -> Tensor:
    """pre | post | res row-major [tokens, 2n + R] as the outputs of each stream's own projection, [tokens, n, 2 +
    R/n]."""
    res = packed[:, 2 * n :].unflatten(-1, (n, packed.shape[-1] // n - 2))
    return torch.cat([packed[:, :n, None], packed[:, n : 2 * n, None], res], -1)
