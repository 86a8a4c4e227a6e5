"""Gradients of a block, of its parts and of a stack, by states and by every parameter: the chain rule with its errors.

A branch is one whose derivative is known: zero, identity, scale or constant. Tokens are on one axis.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mhc_ref import Dialect, Params
from properties.bounds import declared
from properties.bounds.arithmetic import contracted, plus, stored, times
from properties.bounds.block import applied, coefficients, operator_of, passed, slope_of
from properties.bounds.gradients import Pullback, coefficients_gradient
from properties.bounds.stack import begun, states
from properties.core.case import BranchSpec
from properties.core.family import begin_of, end_of
from properties.core.rounding import Approx, Rounding


def summed_in_the_state(equation: str, left: Approx, right: Approx, count: int, uses: int, r: Rounding) -> Approx:
    """The gradient by a state or a branch output, a sum of `count` products, where that was widened `uses` times.

    Autograd rounds the gradient of each use to the dtype of the state, and so are the uses - 1 sums, all relative to
    the sum of magnitudes: uses u, and for each of them what a number below the normal ones may lose.
    """
    summed = contracted(equation, left, right, count, r)
    size = torch.einsum(equation, left.value.abs() + left.error, right.value.abs() + right.error)
    return Approx(summed.value, summed.error + uses * (r.state_unit * size + r.state_tiny))


def block(state: Approx, params: Params, branch: BranchSpec, g: Approx, dialect: Dialect, r: Rounding) -> Pullback:
    """The pullback of x' = A x + h_post^T F(h_pre x) by x [tokens, n, C] and the parameters, for a cotangent g of x'.

    The chain rule, every stage with the errors of what it is given, the state's and the cotangent's among them, and its
    own.
    """
    n, channels = state.value.shape[-2:]
    way = passed(state, params, branch, dialect, r)
    slope = Approx.exact(slope_of(branch, channels))
    # Where streams are a list, the branch output is widened once for each of them.
    g_y = stored(summed_in_the_state("ti,tic->tc", way.h.post, g, n, n, r), r)
    g_u = stored(times(slope.expanded(g_y), g_y, r), r)
    post = contracted("tic,tc->ti", g, way.y, channels, r)
    res = operator_of(contracted("tic,tjc->tij", g, state, channels, r), dialect)
    operator = way.h.operator(dialect)
    direct = stored(contracted("tij,tic->tjc", operator, g, n, r), r)
    mixed = torch.einsum("tij,tic->tjc", operator.value.abs(), g.value.abs())
    return read(state, params, way.h.pre, g_u, dialect, r, post, res, (direct, mixed))


def read(
    state: Approx,
    params: Params,
    h_pre: Approx,
    g_u: Approx,
    dialect: Dialect,
    r: Rounding,
    post: Approx | None = None,
    res: Approx | None = None,
    residual: tuple[Approx, Tensor] | None = None,
) -> Pullback:
    """The pullback of u = h_pre x for a cotangent of u [tokens, C], and of what else the block makes of its state.

    `post` and `res` are cotangents of the other mappings, `residual` the gradient by x past the branch and the sum of
    magnitudes in it; a head has none of them.

    A state below float32 sums the gradients of its uses in its own dtype: one for every stream that it is mixed into,
    one for the branch, and the mappings', which are counted where they arise.
    """
    tokens, n, channels = state.value.shape
    pre = contracted("tc,tjc->tj", g_u, state, channels, r)
    post = post or Approx.exact(torch.zeros(tokens, n))
    res = res or Approx.exact(torch.zeros(tokens, n, n))
    through = coefficients_gradient(state, params, pre, post, res, dialect, r)
    direct_read = stored(contracted("tj,tc->tjc", h_pre, g_u, 1, r), r)
    mapped = stored(through.x, r)
    direct, mixed = residual or (None, torch.zeros(()))
    total = plus(*([direct] if direct else []), direct_read, mapped, r=r)
    size = mixed + direct_read.value.abs() + mapped.value.abs() + total.error
    return through._replace(x=Approx(total.value, total.error + (n + 2) * r.state_unit * size))


def pre(x: Tensor, h_pre: Tensor, cotangent: Tensor, r: Rounding) -> dict[str, Approx]:
    """The gradient of h_pre x by each factor, in its shape, for a cotangent [tokens, C]."""
    g, (n, channels) = Approx.exact(cotangent), x.shape[-2:]
    by_state = summed_in_the_state("tj,tc->tjc", Approx.exact(h_pre), g, 1, n + 1, r)
    return {"x": by_state, "h_pre": contracted("tc,tjc->tj", g, Approx.exact(x), channels, r)}


def post(
    x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor, cotangent: Tensor, dialect: Dialect, r: Rounding
) -> dict[str, Approx]:
    """The gradient of A x + h_post^T y by each factor, in its shape, for a cotangent [tokens, n, C]."""
    g, (n, channels) = Approx.exact(cotangent), x.shape[-2:]
    operator = Approx.exact(applied(h_res, dialect))
    return {
        "x": summed_in_the_state("tij,tic->tjc", operator, g, n, n + 1, r),
        "y": summed_in_the_state("ti,tic->tc", Approx.exact(h_post), g, n, n + 1, r),
        "h_post": contracted("tic,tc->ti", g, Approx.exact(y), channels, r),
        "h_res": operator_of(contracted("tic,tjc->tij", g, Approx.exact(x), channels, r), dialect),
    }


def layers(
    before: Sequence[Approx],
    params: Sequence[Params],
    branches: Sequence[BranchSpec],
    g: Approx,
    dialect: Dialect,
    r: Rounding,
) -> list[Pullback]:
    """The pullbacks of the blocks, each for the cotangent that the one after it left; `before` is `stack.states`."""
    found: list[Pullback] = []
    for one, parameters, branch in zip(before[-2::-1], params[::-1], branches[::-1], strict=True):
        # A cotangent that passes from block to block is a state's gradient, and is kept in the state's dtype.
        back = block(one, parameters, branch, g, dialect, r)
        g = stored(back.x, r)
        found.append(back._replace(x=g))
    return found[::-1]


def expand(h: Tensor, n: int, g: Approx, dialect: Dialect, r: Rounding) -> Approx:
    """The gradient by h [tokens, C] of how a stack begins, for a cotangent [tokens, n, C].

    n streams send n gradients back, which a state below float32 adds up in its own dtype: at most n roundings.
    """
    begin = begin_of(dialect)
    if begin.roundings is not None:
        return stored(declared.begin_gradient(begin, Approx.exact(h), n, g, dialect, r), r)
    return summed_in_the_state("n,tnc->tc", Approx.exact(begin.weights(n, dialect)), g, n, n, r)


def collapse(
    state: Approx, cotangent: Tensor, dialect: Dialect, r: Rounding, head: Params | None = None
) -> Pullback | Approx:
    """The pullback of a collapse for a cotangent [tokens, C]: by the streams [tokens, n, C], and by the parameters
    of a head as well where there is one."""
    g = Approx.exact(cotangent)
    if head is not None:
        return read(state, head, coefficients(state, head, dialect, r).pre, g, dialect, r)
    end = end_of(dialect)
    if end.roundings is not None:
        return stored(declared.end_gradient(end, state, g, dialect, r), r)
    weights = end.weights(state.value.shape[-2], dialect).expand(state.value.shape[:-1]).contiguous()
    return stored(contracted("tn,tc->tnc", Approx.exact(weights), g, 1, r), r)


def stack(
    h: Tensor,
    n: int,
    params: Sequence[Params],
    branches: Sequence[BranchSpec],
    head: Sequence[Params],
    cotangent: Tensor,
    dialect: Dialect,
    r: Rounding,
) -> tuple[Approx, list[Pullback]]:
    """The gradient by h [tokens, C], and the pullbacks of the layers and of the head, for a cotangent [tokens, C]."""
    before = states(begun(h, n, dialect, r), params, branches, dialect, r)
    end = collapse(before[-1], cotangent, dialect, r, *head)
    found = layers(before, params, branches, end if isinstance(end, Approx) else stored(end.x, r), dialect, r)
    by_h = expand(h, n, found[0].x, dialect, r)
    return by_h, [*found, *([end] if isinstance(end, Pullback) else [])]
