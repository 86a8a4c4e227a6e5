"""Many blocks with persistent streams: expand once, L blocks, collapse once.

Expanding and collapsing in every block is the mistake that the reproduction of mHC found after three audits: every
block then sees n identical streams, and hyper-connections train exactly like the plain residual.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from mhc_ref.block import Branch, Params, head_weights, passed
from mhc_ref.dialect import Dialect
from mhc_ref.packing import streams_of_params
from mhc_ref.registry import formulas


def expand(h: Float[Tensor, "*tokens C"], n: int, dialect: Dialect | None = None) -> Float[Tensor, "*tokens n C"]:
    """How the streams begin: n copies of h, or what the dialect says."""
    dialect = dialect or Dialect()
    return formulas("begin", dialect.expand).expand(h, n, dialect)


def collapse(
    x: Float[Tensor, "*tokens n C"],
    dialect: Dialect,
    head: Params | None = None,
    last: Float[Tensor, ...] | None = None,
) -> Float[Tensor, "*tokens C"]:
    """How the streams become one; some ends have parameters, of which the pre part is read.

    Others read with the h_pre of the last block, `last`.

    Of `head` the first n columns of phi [n*C, >= n] ([C, >= 1] where the projection is shared), the first n entries of
    the bias and the first gate are read.

    Raises:
        ValueError: the end has parameters, or reads with the last h_pre, and none are given.
    """
    h_pre = None
    if ends_with_last(dialect):
        if last is None:
            raise ValueError(f"collapse={dialect.collapse!r} needs the h_pre of the last block; none was given")
        h_pre = last
    if has_head(dialect):
        if head is None:
            raise ValueError(f"collapse={dialect.collapse!r} needs the parameters of the head; none were given")
        h_pre = head_weights(x, head, dialect)
    return formulas("end", dialect.collapse).collapse(x, dialect, h_pre)


def has_head(dialect: Dialect) -> bool:
    """Whether the streams end by parameters of their own."""
    return getattr(formulas("end", dialect.collapse), "HEAD", False)


def ends_with_last(dialect: Dialect) -> bool:
    """Whether the streams end by the h_pre of the last block."""
    return getattr(formulas("end", dialect.collapse), "LAST", False)


def layers(
    x: Float[Tensor, "*tokens n C"], params: Sequence[Params], branches: Sequence[Branch], dialect: Dialect
) -> Float[Tensor, "*tokens n C"]:
    """L blocks, one after the other on the same streams: no expand, no collapse."""
    return through(x, params, branches, dialect)[0]


def through(
    x: Float[Tensor, "*tokens n C"], params: Sequence[Params], branches: Sequence[Branch], dialect: Dialect
) -> tuple[Float[Tensor, "*tokens n C"], Float[Tensor, ...] | None]:
    """The streams after L blocks, and the h_pre of the last; None where there is no block."""
    last = None
    for one, branch in zip(params, branches, strict=True):
        x, last = passed(x, one, branch, dialect, last)
    return x, last


def stack(
    h: Float[Tensor, "*tokens C"], params: Sequence[Params], branches: Sequence[Branch], dialect: Dialect
) -> Float[Tensor, "*tokens C"]:
    """expand, layers, collapse. Where the dialect collapses by a head, `params` has one entry more, the head's.

    Raises:
        ValueError: the numbers of parameters and branches do not match, or there are no parameters, of which the number
            of streams is read.
    """
    wanted = len(branches) + has_head(dialect)
    if not params and not wanted:
        raise ValueError(
            "no parameter set was given, for no branches; expected at least one, since the number of streams is read "
            "from it. Without blocks call collapse(expand(h, n, dialect), dialect), which takes that number"
        )
    if len(params) != wanted:
        raise ValueError(
            f"{len(params)} parameter sets for {len(branches)} branches; collapse={dialect.collapse!r} needs {wanted}"
            + (", the last being the head's" if has_head(dialect) else "")
        )
    x = expand(h, streams_of_params(params[0], dialect, h.shape[-1]), dialect)
    x, last = through(x, params[: len(branches)], branches, dialect)
    return collapse(x, dialect, params[-1] if has_head(dialect) else None, last)
