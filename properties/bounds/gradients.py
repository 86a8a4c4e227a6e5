"""Gradients of the mappings by state and parameters: the chain rule, each stage with its error."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mhc_ref import Dialect, Params
from mhc_ref.packing import logits_shape, residual_size
from properties.bounds.arithmetic import affine, contracted, times
from properties.bounds.projection import projection_gradient
from properties.bounds.stages import (
    activated,
    activation_gradient,
    gated,
    gates,
    norm_gradient,
    normalised,
    products,
    squash_gradient,
)
from properties.core.rounding import INF, Approx, Rounding


class Pullback(NamedTuple):
    """Gradients of a scalar by the state [tokens, n, C] and the parameters of a block."""

    x: Approx
    phi: Approx
    bias: Approx
    alpha: Approx
    norm_weight: Approx


def coefficients_gradient(
    x: Approx, params: Params, pre: Approx, post: Approx, res: Approx, dialect: Dialect, r: Rounding
) -> Pullback:
    """The pullback of the mappings for cotangents of h_pre, h_post [tokens, n] and h_res [tokens, n, n].

    The chain rule, stage by stage, each stage with the error of what it is given and its own roundings. Where an
    implementation applies 1/rms after the matmul, the sum over channels is taken through |g| |phi| |x^|, which is
    added.
    """
    n, channels = x.value.shape[-2:]
    tokens = x.value.shape[0]
    size = residual_size(n, dialect)
    norm = state, shared = normalised(x, params.norm_weight, dialect, r)
    raw = products(x, params, dialect, r, norm)
    p = activated(raw, dialect, r)
    z = gated(p, x, params, dialect, r, norm)
    thirds = [
        Approx(z.value[..., part], z.error[..., part]) for part in (slice(0, n), slice(n, 2 * n), slice(2 * n, None))
    ]
    shape = logits_shape(n, dialect)
    matrix = Approx(thirds[2].value.unflatten(-1, shape), thirds[2].error.unflatten(-1, shape))
    g_pre = squash_gradient(thirds[0], pre, dialect.pre, dialect, r)
    g_post = affine(squash_gradient(thirds[1], post, dialect.post, dialect, r), dialect.post_scale, 0.0, r)
    g_res = projection_gradient(matrix, res, dialect, r)
    g = Approx(
        torch.cat([g_pre.value, g_post.value, g_res.value.flatten(1)], -1),
        torch.cat([g_pre.error, g_post.error, g_res.error.flatten(1)], -1),
    )
    ones = Approx.exact(torch.ones(tokens))
    bias = contracted("tm,t->m", g, ones, tokens, r)
    by_gate = times(g, p, r)
    edges = (slice(0, n), slice(n, 2 * n), slice(2 * n, 2 * n + size))[: len(params.alpha)]
    alphas = [
        contracted("tm,t->", Approx(by_gate.value[:, e], by_gate.error[:, e]), ones, tokens * (e.stop - e.start), r)
        for e in edges
    ]
    alpha = Approx(torch.stack([a.value for a in alphas]), torch.stack([a.error for a in alphas]))
    g = times(g, Approx.exact(gates(params, n, dialect)).expanded(g), r)
    g = activation_gradient(raw, p, g, dialect, r)
    full = Approx(state.value, state.error + (shared * state.value.abs()).nan_to_num(nan=INF, posinf=INF))
    phi_value = Approx.exact(params.phi)
    if dialect.shared_projection:
        g = Approx(_by_stream(g.value, n), _by_stream(g.error, n))
        phi = contracted("tsc,tsm->cm", full, g, tokens * n, r)
        g_state = contracted("tsm,cm->tsc", g, phi_value, n + 2, r)
        through = torch.einsum("tsm,cm->tsc", g.value.abs() + g.error, phi_value.value.abs())
    else:
        wide_state = Approx(full.value.flatten(-2), full.error.flatten(-2))
        phi = contracted("tk,tm->km", wide_state, g, tokens, r)
        back = contracted("tm,km->tk", g, phi_value, 2 * n + size, r)
        g_state = Approx(back.value.unflatten(-1, (n, channels)), back.error.unflatten(-1, (n, channels)))
        through = torch.einsum("tm,km->tk", g.value.abs() + g.error, phi_value.value.abs()).unflatten(-1, (n, channels))
    bare = state if params.norm_weight is None else normalised(x, None, dialect, r)[0]
    bare = Approx(bare.value, bare.error + (shared * bare.value.abs()).nan_to_num(nan=INF, posinf=INF))
    each = times(g_state, bare, r)
    weight = contracted("tnc,t->nc", each, ones, tokens, r)
    norm_weight = Approx(weight.value.flatten(), weight.error.flatten())
    own = (
        torch.ones(n, channels).double()
        if params.norm_weight is None
        else params.norm_weight.detach().double().cpu().view(n, channels)
    )
    g_state = times(g_state, Approx.exact(own).expanded(g_state), r)
    through = through * own.abs()
    by_x = norm_gradient(x, g_state, through, shared, dialect, r)
    return Pullback(by_x, phi, bias, alpha, norm_weight)


def _by_stream(packed: Tensor, n: int) -> Tensor:
    """pre | post | res row-major [tokens, 2n + R] as the outputs of each stream's own projection, [tokens, n, 2 +
    R/n]."""
    res = packed[:, 2 * n :].unflatten(-1, (n, packed.shape[-1] // n - 2))
    return torch.cat([packed[:, :n, None], packed[:, n : 2 * n, None], res], -1)
