"""Base patterns of a matrix of logits, from readable to wild: the inputs where mistakes of a projection show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from properties.strategies.draws import coarse, noise

Pattern = Callable[[int, int, int, float], "np.ndarray[Any, np.dtype[np.float64]]"]
"""(n, seed, level 0..7, amplitude of the noise) -> n x n; without noise a pattern is what a person would write down."""


def _zero(n: int, seed: int, level: int, noisy: float) -> Any:
    return np.zeros((n, n))


def _integers(n: int, seed: int, level: int, noisy: float) -> Any:
    """Small integers, few of them at low levels."""
    count = (1, 2, 3, 5, 8, 13, 21, n * n)[level]
    kept = np.random.default_rng(seed).permutation(n * n) < count
    return coarse(seed, n, n) * kept.reshape(n, n)


def _normal(n: int, seed: int, level: int, noisy: float) -> Any:
    return noise(seed, n, n) * (0.25, 0.5, 1, 2, 3, 4, 6, 8)[level]


def _near_permutation(n: int, seed: int, level: int, noisy: float) -> Any:
    rng = np.random.default_rng(seed)
    permutation = np.eye(n)[rng.permutation(n)]
    return permutation * (2, 4, 6, 8, 10, 14, 20, 28)[level] + rng.standard_normal((n, n)) * 0.5 * noisy


def _starved_row(n: int, seed: int, level: int, noisy: float) -> Any:
    matrix = noise(seed, n, n) * noisy
    matrix[seed % n] -= 8 * (level + 1)
    return matrix


def _starved_column(n: int, seed: int, level: int, noisy: float) -> Any:
    return _starved_row(n, seed, level, noisy).T.copy()


def _triangular(n: int, seed: int, level: int, noisy: float) -> Any:
    """Support without total support: convergence like 1/t."""
    return noise(seed, n, n) * 0.5 * noisy - np.triu(np.ones((n, n)), 1) * 4 * (level + 1)


def _shared_column(n: int, seed: int, level: int, noisy: float) -> Any:
    """Support without a perfect matching: all rows but one live on one column."""
    matrix = noise(seed, n, n) * 0.5 * noisy
    matrix[1:, 1:] -= 4 * (level + 1)
    return matrix


def _offset(n: int, seed: int, level: int, noisy: float) -> Any:
    """A common offset far beyond the range of exp: only a subtracted maximum survives it."""
    return noise(seed, n, n) * 2 * noisy + (50, 95, 120, 300, -95, -120, 750, -800)[level]


def _line_offset(n: int, seed: int, level: int, noisy: float) -> Any:
    """Rows that lie far apart: a maximum over the whole matrix loses all but one of them."""
    rows = np.random.default_rng(seed + 1).permutation(n)[:, None] * (60.0, 90, 110, 150, 200, 300, -110, -200)[level]
    return noise(seed, n, n) * 2 * noisy + rows


def _wild(n: int, seed: int, level: int, noisy: float) -> Any:
    return noise(seed, n, n) * (10, 15, 20, 25, 30, 40, 60, 100)[level]


PATTERNS: dict[str, Pattern] = {
    "zero": _zero,
    "integers": _integers,
    "normal": _normal,
    "near permutation": _near_permutation,
    "starved row": _starved_row,
    "starved column": _starved_column,
    "triangular": _triangular,
    "shared column": _shared_column,
    "offset": _offset,
    "line offset": _line_offset,
    "wild": _wild,
}
"""Base patterns of a logit matrix, from readable to wild."""

TAME = ("zero", "integers", "normal", "near permutation")
MODERATE = (
    "zero",
    "integers",
    "normal",
    "near permutation",
    "starved row",
    "starved column",
    "triangular",
    "shared column",
)


BEYOND_EXP = ("offset", "line offset")
"""Patterns beyond the range of exp, stretched for float64, where that range is eight times as wide."""
