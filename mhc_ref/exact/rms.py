"""The root of the mean square in mpmath, which every norm so far divides by."""

from __future__ import annotations

from mhc_ref.dialect import Dialect
from mhc_ref.exact.lists import Vector
from mhc_ref.exact.numbers import Reals


def over_rms(numbers: Vector, dialect: Dialect, real: Reals) -> Vector:
    """numbers / rms, rms = sqrt(mean + eps) or sqrt(mean) + eps; where the rms is exactly 0, they stay 0."""
    mean, eps = real.dot(numbers, numbers) / len(numbers), dialect.rms_eps
    rms = real.sqrt(mean + eps) if dialect.rms_eps_inside else real.sqrt(mean) + eps
    return [a * 0 if real.value(rms) == 0 else a / rms for a in numbers]
