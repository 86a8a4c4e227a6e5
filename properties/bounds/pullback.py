"""Gradients of a block, of its parts and of a stack, by states and by every parameter: the chain rule with its errors.

A branch is one whose derivative is known: zero, identity, scale, constant or detached. Tokens are on one axis.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mhc_ref import Dialect, Params
from properties.bounds import declared, gradients
from properties.bounds.arithmetic import contracted, holding, plus, stored
from properties.bounds.block import Passage, applied, coefficients, handed_back, operator_of, passed
from properties.bounds.gradients import Pullback, coefficients_gradient
from properties.bounds.stack import begun, passages
from properties.bounds.token_mix import TokenMix
from properties.core.case import BranchSpec
from properties.core.family import begin_of, end_of
from properties.core.rounding import Approx, Rounding


def summed_in_the_state(equation: str, left: Approx, right: Approx, count: int, uses: int, r: Rounding) -> Approx:
    """The gradient by a state or a branch output, a sum of `count` products, where that was widened `uses` times.

    Autograd rounds the gradient of each use to the dtype of the state, and so are the uses - 1 sums, all relative to
    the sum of magnitudes: uses u, and for each of them what a number below the normal ones may lose. Where that sum is
    beyond the largest number of that dtype, one of them may be an infinity, and nothing is claimed.
    """
    summed = contracted(equation, left, right, count, r)
    size = torch.einsum(equation, left.value.abs() + left.error, right.value.abs() + right.error)
    return holding(summed.value, summed.error + uses * (r.state_unit * size + r.state_tiny), size, r)


def block(
    state: Approx,
    params: Params,
    branch: BranchSpec,
    g: Approx,
    dialect: Dialect,
    r: Rounding,
    each: bool = False,
) -> Pullback:
    """The pullback of x' = A x + h_post^T F(h_pre x) by x [tokens, n, C] and the parameters, for a cotangent g of x'.

    The chain rule, every stage with the errors of what it is given, the state's and the cotangent's among them, and its
    own. `each`: see `coefficients_gradient`.
    """
    return through(passed(state, params, branch, dialect, r), state, params, branch, g, dialect, r, each=each)[0]


def through(
    way: Passage,
    state: Approx,
    params: Params,
    branch: BranchSpec | TokenMix,
    g: Approx,
    dialect: Dialect,
    r: Rounding,
    used: Approx | None = None,
    each: bool = False,
    beside: Tensor | None = None,
) -> tuple[Pullback, Approx]:
    """The pullback of a block on its way, and the cotangent of the h_pre that it reads with.

    `used` is the cotangent of its own h_pre [tokens, n] from what comes after the block and reads with it: the next
    block, or the end of a stack. `beside` is a cotangent of what the branch reads [tokens, C], of a loss that the
    branch makes of it: autograd adds it to the other, rounded to the dtype of the state once more.
    """
    n, channels = state.value.shape[-2:]
    # Where streams are a list, the branch output is widened once for each of them.
    g_y = stored(summed_in_the_state("ti,tic->tc", way.h.post, g, n, n, r), r)
    g_u = stored(handed_back(g_y, branch, r), r)
    if beside is not None:
        g_u = stored(plus(g_u, Approx.exact(beside), r=r), r)
    post = contracted("tic,tc->ti", g, way.y, channels, r)
    res = operator_of(contracted("tic,tjc->tij", g, state, channels, r), dialect)
    operator = way.h.operator(dialect)
    direct = stored(contracted("tij,tic->tjc", operator, g, n, r), r)
    mixed = torch.einsum("tij,tic->tjc", operator.value.abs(), g.value.abs())
    gates = by_gates(g_u, state, way.h.pre, r)
    pre = [one for one in (gates if way.gates is way.h.pre else None, used) if one is not None]
    own = plus(*pre, r=r) if len(pre) > 1 else (pre or [Approx.exact(torch.zeros_like(way.h.pre.value))])[0]
    return mapped(state, params, way.gates, g_u, own, dialect, r, post, res, (direct, mixed), each), gates


def by_gates(g_u: Approx, state: Approx, h_pre: Approx, r: Rounding) -> Approx:
    """The cotangent of h_pre [tokens, n], a sum over channels, or [tokens, n, C], no sum, of one of the read."""
    if h_pre.value.ndim == state.value.ndim:
        return contracted("tc,tjc->tjc", g_u, state, 1, r)
    return contracted("tc,tjc->tj", g_u, state, state.value.shape[-1], r)


def read(
    state: Approx,
    params: Params,
    h_pre: Approx,
    g_u: Approx,
    dialect: Dialect,
    r: Rounding,
    each: bool = False,
) -> Pullback:
    """The pullback of u = h_pre x, h_pre of parameters of its own, for a cotangent of u [tokens, C]; `each`: see
    `coefficients_gradient`."""
    pre = by_gates(g_u, state, h_pre, r)
    return mapped(state, params, h_pre, g_u, pre, dialect, r, each=each)


def mapped(
    state: Approx,
    params: Params,
    gates: Approx,
    g_u: Approx,
    pre: Approx,
    dialect: Dialect,
    r: Rounding,
    post: Approx | None = None,
    res: Approx | None = None,
    residual: tuple[Approx, Tensor] | None = None,
    each: bool = False,
) -> Pullback:
    """The pullback of u = gates x for a cotangent of u [tokens, C], and of what else a block makes of its state.

    `pre`, `post` and `res` are the cotangents of the mappings, `residual` the gradient by x past the branch and the sum
    of magnitudes in it; a head has `pre` alone.

    A state below float32 sums the gradients of its uses in its own dtype: one for every stream that it is mixed into,
    one for the branch, and the mappings', which are counted where they arise.
    """
    tokens, n, _ = state.value.shape
    post = post or Approx.exact(torch.zeros(tokens, n))
    res = res or Approx.exact(torch.zeros(tokens, n, n))
    through = coefficients_gradient(state, params, pre, post, res, dialect, r, each)
    by = "tjc" if gates.value.ndim == state.value.ndim else "tj"
    direct_read = stored(contracted(f"{by},tc->tjc", gates, g_u, 1, r), r)
    of_mappings = stored(through.x, r)
    direct, mixed = residual or (None, torch.zeros(()))
    total = plus(*([direct] if direct else []), direct_read, of_mappings, r=r)
    size = mixed + direct_read.value.abs() + of_mappings.value.abs() + total.error
    # As they come, what the norm and its products hand back may be far more than the mappings' gradient.
    met = torch.maximum(size, mixed + direct_read.value.abs() + gradients.size_of_uses(through.x))
    return through._replace(x=holding(total.value, total.error + (n + 2) * r.state_unit * size, met, r))


def pre(x: Tensor, h_pre: Tensor, cotangent: Tensor, r: Rounding) -> dict[str, Approx]:
    """The gradient of h_pre x by each factor, in its shape, for a cotangent [tokens, C]."""
    g, (n, channels) = Approx.exact(cotangent), x.shape[-2:]
    if h_pre.ndim == x.ndim:  # a weight for each channel
        by_state = summed_in_the_state("tjc,tc->tjc", Approx.exact(h_pre), g, 1, n + 1, r)
        return {"x": by_state, "h_pre": contracted("tc,tjc->tjc", g, Approx.exact(x), 1, r)}
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
    state: Approx,
    params: Sequence[Params],
    branches: Sequence[BranchSpec | TokenMix],
    g: Approx,
    dialect: Dialect,
    r: Rounding,
    ways: Sequence[Passage] | None = None,
    used: Approx | None = None,
    each: bool = False,
    beside: Sequence[Tensor] | None = None,
) -> list[Pullback]:
    """The pullbacks of the blocks that begin at a state, each for the cotangent that the one after it left.

    `ways`: the blocks on the way forward, if they are known; `used`: the cotangent of the last h_pre, if the end reads
    with it; `each`: see `coefficients_gradient`; `beside`: of each block, see `through`.
    """
    losses = [None] * len(params) if beside is None else beside
    ways = passages(state, params, branches, dialect, r) if ways is None else ways
    before = [state, *(way.after for way in ways[:-1])]
    found: list[Pullback] = []
    every = zip(ways[::-1], before[::-1], params[::-1], branches[::-1], losses[::-1], strict=True)
    for way, one, parameters, branch, loss in every:
        # A cotangent that passes from block to block is a state's gradient, and is kept in the state's dtype.
        back, gates = through(way, one, parameters, branch, g, dialect, r, used, each, loss)
        used = gates if dialect.read_from == "previous" else None
        g = stored(back.x, r)
        found.append(back._replace(x=g))
    return found[::-1]


def every_depth(
    state: Approx,
    params: Sequence[Params],
    branches: Sequence[BranchSpec],
    g: Approx,
    dialect: Dialect,
    r: Rounding,
) -> tuple[Approx, list[Pullback]]:
    """Backwards through the layers once for all depths together, of one token: as tokens, each of which enters where it
    ends. The gradient by the state for 1, 2, ... layers [most, 1, n, C], and of each layer for every depth that has it.
    """
    ways = passages(state, params, branches, dialect, r)
    before, entering, found = [state, *(way.after for way in ways[:-1])], g, list[Pullback]()
    unused = used = Approx.exact(torch.zeros_like(ways[0].h.pre.value))  # after a last layer nothing reads with it
    for way, one, parameters, branch in zip(ways[::-1], before[::-1], params[::-1], branches[::-1], strict=True):
        count = g.value.shape[0]
        wide = one.repeated(count)
        back, gates = through(way.repeated(count), wide, parameters, branch, g, dialect, r, used, each=True)
        g = entering.joined(stored(back.x, r))
        used = unused.joined(gates if dialect.read_from == "previous" else unused.repeated(count))
        found.append(back)
    return Approx(g.value[1:].unsqueeze(1), g.error[1:].unsqueeze(1)), found[::-1]


def expand(h: Tensor, n: int, g: Approx, dialect: Dialect, r: Rounding) -> Approx:
    """The gradient by h [tokens, C] of how a stack begins, for a cotangent [tokens, n, C].

    n streams send n gradients back, which a state below float32 adds up in its own dtype: at most n roundings.
    """
    begin = begin_of(dialect)
    if begin.roundings is not None:
        return stored(declared.begin_gradient(begin, Approx.exact(h), n, g, dialect, r), r)
    return summed_in_the_state("n,tnc->tc", Approx.exact(begin.weights(n, dialect)), g, n, n, r)


def collapse(
    state: Approx, cotangent: Tensor, dialect: Dialect, r: Rounding, head: Params | None = None, each: bool = False
) -> Pullback | Approx:
    """The pullback of a collapse for a cotangent [tokens, C]: by the streams [tokens, n, C], and by the parameters
    of a head as well where there is one; `each`: see `coefficients_gradient`."""
    g = Approx.exact(cotangent)
    if head is not None:
        return read(state, head, coefficients(state, head, dialect, r).pre, g, dialect, r, each)
    end = end_of(dialect)
    if end.roundings is not None:
        return stored(declared.end_gradient(end, state, g, dialect, r), r)
    weights = end.weights(state.value.shape[-2], dialect).expand(state.value.shape[:-1]).contiguous()
    return stored(contracted("tn,tc->tnc", Approx.exact(weights), g, 1, r), r)


def stack(
    h: Tensor,
    n: int,
    params: Sequence[Params],
    branches: Sequence[BranchSpec | TokenMix],
    head: Sequence[Params],
    cotangent: Tensor,
    dialect: Dialect,
    r: Rounding,
    each: bool = False,
    beside: Sequence[Tensor] | None = None,
) -> tuple[Approx, list[Pullback]]:
    """The gradient by h [tokens, C], and the pullbacks of the layers and of the head, for a cotangent [tokens, C];
    `each`: see `coefficients_gradient`; `beside`: of each layer, see `through`."""
    start, g = begun(h, n, dialect, r), Approx.exact(cotangent)
    ways = passages(start, params, branches, dialect, r)
    used = None
    if end_of(dialect).LAST:
        end = stored(contracted("tn,tc->tnc", ways[-1].h.pre, g, 1, r), r)
        used = contracted("tc,tnc->tn", g, ways[-1].after, cotangent.shape[-1], r)
    else:
        end = collapse(ways[-1].after, cotangent, dialect, r, head[0] if head else None, each)
    left = end if isinstance(end, Approx) else stored(end.x, r)
    found = layers(start, params, branches, left, dialect, r, ways, used, each, beside)
    by_h = expand(h, n, found[0].x, dialect, r)
    return by_h, [*found, *([end] if isinstance(end, Pullback) else [])]
