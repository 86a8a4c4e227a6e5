"""The root of the mean square in mpmath, which every norm so far divides by."""

from __future__ import annotations

from mhc_ref.dialect import Dialect
from mhc_ref.exact.lists import Real, Vector
from mhc_ref.exact.numbers import Reals


def rms(numbers: Vector, dialect: Dialect, real: Reals) -> Real:
    """sqrt(mean + eps) or sqrt(mean) + eps; by a clamp |x|_2 / sqrt(K), or eps / sqrt(K) where |x|_2 is below eps."""
    count, eps = len(numbers), dialect.rms_eps
    squares = real.dot(numbers, numbers)
    if dialect.rms_eps_by == "clamp":
        floored = real.value(squares) < real.mp.mpf(eps) ** 2
        return real.mp.mpf(eps) / real.mp.sqrt(count) if floored else real.sqrt(squares / count)
    mean = squares / count
    return real.sqrt(mean + eps) if dialect.rms_eps_inside else real.sqrt(mean) + eps


def over_rms(numbers: Vector, dialect: Dialect, real: Reals) -> Vector:
    """numbers / rms, less their mean before where they are centred; where the rms is exactly 0, they stay 0."""
    if dialect.centred:
        mean = sum(numbers[1:], numbers[0]) / len(numbers)
        numbers = [a - mean for a in numbers]
    root = rms(numbers, dialect, real)
    return [a * 0 if real.value(root) == 0 else a / root for a in numbers]
