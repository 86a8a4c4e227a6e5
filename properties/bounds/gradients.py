"""Gradients of the mappings by state and parameters: the chain rule, each stage with its error."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mhc_ref import Dialect, Params
from mhc_ref.projection import residual_size
from properties.bounds.projection import projection_gradient
from properties.bounds.stages import (
    affine,
    contracted,
    gated,
    gates,
    normalised,
    projected,
    squash_gradient,
    times,
)
from properties.core.rounding import INF, Approx, Rounding

SHARES = 4
"""How often the mappings may widen a state of less than float32, each time with a gradient of its own."""


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
    p = projected(x, params, dialect, r)
    z = gated(p, x, params, dialect, r)
    thirds = [
        Approx(z.value[..., part], z.error[..., part]) for part in (slice(0, n), slice(n, 2 * n), slice(2 * n, None))
    ]
    matrix = thirds[2]
    if dialect.residual != "permutations":
        matrix = Approx(matrix.value.unflatten(-1, (n, n)), matrix.error.unflatten(-1, (n, n)))
    g_pre = squash_gradient(thirds[0], pre, dialect.pre, r)
    g_post = affine(squash_gradient(thirds[1], post, dialect.post, r), dialect.post_scale, 0.0, r)
    g_res = projection_gradient(matrix, res, dialect, r)
    flat = (lambda t: t) if dialect.residual == "permutations" else (lambda t: t.flatten(-2))  # pyright: ignore[reportUnknownLambdaType,reportUnknownVariableType]
    g = Approx(
        torch.cat([g_pre.value, g_post.value, flat(g_res.value)], -1),
        torch.cat([g_pre.error, g_post.error, flat(g_res.error)], -1),
    )
    ones = Approx.exact(torch.ones(tokens))
    bias = contracted("tm,t->m", g, ones, tokens, r)
    by_gate = times(g, p, r)
    edges = (slice(0, n), slice(n, 2 * n), slice(2 * n, 2 * n + size))
    alphas = [
        contracted("tm,t->", Approx(by_gate.value[:, e], by_gate.error[:, e]), ones, tokens * (e.stop - e.start), r)
        for e in edges
    ]
    alpha = Approx(torch.stack([a.value for a in alphas]), torch.stack([a.error for a in alphas]))
    g = times(g, Approx.exact(gates(params, n, dialect)).expanded(g), r)
    if dialect.dynamic == "tanh":
        slope = 1 - p.value.square()
        g = times(g, Approx(slope, (2 * p.value.abs() * p.error + p.error.square() + 3 * r.unit).clamp(max=1.0)), r)
    state, shared = normalised(x, params.norm_weight, dialect, r)
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
    bare, _ = normalised(x, None, dialect, r)
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
    return Pullback(_norm_gradient(x, g_state, through, shared, dialect, r), phi, bias, alpha, norm_weight)


def _by_stream(packed: Tensor, n: int) -> Tensor:
    """pre | post | res row-major [tokens, 2n + n*n] as the outputs of each stream's own projection, [tokens, n, 2 +
    n]."""
    parts = packed[:, :n, None], packed[:, n : 2 * n, None], packed[:, 2 * n :].unflatten(-1, (n, n))
    return torch.cat(parts, -1)


def _norm_gradient(x: Approx, g: Approx, through: Tensor, shared: Tensor, dialect: Dialect, r: Rounding) -> Approx:
    """g / rho - x (sum g x) / (K s rho^2), rho the divisor and s the root inside it (rho = s when the eps is inside).

    Relative errors: that of 1/rms once in the first term, three times in the second, with 12 roundings; the inner
    product has gamma_{K+12} (`Rounding.dot`) of sum |g| |x| as it is really accumulated.

    A state below float32 is widened where it is used, in the norm and in up to three products (pre, post, res), and
    autograd rounds the gradient of each use to the dtype of the state before it adds them up there: k uses whose sizes
    sum to S err by at most k u S, one rounding of each and k - 1 of their sum.
    """
    over = (-2, -1) if dialect.norm_over == "streams" else (-1,)
    count = math.prod(x.value.shape[d] for d in over)
    mean = x.value.square().mean(over, keepdim=True)
    s = (mean + (dialect.rms_eps if dialect.rms_eps_inside else 0.0)).sqrt()
    rho = s + (0.0 if dialect.rms_eps_inside else dialect.rms_eps)
    live = (s > 0).expand_as(x.value)
    s, rho = torch.where(s > 0, s, 1.0), torch.where(rho > 0, rho, 1.0)
    relative = shared + 12 * r.unit
    inner = (g.value * x.value).sum(over, keepdim=True)
    spread = ((g.value.abs() + g.error + through) * (x.value.abs() + x.error)).sum(over, keepdim=True)
    inner_error = (g.error * x.value.abs() + (g.value.abs() + g.error) * x.error).sum(over, keepdim=True) + r.dot(
        count + 12
    ) * spread
    scale = 1 / (count * s * rho.square())
    value = g.value / rho - x.value * inner * scale
    first = g.error / rho + relative * (g.value.abs() + g.error) / rho
    second = (x.value.abs() * inner_error + x.error * (inner.abs() + inner_error)) * scale
    second = second + 3 * relative * (x.value.abs() + x.error) * spread * scale
    error = (first + second) * (1 + 4 * relative) + r.tiny / rho + r.tiny  # of g before, and of the result itself
    parts = (through + g.error) / rho + x.value.abs() * spread * scale
    error = error + SHARES * (r.state_unit * parts + r.state_tiny)
    return Approx(torch.where(live, value, 0.0), torch.where(live, error, INF))
