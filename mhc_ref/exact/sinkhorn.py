"""Sinkhorn in mpmath: alternating normalisation, mHC, arXiv 2512.24880 eq. (8)-(9)."""

from __future__ import annotations

from typing import Any

from mhc_ref.dialect import Axis, Dialect
from mhc_ref.exact.lists import Matrix, Real, Vector, along, flat, rows
from mhc_ref.exact.numbers import Reals


def shape(n: int, dialect: Dialect) -> tuple[int, ...]:
    """One logit an entry of M."""
    return (n, n)


def project(z: Vector, n: int, dialect: Dialect, real: Reals) -> Matrix:
    """The started matrix of Z / temperature after every half-step."""
    with _enough(dialect, real):
        return _iterates(rows(_tempered(z, dialect), n), dialect, real)[-1]


def project_vjp(z: Vector, bar: Matrix, dialect: Dialect, real: Reals) -> Vector:
    """Reverse mode through the unrolled iteration, as in the backward kernel of the paper."""
    with _enough(dialect, real):
        return _tempered(_pulled(rows(_tempered(z, dialect), len(bar)), bar, dialect, real), dialect)


def _tempered(numbers: Vector, dialect: Dialect) -> Vector:
    """Each over the temperature: the logits, and what is pulled back to them."""
    return [number / dialect.temperature for number in numbers]


def _enough(dialect: Dialect, real: Reals) -> Any:
    """The digits that a low temperature takes from a logit, which it makes as much larger."""
    return real.mp.extraprec(max(0, 1 - real.mp.mag(dialect.temperature)))


def _pulled(logits: Matrix, bar: Matrix, dialect: Dialect, real: Reals) -> Vector:
    iterates = _iterates(logits, dialect, real)

    def divided(line: Vector, bar: Vector) -> Vector:
        """m / d(s) with s = sum(m): m_ = bar / d - d'(s) <bar, m> / d^2, where d' is 0 below the clamp."""
        total = real.sum(line)
        denominator = _denominator(total, dialect, real)
        clamped = dialect.denominator == "clamp" and total < dialect.denominator_eps
        share = real.mp.zero if clamped else real.dot(bar, line) / denominator
        return [(b - share) / denominator for b in bar]

    def exponentials(line: Vector, bar: Vector) -> Vector:
        return [real.exp(entry) * b for entry, b in zip(line, bar, strict=True)]

    def shifted(line: Vector, bar: Vector) -> Vector:
        """exp(z - max z): the maximiser also takes what the shift takes from every entry."""
        top = max(line)
        out = exponentials([entry - top for entry in line], bar)
        out[line.index(top)] -= real.sum(out)
        return out

    def shares(line: Vector, bar: Vector) -> Vector:
        weights = real.softmax(line)
        share = real.dot(weights, bar)
        return [weight * (b - share) for weight, b in zip(weights, bar, strict=True)]

    for axis, m in zip(reversed(_half_steps(dialect)), reversed(iterates[:-1]), strict=True):
        bar = along(axis, m, divided, bar)
    if dialect.start == "softmax":
        return flat(along(dialect.start_axis, logits, shares, bar))
    return flat(along(dialect.first_axis, logits, shifted if dialect.iterations else exponentials, bar))


def _iterates(z: Matrix, dialect: Dialect, real: Reals) -> list[Matrix]:
    """The started matrix and the result of every half-step after it."""

    def divide(line: Vector) -> Vector:
        denominator = _denominator(real.sum(line), dialect, real)
        return [entry / denominator for entry in line]

    iterates = [[[entry + dialect.entry_eps for entry in row] for row in _start(z, dialect, real)]]
    for axis in _half_steps(dialect):
        iterates.append(along(axis, iterates[-1], divide))
    return iterates


def _half_steps(dialect: Dialect) -> list[Axis]:
    axes: list[Axis] = [dialect.first_axis, dialect.last_axis] * dialect.iterations
    return axes[1:] if dialect.softmax_is_first_half_step else axes


def _start(z: Matrix, dialect: Dialect, real: Reals) -> Matrix:
    def shifted_exp(line: Vector) -> Vector:
        top = max(line, key=real.value)
        return [real.exp(entry - top) for entry in line]

    if dialect.start == "softmax":
        return along(dialect.start_axis, z, real.softmax)
    if not dialect.iterations:
        return [[real.exp(entry) for entry in row] for row in z]
    return along(dialect.first_axis, z, shifted_exp)


def _denominator(total: Real, dialect: Dialect, real: Reals) -> Real:
    eps = dialect.denominator_eps
    if dialect.denominator == "add":
        return total + eps
    return total if real.value(total) >= eps else real.mp.convert(eps)
