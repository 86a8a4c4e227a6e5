"""A block: its mappings, what its branch reads, and the state after it, from a state that may have an error itself.

States are [tokens, n, C], tokens on one axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mhc_ref import Dialect, Params
from mhc_ref.block import gates_read
from mhc_ref.packing import logit_sizes, logits_shape
from properties.bounds.arithmetic import affine, entering, stored, times, weighted_sum
from properties.bounds.projection import projection
from properties.bounds.stages import gated_logits, squashed
from properties.bounds.token_mix import TokenMix
from properties.core.case import BranchSpec
from properties.core.reads import read_of
from properties.core.rounding import INF, Approx, Rounding, known
from properties.core.rows import place
from properties.core.truth import wide


@dataclass(frozen=True)
class Coefficients:
    """The three mappings with their bounds, [tokens, n], or [tokens, n, C] for a read of every channel, [tokens, n] and
    [tokens, n, n]."""

    pre: Approx
    post: Approx
    res: Approx

    def parts(self) -> dict[str, Approx]:
        """By name."""
        return {"pre": self.pre, "post": self.post, "res": self.res}

    def operator(self, dialect: Dialect) -> Approx:
        """The operator A that the block applies."""
        return operator_of(self.res, dialect)


def split(logits: Approx, n: int, dialect: Dialect) -> tuple[Approx, Approx, Approx]:
    """pre | post | res; the last of the shape that the mix of the dialect says."""
    sizes = logit_sizes(n, dialect)
    parts = zip(logits.value.split(sizes, -1), logits.error.split(sizes, -1), strict=True)
    pre, post, res = (Approx(*part) for part in parts)
    shape = logits_shape(n, dialect)
    return pre, post, Approx(res.value.unflatten(-1, shape), res.error.unflatten(-1, shape))


def coefficients(x: Approx, params: Params, dialect: Dialect, r: Rounding) -> Coefficients:
    """The bound of every mapping: logits, then squashed or projected."""
    n = x.value.shape[-2]
    pre, post, res = split(gated_logits(x, params, dialect, r), n, dialect)
    g = r.at("gates")
    h_pre = read_of(dialect).bound(entering(pre, g), x, params, dialect, g)
    h_post = affine(squashed(entering(post, g), dialect.post, dialect, g), dialect.post_scale, dialect.post_eps, g)
    projected = projection(res, dialect, r)
    return Coefficients(h_pre, h_post, Approx(projected.value, projected.error))


def applied(matrix: Tensor, dialect: Dialect) -> Tensor:
    """The operator A that a block applies when h_res is `matrix`."""
    return matrix.transpose(-1, -2) if dialect.transposed else matrix


def operator_of(h_res: Approx, dialect: Dialect) -> Approx:
    """The operator A that a block applies."""
    return Approx(applied(h_res.value, dialect), applied(h_res.error, dialect))


def combined(
    x: Tensor | Approx, operator: Approx, r: Rounding, y: Tensor | Approx | None = None, h_post: Approx | None = None
) -> Approx:
    """A x + h_post^T y, rounded into the dtype of the state: gamma_{n+3} of the sum of magnitudes, errors of the
    factors.

    Where the residual path is mixed in the dtype of the state, every factor, every term and every partial sum are
    rounded to it, the last of which is the result's own rounding: n + 1 roundings more where terms are added one by
    one; 4 where a sum of products (two factors, the products) is rounded by itself, too. A factor below the normal
    numbers of that dtype loses `state_tiny` at most, times what it weighs: in float16 all of a 2e-8. Where the sum of
    magnitudes is beyond that dtype so may a term or a partial sum be, whatever the sum itself is.
    """
    state = x if isinstance(x, Approx) else Approx.exact(x)
    size = state.value.abs() + state.error
    value = operator.value @ state.value
    spread = (operator.value.abs() + operator.error) @ size
    own = operator.error @ size + operator.value.abs() @ state.error
    weighed = size.sum(-2, keepdim=True)
    if y is not None and h_post is not None:
        given = y if isinstance(y, Approx) else Approx.exact(y)
        out, moved = given.value.unsqueeze(-2), given.error.unsqueeze(-2)
        weight = h_post.value.unsqueeze(-1)
        reach = weight.abs() + h_post.error.unsqueeze(-1)
        value = value + weight * out
        spread = spread + reach * (out.abs() + moved)
        own = own + h_post.error.unsqueeze(-1) * out.abs() + reach * moved
        weighed = weighed + out.abs() + moved
    n = state.value.shape[-2]
    coarse = max(4, n + 1) * r.state_unit if r.mixes_in_state else 0.0
    coarse = coarse / (1 - coarse)
    if r.mixes_in_state:
        own = own + (1 + coarse) * r.state_tiny * weighed
        own = torch.where((1 + coarse) * spread > r.state_max, INF, own)
    return stored(Approx(value, own + (r.dot(n + 3) + coarse) * spread + (n + 1) * (r.tiny + r.state_tiny)), r)


def mixed(x: Tensor, h_res: Approx, dialect: Dialect, r: Rounding) -> Approx:
    """A x in the dtype of the state, with its bound."""
    return combined(x, operator_of(h_res, dialect), r)


def read(x: Tensor | Approx, h_pre: Approx, r: Rounding) -> Approx:
    """h_pre x, which the branch reads in the dtype of the state.

    Where it is summed in that, the weights, the products and the partial sums, the last of which is the result's own
    rounding, are rounded to it: n + 1 roundings more of the sum of magnitudes, and of a weight below its normal numbers
    `state_tiny` at most, times the stream. Nothing is claimed where that sum is beyond it, see `combined`.
    """
    state = x if isinstance(x, Approx) else Approx.exact(x)
    found = weighted_sum(h_pre, state, r)
    if "read" in r.short:
        n = state.value.shape[-2]
        by_channel = (
            h_pre if h_pre.value.ndim == state.value.ndim else Approx(*(one.unsqueeze(-1) for one in _pair(h_pre)))
        )
        streams = state.value.abs() + state.error
        size = ((by_channel.value.abs() + by_channel.error) * streams).sum(-2)
        coarse = (n + 1) * r.state_unit
        coarse = coarse / (1 - coarse)
        lost = r.state_tiny * (n + 1 + (1 + coarse) * streams.sum(-2))
        error = found.error + coarse * known(size) + lost
        found = Approx(found.value, torch.where((1 + coarse) * known(size) > r.state_max, INF, error))
    return stored(found, r)


def _pair(one: Approx) -> tuple[Tensor, Tensor]:
    return one.value, one.error


def gates_of(own: Approx, before: Approx | None, dialect: Dialect) -> Approx:
    """The h_pre that a block reads with, of its own and that of the block before, see `mhc_ref.block.gates_read`."""
    if dialect.read_from == "previous" and before is not None:
        return before
    if dialect.read_from == "own" or dialect.first_read == "own":
        return own
    return Approx.exact(gates_read(own.value, None, dialect).contiguous())


class Step(NamedTuple):
    """A block whose branch returned some y: what it read, the state after it, and the block's own h_pre."""

    read: Approx
    after: Approx
    pre: Approx


def step(state: Approx, params: Params, y: Tensor, dialect: Dialect, r: Rounding, before: Approx | None = None) -> Step:
    """From a state with a bound, the y that was returned, and the h_pre of the block before, if there is one."""
    h = coefficients(state, params, dialect, r)
    u = read(state, gates_of(h.pre, before, dialect), r)
    return Step(u, combined(state, h.operator(dialect), r, y, h.post), h.pre)


@dataclass(frozen=True)
class Passage:
    """A block on the way forward: its mappings, the h_pre that it reads with [tokens, n], what its branch reads and
    gives [tokens, C], and the state after it."""

    h: Coefficients
    gates: Approx
    u: Approx
    y: Approx
    after: Approx

    def repeated(self, count: int) -> Passage:
        """The block of one token as that of so many of them."""
        pre, post, res, u, y, after = (
            one.repeated(count) for one in (self.h.pre, self.h.post, self.h.res, self.u, self.y, self.after)
        )
        gates = pre if self.gates is self.h.pre else self.gates.repeated(count)
        return Passage(Coefficients(pre, post, res), gates, u, y, after)


def passed(
    state: Approx,
    params: Params,
    branch: BranchSpec | TokenMix,
    dialect: Dialect,
    r: Rounding,
    before: Approx | None = None,
) -> Passage:
    """A block that computes its branch in the dtype of the state, from a state with a bound; `before` is the h_pre of
    the block before it, if there is one."""
    h = coefficients(state, params, dialect, r)
    gates = gates_of(h.pre, before, dialect)
    u = read(state, gates, r)
    y = returned(u, branch, r)
    weight = branch.weight if isinstance(branch, BranchSpec) and branch.kind == "constant" else None
    as_given = weight is not None and torch.finfo(weight.dtype).eps / 2 == r.state_unit  # in the dtype of the state
    y = Approx.exact(y.value) if as_given else stored(y, r)
    return Passage(h, gates, u, y, combined(state, h.operator(dialect), r, y, h.post))


def returned(u: Approx, branch: BranchSpec | TokenMix, r: Rounding) -> Approx:
    """F(u) for u [tokens, C], before it is stored: a branch that does not depend on its input returns the same for an
    infinite one."""
    if isinstance(branch, TokenMix):
        return branch.returned(u, r)
    y = branch(u.value)
    moved = torch.zeros_like(y)
    if branch.kind not in ("zero", "constant"):
        depends = BranchSpec("scale", branch.weight) if branch.kind == "detached" else branch
        moved = slope_of(depends, u.value.shape[-1]).abs() * u.error
    return Approx(y, moved + 2 * r.unit * y.abs())


def handed_back(g: Approx, branch: BranchSpec | TokenMix, r: Rounding) -> Approx:
    """The gradient by u [tokens, C] for one by F(u), before it is stored."""
    if isinstance(branch, TokenMix):
        return branch.pulled(g, r)
    return times(Approx.exact(slope_of(branch, g.value.shape[-1])).expanded(g), g, r)


def slope_of(branch: BranchSpec, channels: int) -> Tensor:
    """dF/du of a branch, [C], as a gradient passes: constant, but for tanh, where it is what |dF/du| is at most."""
    ones = torch.ones(channels, dtype=torch.float64, device=place())
    if branch.kind in ("identity", "added"):
        return ones
    if branch.kind in ("scale", "tanh") and branch.weight is not None:
        return wide(branch.weight) * ones
    return 0 * ones
