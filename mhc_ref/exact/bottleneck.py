"""Bottleneck in mpmath: u = 1/n sum_s sigma(U silu(D x^ / n))_s x^_s, written with h_pre as what multiplies x_s."""

from __future__ import annotations

from typing import Any

from mhc_ref import registry
from mhc_ref.dialect import Dialect
from mhc_ref.exact.lists import Matrix, Vector, flat, rows
from mhc_ref.exact.numbers import Reals
from mhc_ref.exact.rms import rms


def width(n: int, dialect: Dialect) -> int:
    """The rank."""
    return dialect.rank


def beyond(dialect: Dialect) -> int:
    """U has as many columns as D has rows."""
    return dialect.rank


def affine(dialect: Dialect) -> bool:
    """Whether logits are alpha * (...) + bias, or the products alone."""
    return dialect.affine


def averaged(dialect: Dialect) -> bool:
    """D x^ / n: products with phi are means over the streams."""
    return True


def weights(logits: Vector, x: Matrix, up: Matrix, weight: Vector | None, dialect: Dialect, real: Reals) -> Any:
    """g_sc w_sc / (n rms_s), the gate of a channel and what makes x^ of x; a state whose rms is 0 is read as it is."""
    n, width = len(x), len(x[0])
    squeezed = [z / (1 + real.exp(-z)) for z in logits]
    opened = [real.dot(squeezed, row) for row in up]
    gates = registry.oracle("gate", dialect.pre).formula(opened, dialect, real)
    roots = [rms(stream, dialect, real) for stream in (x if dialect.norm_over == "stream" else [flat(x)])]
    by_stream = [root if real.value(root) else real.mp.one for root in roots] * (n // len(roots))
    factors = [1] * (n * width) if weight is None else [w + dialect.norm_offset for w in weight]
    found = [
        (gate + dialect.pre_eps) * factor / (by_stream[k // width] * n)
        for k, (gate, factor) in enumerate(zip(gates, factors, strict=True))
    ]
    return rows(found, n)
