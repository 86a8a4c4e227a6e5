"""Depth attention in mpmath: u = sum_i softmax_i(<q, x^_i>) x_i, or x^_i; the products may be over sqrt(C)."""

from __future__ import annotations

from typing import Any

from mhc_ref import registry
from mhc_ref.dialect import Dialect
from mhc_ref.exact.lists import Matrix, Vector
from mhc_ref.exact.numbers import Reals
from mhc_ref.exact.rms import rms


def width(n: int, dialect: Dialect) -> int:
    """One score for each source."""
    return n


def beyond(dialect: Dialect) -> int:
    """phi has columns for logits alone."""
    return 0


def affine(dialect: Dialect) -> bool:
    """Scores have neither gates nor biases."""
    return False


def averaged(dialect: Dialect) -> bool:
    """Products with phi are sums."""
    return False


def weights(logits: Vector, x: Matrix, up: Matrix, weight: Vector | None, dialect: Dialect, real: Reals) -> Any:
    """Of each source its share of 1, over the rms where sources are read so; one whose rms is 0 is read as it is."""
    root = real.sqrt(real.mp.mpf(len(x[0]))) if dialect.scaled else real.mp.one
    shares = registry.oracle("gate", dialect.pre).formula([z / root for z in logits], dialect, real)
    shares = [share + dialect.pre_eps for share in shares]
    if not dialect.reads_normalised:
        return shares
    sizes = [rms(source, dialect, real) for source in x]
    return [share / size if real.value(size) else share for share, size in zip(shares, sizes, strict=True)]
