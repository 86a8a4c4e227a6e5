"""Streamwise in mpmath: each stream is read with a gate of its own."""

from __future__ import annotations

from typing import Any

from mhc_ref import registry
from mhc_ref.dialect import Dialect
from mhc_ref.exact.lists import Matrix, Vector
from mhc_ref.exact.numbers import Reals


def width(n: int, dialect: Dialect) -> int:
    """One logit a stream."""
    return n


def beyond(dialect: Dialect) -> int:
    """phi has columns for logits alone."""
    return 0


def affine(dialect: Dialect) -> bool:
    """Logits are alpha * (...) + bias."""
    return True


def averaged(dialect: Dialect) -> bool:
    """Products with phi are sums over the streams."""
    return False


def weights(logits: Vector, x: Matrix, up: Matrix, weight: Vector | None, dialect: Dialect, real: Reals) -> Any:
    """pre(logits) + pre_eps."""
    gates = registry.oracle("gate", dialect.pre).formula(logits, dialect, real)
    return [gate + dialect.pre_eps for gate in gates]
