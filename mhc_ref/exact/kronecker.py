"""Kronecker products in mpmath: of mixtures of permutations, KromHC, arXiv 2601.21579."""

from __future__ import annotations

import itertools
import math

from mhc_ref.dialect import Dialect
from mhc_ref.exact.lists import Matrix, Vector
from mhc_ref.exact.numbers import Reals


def shape(n: int, dialect: Dialect) -> tuple[int, ...]:
    """A line of k! coefficients for each factor; where the sizes k differ all stand in one line."""
    sizes = _sizes(n, dialect)
    if len(set(sizes)) == 1:
        return (len(sizes), math.factorial(sizes[0]))
    return (sum(map(math.factorial, sizes)),)


def project(z: Vector, n: int, dialect: Dialect, real: Reals) -> Matrix:
    """M[i][j] = product over k of U_k[i_k][j_k], i_1 ... i_K the digits of i to the bases that the sizes are."""
    sizes, parts, begun = _sizes(n, dialect), list[Matrix](), 0
    for size in sizes:
        ended = begun + math.factorial(size)
        parts.append(_mixture(real.softmax(z[begun:ended]), size, real))
        begun = ended
    digits = list(itertools.product(*map(range, sizes)))

    def entry(row: tuple[int, ...], column: tuple[int, ...]) -> object:
        first, *others = (part[i][j] for part, i, j in zip(parts, row, column, strict=True))
        for other in others:
            first = first * other
        return first

    return [[entry(row, column) for column in digits] for row in digits]


def _mixture(weights: Vector, size: int, real: Reals) -> Matrix:
    """U[i][j] adds up the weights of the permutations that take i to j."""
    every = list(zip(weights, itertools.permutations(range(size)), strict=True))
    return [[real.sum(w for w, p in every if p[i] == j) for j in range(size)] for i in range(size)]


def _sizes(n: int, dialect: Dialect) -> tuple[int, ...]:
    """Those of the dialect; or a 2 for each time that n can be halved, and the odd rest unless that is 1."""
    if not dialect.factors:
        halved = (n & -n).bit_length() - 1
        rest = n >> halved
        sizes = (2,) * halved + (() if rest == 1 else (rest,)) or (1,)
    else:
        sizes = tuple(dialect.factors)
    if math.prod(sizes) != n or max(sizes) > 5:
        raise ValueError(f"{n} streams are no product of the factors {sizes}, of 5 at most")
    return sizes
