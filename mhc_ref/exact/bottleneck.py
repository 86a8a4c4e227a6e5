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
    """U has as many columns as D has rows; so has W, and the static logits are one, where there is one bottleneck."""
    return dialect.rank + (dialect.rank + 1) * dialect.one_bottleneck


def affine(dialect: Dialect) -> bool:
    """Whether logits are alpha * (...) + bias, or the products alone."""
    return dialect.affine


def averaged(dialect: Dialect) -> bool:
    """D x^ / n: products with phi are means over the streams."""
    return True


def exact_completed(
    products: Vector, up: Matrix, alpha: Vector, bias: Vector, n: int, dialect: Dialect, real: Reals
) -> Vector:
    """With one bottleneck b = alpha_pre silu(D x^ / n) stands in place of D x^ / n, and W b + bias beside it."""
    if not dialect.one_bottleneck:
        return products
    rank, channels = dialect.rank, len(up) // n
    held = [alpha[0] * z / (1 + real.exp(-z)) for z in products[:rank]]
    w = [up[s * channels + channels // 2][:rank] for s in range(n)]
    written = [real.dot(held, row) + b for row, b in zip(w, bias[rank : rank + n], strict=True)]
    return [*held, *written, *products[rank + n :]]


def weights(logits: Vector, x: Matrix, up: Matrix, weight: Vector | None, dialect: Dialect, real: Reals) -> Any:
    """g_sc w_sc / (n rms_s), the gate of a channel and what makes x^ of x; a state whose rms is 0 is read as it is."""
    n, width = len(x), len(x[0])
    if dialect.one_bottleneck:  # whose logits are what it holds, and whose rows are W | a | U
        rank = dialect.rank
        opened = [real.dot(logits, row[rank + 1 :]) + row[rank] for row in up]
    else:
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
