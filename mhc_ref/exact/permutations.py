"""Permutations in mpmath: a softmax over the n! permutation matrices, mHC-lite, arXiv 2601.05732."""

from __future__ import annotations

import itertools
import math

from mhc_ref.dialect import Dialect
from mhc_ref.exact.lists import Matrix, Vector
from mhc_ref.exact.numbers import Reals


def shape(n: int, dialect: Dialect) -> tuple[int, ...]:
    """One coefficient a permutation, in the order of `itertools.permutations`."""
    return (math.factorial(n),)


def project(z: Vector, n: int, dialect: Dialect, real: Reals) -> Matrix:
    """sum_k softmax(z)_k P_k with P_k[i][p_k(i)] = 1."""
    terms: list[list[Vector]] = [[[] for _ in range(n)] for _ in range(n)]
    for weight, permutation in zip(real.softmax(z), itertools.permutations(range(n)), strict=True):
        for i, j in enumerate(permutation):
            terms[i][j].append(weight)
    return [[real.sum(entry) for entry in row] for row in terms]


def project_vjp(z: Vector, bar: Matrix, dialect: Dialect, real: Reals) -> Vector:
    """w_k (b_k - <w, b>) with b_k = <P_k, bar>."""
    weights = real.softmax(z)
    products = [real.sum(bar[i][j] for i, j in enumerate(p)) for p in itertools.permutations(range(len(bar)))]
    share = real.dot(weights, products)
    return [weight * (b - share) for weight, b in zip(weights, products, strict=True)]
