"""How logits and parameters are packed: the shapes that a dialect asks for, and n read off shapes that are given."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch

from mhc_ref.dialect import Dialect
from mhc_ref.registry import formulas

_MOST_STREAMS = 64
"""The largest n that is tried for a shape whose sizes are all smaller."""


class Shapes(NamedTuple):
    """The shapes of a block's parameters (`mhc_ref.Params`)."""

    phi: tuple[int, int]
    bias: tuple[int]
    alpha: tuple[int]
    norm_weight: tuple[int]


def params_shapes(n: int, channels: int, dialect: Dialect) -> Shapes:
    """phi [n*C, P + n + R + B] or shared [C, 2 + R/n], bias [P + n + R], alpha [3], or [2] where R = 0, norm_weight
    [n*C]; P = n and B = 0 where a branch reads by a gate for each stream (`logit_sizes`, `beyond`)."""
    size = sum(sizes := logit_sizes(n, dialect))
    phi = (channels, 2 + sizes[2] // n) if dialect.shared_projection else (n * channels, size + beyond(dialect))
    return Shapes(phi, (size,), (3 if sizes[2] else 2,), (n * channels,))


def logit_sizes(n: int, dialect: Dialect) -> tuple[int, int, int]:
    """(P, n, R): how many logits of a token are for h_pre, h_post and h_res; P is n, or what the read says."""
    return formulas("read", dialect.read).width(n, dialect), n, residual_size(n, dialect)


def beyond(dialect: Dialect) -> int:
    """B, how many columns of phi, the last ones, give no logits but are parameters of the read."""
    return formulas("read", dialect.read).beyond(dialect)


def logits_shape(n: int, dialect: Dialect) -> torch.Size:
    """The shape of one token's residual logits: (n, n), or what the mix of the dialect says.

    Raises:
        ValueError: the mix is not for n streams, or says no shape.
    """
    shape: Any = _mix(dialect).shape(n, dialect)
    if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in cast(Any, shape)):
        raise ValueError(
            f"the mix family {dialect.residual!r} gives the shape {shape!r} for the logits of {n} streams; expected a "
            "tuple of whole numbers"
        )
    return torch.Size(cast(Any, shape))


def residual_size(n: int, dialect: Dialect) -> int:
    """R, the number of residual logits of a token."""
    return math.prod(logits_shape(n, dialect))


def streams_up_to(largest: int, dialect: Dialect) -> list[int]:
    """The numbers of streams, in ascending order and at most `largest`, that the mix of the dialect is for."""
    return [n for n, _ in _shapes(dialect, largest) if n <= largest]


def most_streams(dialect: Dialect) -> int | None:
    """The largest n that the dialect is for; None where there is none."""
    return getattr(_mix(dialect), "MOST_STREAMS", None)


def streams_of_logits(shape: Sequence[int], dialect: Dialect) -> int:
    """The n for which the logits of a token have the last sizes of `shape`.

    Raises:
        ValueError: there is none.
    """
    given, shapes = tuple(shape), list[tuple[int, ...]]()
    for n, one in _shapes(dialect, max(given, default=0)):
        shapes.append(one)
        if given[-len(one) :] == one:
            return n
    known = ", ".join(map(str, shapes[:4]))
    raise ValueError(
        f"logits have shape {given}; residual={dialect.residual!r} takes [..., *s] for s one of {known}, ..."
    )


def streams_of_params(params: Any, dialect: Dialect, channels: int | None = None) -> int:
    """n, read off the shapes of a block's parameters (`mhc_ref.Params`); the first that fits.

    Arguments:
        channels: C, where it is known: a mix may give two numbers of streams the same shapes at different widths.

    Raises:
        ValueError: no n fits.
    """
    (rows, columns), (size,) = params.phi.shape, params.bias.shape
    for n, _ in _shapes(dialect, size):
        width = rows if dialect.shared_projection else rows // n
        if channels in (None, width) and params_shapes(n, width, dialect)[:2] == ((rows, columns), (size,)):
            return n
    raise ValueError(
        f"Params.bias has {size} entries beside a phi of {rows} x {columns}; no number of streams has them with R of "
        f"residual={dialect.residual!r} and shared_projection={dialect.shared_projection}"
    )


def _mix(dialect: Dialect) -> Any:
    return formulas("mix", dialect.residual)


def _shapes(dialect: Dialect, largest: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    """n and the shape of its logits, for every n that the mix is for and that could fit a largest size."""
    for n in range(1, (most_streams(dialect) or max(largest, _MOST_STREAMS)) + 1):
        try:
            shape = tuple(logits_shape(n, dialect))
        except ValueError:  # the mix is not for this n
            continue
        yield n, shape
