"""Products of residual operators and their gains, in exact rational arithmetic.

A stack is a sequence of operators, the first to be applied first: the composite is A_L ... A_1.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, TypeAlias

from mpmath import MPContext

Matrix: TypeAlias = tuple[tuple[Fraction, ...], ...]
Integers: TypeAlias = list[list[int]]

DIGITS = 50
"""Decimal digits of what is irrational (the spectral norm) or has no short decimal expansion."""


def composite(operators: Sequence[Matrix]) -> Matrix:
    """A_L ... A_1, exactly. Equal neighbours are multiplied by repeated squaring."""
    product, total = over_one_denominator(operators)
    return tuple(tuple(Fraction(entry, total) for entry in row) for row in product)


def over_one_denominator(operators: Sequence[Matrix]) -> tuple[Integers, int]:
    """The composite as integers over a denominator, with which they may share factors."""
    scale = denominator(operators)
    product = identity(len(operators[0]))
    for operator, group in itertools.groupby(operators):
        product = multiply(power(scaled(operator, scale), sum(1 for _ in group)), product)
    return product, scale ** len(operators)


def denominator(operators: Sequence[Matrix]) -> int:
    """The least common denominator of all entries."""
    return math.lcm(*{entry.denominator for operator in set(operators) for row in operator for entry in row})


def scaled(operator: Matrix, scale: int) -> Integers:
    """scale * A, for a scale that clears every denominator."""
    return [[entry.numerator * (scale // entry.denominator) for entry in row] for row in operator]


def identity(n: int) -> Integers:
    return [[int(i == j) for j in range(n)] for i in range(n)]


def multiply(a: Integers, b: Integers) -> Integers:
    columns = list(zip(*b, strict=True))
    return [[sum(map(int.__mul__, row, column)) for column in columns] for row in a]


def power(a: Integers, exponent: int) -> Integers:
    result = identity(len(a))
    while exponent:
        if exponent & 1:
            result = multiply(a, result)
        a, exponent = multiply(a, a), exponent >> 1
    return result


def reaches(p: Sequence[Sequence[Any]], gain: str, threshold: Any, direction: str) -> bool:
    """Whether the gain of P is >= threshold ("explode") or <= threshold ("vanish"), decided exactly.

    The spectral norm is never computed: it is >= t where t^2 I - P^T P is not positive definite, and <= t where that
    matrix is positive semidefinite.
    """
    if gain == "spectral":
        n = len(p)
        gram = [
            [threshold * threshold * (i == j) - sum(row[i] * row[j] for row in p) for j in range(n)] for i in range(n)
        ]
        return definiteness(gram) <= 0 if direction == "explode" else definiteness(gram) >= 0
    value = line_gain(p, gain)
    return value >= threshold if direction == "explode" else value <= threshold


def composite_reaches(operators: Sequence[Matrix], gain: str, threshold: Fraction, direction: str) -> bool:
    """Whether the gain of the composite reaches a threshold, of its numerators and the threshold times as much: to
    cancel a fraction of a million digits takes far longer than to compute it."""
    product, total = over_one_denominator(operators)
    return reaches(product, gain, threshold * total, direction)


def measure(gain: str) -> str:
    """The norm behind a gain. What stays linear carries activations and gradients as its absolute row sums say."""
    return "forward" if gain in ("activation", "gradient", "nonfinite") else gain


def line_gain(p: Sequence[Sequence[Any]], gain: str) -> Any:
    """forward: max_i sum_j |P_ij|; backward: max_j sum_i |P_ij|; signed: max_i |sum_j P_ij|."""
    if gain == "signed":
        return max(abs(sum(row)) for row in p)
    lines = p if measure(gain) == "forward" else list(zip(*p, strict=True))
    return max(sum(map(abs, line)) for line in lines)


def definiteness(symmetric: Sequence[Sequence[Any]]) -> int:
    """1 for a positive definite matrix, 0 for a singular semidefinite one, -1 otherwise; by exact elimination.

    Of integers or fractions, without a division: every Schur complement stands multiplied by its positive pivot.
    """
    rows, singular = [list(row) for row in symmetric], False
    while rows:
        pivot, *line = rows[0]
        if pivot < 0 or (pivot == 0 and any(line)):
            return -1
        singular |= pivot == 0
        factor = pivot or 1
        rows = [
            [entry * factor - row[0] * other for entry, other in zip(rest, line, strict=True)]
            for row in rows[1:]
            for rest in [row[1:]]
        ]
    return 0 if singular else 1


def exact_gain(p: Matrix, gain: str) -> Any:
    """The gain as an mpmath number of `DIGITS` digits, from the exact composite."""
    mp = context()
    if gain != "spectral":
        value = Fraction(line_gain(p, gain))
        return mp.mpf(value.numerator) / value.denominator
    n = len(p)
    gram = [[sum((row[i] * row[j] for row in p), Fraction(0)) for j in range(n)] for i in range(n)]
    entries = mp.matrix([[mp.mpf(entry.numerator) / entry.denominator for entry in row] for row in gram])
    return mp.sqrt(max(mp.eigsy(entries, eigvals_only=True)))


class _Contexts(threading.local):
    """Of each thread the mpmath context of each number of digits: to make one takes two milliseconds."""

    def __init__(self) -> None:
        self.made: dict[int, Any] = {}


_CONTEXTS = _Contexts()


def context(digits: int = DIGITS) -> Any:
    """An mpmath context that nothing else uses, at so many digits and a guard."""
    mp = _CONTEXTS.made.get(digits)
    if mp is None:
        mp = _CONTEXTS.made[digits] = MPContext()
    mp.dps = digits + 10  # each time: an interruption may have come while a function worked with more
    return mp


def number(exact: Fraction) -> Any:
    """The fraction in mpmath."""
    return context().mpf(exact.numerator) / exact.denominator


def fraction(number: Any) -> Fraction:
    """The value of an mpf, exactly."""
    sign, mantissa, exponent, _ = number._mpf_
    return (-1) ** int(sign) * Fraction(int(mantissa)) * Fraction(2) ** int(exponent)


def decimal(number: Fraction, digits: int = 30) -> str:
    """The number in decimal: all of it where it ends within `digits` significant digits, otherwise rounded to them."""
    mp = context(digits)
    return shown(mp.mpf(number.numerator) / number.denominator, mp, digits)


def powered(base: Fraction, exponent: int, digits: int = 12) -> str:
    """base^exponent in decimal. Not by way of the exact power, which may have millions of digits."""
    mp = context()
    return shown((mp.mpf(base.numerator) / base.denominator) ** exponent, mp, digits)


def shown(value: Any, mp: Any, digits: int = 30) -> str:
    text = mp.nstr(value, digits, strip_zeros=True, min_fixed=-6, max_fixed=digits)
    return text.removesuffix(".0")
