"""The root of the mean square in mpmath, which every norm so far divides by."""

from __future__ import annotations

from mhc_ref.dialect import Dialect
from mhc_ref.exact.lists import Real, Vector
from mhc_ref.exact.numbers import Reals


def rms(numbers: Vector, dialect: Dialect, real: Reals) -> Real:
    """sqrt(mean + eps) or sqrt(mean) + eps."""
    mean, eps = real.dot(numbers, numbers) / len(numbers), dialect.rms_eps
    return real.sqrt(mean + eps) if dialect.rms_eps_inside else real.sqrt(mean) + eps


def over_rms(numbers: Vector, dialect: Dialect, real: Reals) -> Vector:
    """numbers / rms; where the rms is exactly 0, they stay 0."""
    root = rms(numbers, dialect, real)
    return [a * 0 if real.value(root) == 0 else a / root for a in numbers]
