"""Many blocks with persistent streams: expand once, L blocks, collapse once.

Expanding and collapsing in every block is the mistake that the reproduction of mHC found after three audits: every
block then sees n identical streams, and hyper-connections train exactly like the plain residual.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from mhc_ref.block import Branch, Params, block, normalise, residual_size, squash
from mhc_ref.block import pre as gather
from mhc_ref.dialect import Dialect
from mhc_ref.projection import compute_dtype


def expand(h: Float[Tensor, "*tokens C"], n: int) -> Float[Tensor, "*tokens n C"]:
    """n copies of h (every published implementation begins so)."""
    return h.unsqueeze(-2).repeat_interleave(n, -2)


def collapse(
    x: Float[Tensor, "*tokens n C"], dialect: Dialect, head: Params | None = None
) -> Float[Tensor, "*tokens C"]:
    """The streams become one: their sum, their mean, or the gated sum of DeepSeek-V4's head.

    The head reads the first n columns of `head.phi` [n*C, >= n], the first n entries of its bias and the first gate,
    and weighs the streams as h_pre would.

    Raises:
        ValueError: the dialect collapses by a head and none is given.
    """
    if dialect.collapse == "sum":
        return x.to(compute_dtype(x.dtype)).sum(-2).to(x.dtype)
    if dialect.collapse == "mean":
        return x.to(compute_dtype(x.dtype)).mean(-2).to(x.dtype)
    if head is None:
        raise ValueError("collapse='head' needs the parameters of the head; none were given")
    return gather(x, head_weights(x, head, dialect))


def head_weights(x: Float[Tensor, "*tokens n C"], head: Params, dialect: Dialect) -> Float[Tensor, "*tokens n"]:
    """pre(alpha_0 * dynamic(x^ phi) + bias) + pre_eps, not normalised (DeepSeek-V4, `hc_head`)."""
    n = x.shape[-2]
    state = normalise(x, head.norm_weight, dialect)
    projected = state @ head.phi[:, 0] if dialect.shared_projection else state.flatten(-2) @ head.phi[:, :n]
    if dialect.dynamic == "tanh":
        projected = projected.tanh()
    return squash(head.alpha[0] * projected + head.bias[:n], dialect.pre) + dialect.pre_eps


def layers(
    x: Float[Tensor, "*tokens n C"], params: Sequence[Params], branches: Sequence[Branch], dialect: Dialect
) -> Float[Tensor, "*tokens n C"]:
    """L blocks, one after the other on the same streams: no expand, no collapse."""
    for one, branch in zip(params, branches, strict=True):
        x = block(x, one, branch, dialect)
    return x


def streams_of(params: Params, dialect: Dialect) -> int:
    """n, read off the shapes of a block's parameters."""
    if dialect.shared_projection:
        return params.phi.shape[1] - 2
    for n in range(1, params.bias.shape[0] + 1):
        if params.phi.shape[0] % n == 0 and 2 * n + residual_size(n, dialect) == params.bias.shape[0]:
            return n
    raise ValueError(f"no number of streams has a bias of {params.bias.shape[0]} entries (2n + n*n, or 2n + n!)")


def stack(
    h: Float[Tensor, "*tokens C"], params: Sequence[Params], branches: Sequence[Branch], dialect: Dialect
) -> Float[Tensor, "*tokens C"]:
    """expand, layers, collapse. Where the dialect collapses by a head, `params` has one entry more, the head's.

    Raises:
        ValueError: the numbers of parameters and branches do not match.
    """
    wanted = len(branches) + (dialect.collapse == "head")
    if not params or len(params) != wanted:
        raise ValueError(
            f"{len(params)} parameter sets for {len(branches)} branches; collapse={dialect.collapse!r} needs {wanted}"
            + (", the last being the head's" if dialect.collapse == "head" else "")
        )
    x = expand(h, streams_of(params[0], dialect))
    x = layers(x, params[: len(branches)], branches, dialect)
    return collapse(x, dialect, params[-1] if dialect.collapse == "head" else None)
