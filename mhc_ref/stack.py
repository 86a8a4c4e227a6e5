"""Many blocks with persistent streams: expand once, L blocks, collapse once.

Expanding and collapsing in every block is the mistake that the reproduction of mHC found after three audits: every
block then sees n identical streams, and hyper-connections train exactly like the plain residual.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from mhc_ref.block import Branch, Params, block, head_weights
from mhc_ref.dialect import Dialect
from mhc_ref.packing import streams_of_params
from mhc_ref.registry import formulas


def expand(h: Float[Tensor, "*tokens C"], n: int, dialect: Dialect | None = None) -> Float[Tensor, "*tokens n C"]:
    """How the streams begin: n copies of h, or what the dialect says."""
    dialect = dialect or Dialect()
    return formulas("begin", dialect.expand).expand(h, n, dialect)


def collapse(
    x: Float[Tensor, "*tokens n C"], dialect: Dialect, head: Params | None = None
) -> Float[Tensor, "*tokens C"]:
    """How the streams become one; some ends have parameters, of which the pre part is read.

    Of `head` the first n columns of phi [n*C, >= n] ([C, >= 1] where the projection is shared), the first n entries of
    the bias and the first gate are read.

    Raises:
        ValueError: the end has parameters and none are given.
    """
    h_pre = None
    if has_head(dialect):
        if head is None:
            raise ValueError(f"collapse={dialect.collapse!r} needs the parameters of the head; none were given")
        h_pre = head_weights(x, head, dialect)
    return formulas("end", dialect.collapse).collapse(x, dialect, h_pre)


def has_head(dialect: Dialect) -> bool:
    """Whether the streams end by parameters of their own."""
    return getattr(formulas("end", dialect.collapse), "HEAD", False)


def layers(
    x: Float[Tensor, "*tokens n C"], params: Sequence[Params], branches: Sequence[Branch], dialect: Dialect
) -> Float[Tensor, "*tokens n C"]:
    """L blocks, one after the other on the same streams: no expand, no collapse."""
    for one, branch in zip(params, branches, strict=True):
        x = block(x, one, branch, dialect)
    return x


def stack(
    h: Float[Tensor, "*tokens C"], params: Sequence[Params], branches: Sequence[Branch], dialect: Dialect
) -> Float[Tensor, "*tokens C"]:
    """expand, layers, collapse. Where the dialect collapses by a head, `params` has one entry more, the head's.

    Raises:
        ValueError: the numbers of parameters and branches do not match.
    """
    wanted = len(branches) + has_head(dialect)
    if not params or len(params) != wanted:
        raise ValueError(
            f"{len(params)} parameter sets for {len(branches)} branches; collapse={dialect.collapse!r} needs {wanted}"
            + (", the last being the head's" if has_head(dialect) else "")
        )
    x = expand(h, streams_of_params(params[0], dialect), dialect)
    x = layers(x, params[: len(branches)], branches, dialect)
    return collapse(x, dialect, params[-1] if has_head(dialect) else None)
