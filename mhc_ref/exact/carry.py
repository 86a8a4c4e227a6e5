"""Carry in mpmath: M = diag(alpha), alpha^2 = max(1 - beta^2, floor), beta = 1 / (1 + exp(-z / temperature))."""

from __future__ import annotations

from mhc_ref.dialect import Dialect
from mhc_ref.exact.lists import Matrix, Vector
from mhc_ref.exact.numbers import Real, Reals


def shape(n: int, dialect: Dialect) -> tuple[int, ...]:
    """One logit a stream."""
    return (n, 1)


def project(z: Vector, n: int, dialect: Dialect, real: Reals) -> Matrix:
    """1 - beta^2 = (1 + 2 e) / (1 + e)^2 with e = exp(z / temperature), which loses no digit; at the floor alpha does
    not depend on z."""
    kept = [_kept(logit, dialect, real) for logit in z]
    return [[kept[i] if i == j else real.mp.zero for j in range(n)] for i in range(n)]


def _kept(logit: Real, dialect: Dialect, real: Reals) -> Real:
    e = real.exp(logit / real.mp.convert(dialect.temperature))
    square, floor = (1 + 2 * e) / (1 + e) ** 2, real.mp.convert(dialect.floor)
    return real.sqrt(square) if real.value(square) >= floor else real.sqrt(floor)
