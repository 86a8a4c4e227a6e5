"""Identity in mpmath: M = I."""

from __future__ import annotations

from mhc_ref.dialect import Dialect
from mhc_ref.exact.lists import Matrix, Vector
from mhc_ref.exact.numbers import Reals


def shape(n: int, dialect: Dialect) -> tuple[int, ...]:
    """One logit an entry of M, none of which is read; or none."""
    return (n, n if dialect.res_columns else 0)


def project(z: Vector, n: int, dialect: Dialect, real: Reals) -> Matrix:
    """M = I."""
    return [[real.mp.one if i == j else real.mp.zero for j in range(n)] for i in range(n)]
