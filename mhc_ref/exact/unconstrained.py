"""Unconstrained in mpmath: M is its logits, arXiv 2409.19606."""

from __future__ import annotations

from mhc_ref.dialect import Dialect
from mhc_ref.exact.lists import Matrix, Vector, rows
from mhc_ref.exact.numbers import Reals


def shape(n: int, dialect: Dialect) -> tuple[int, ...]:
    """One logit an entry of M."""
    return (n, n)


def project(z: Vector, n: int, dialect: Dialect, real: Reals) -> Matrix:
    """M = Z."""
    return rows(z, n)
