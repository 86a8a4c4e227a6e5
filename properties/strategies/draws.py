"""What every strategy is made of: kept strategies, readable numbers, noise of a seed, and a few changed entries."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

P = ParamSpec("P")
S = TypeVar("S")


def kept(make: Callable[P, S]) -> Callable[P, S]:
    """`make`, called once for its arguments, which are few: shapes, settings, tuples of choices.

    To build a strategy and to let Hypothesis validate it costs as much as a draw from it.
    """
    remembered: Any = functools.lru_cache(maxsize=1024, typed=True)(make)
    return remembered


@kept
def among(*values: Any) -> SearchStrategy[Any]:
    """One of these values, the first the simplest."""
    return st.sampled_from(values)


eighths = st.integers(-48, 48).map(lambda k: k / 8)
"""Multiples of 1/8 within 6: exact in every dtype, and 0 comes first."""

seeds = st.integers(0, 2**20 - 1)

levels = st.integers(0, 7)
"""How far a pattern goes."""


@kept
def as_deep_as(most: int) -> SearchStrategy[int]:
    """A number of layers, half of the time the largest; the fewest are the simplest."""
    return st.sampled_from((*range(1, most + 1), *(most,) * most))


def noise(seed: int, *shape: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Standard normal numbers with full mantissas, the same for the same seed."""
    return np.random.default_rng(seed).standard_normal(shape)


def coarse(seed: int, *shape: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Small integers, readable and exact in every dtype."""
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(np.float64)


@kept
def changes(shape: tuple[int, ...], most: int = 3) -> SearchStrategy[list[tuple[tuple[int, ...], float]]]:
    """A few entries of a tensor of this shape with the values they get."""
    return st.lists(st.tuples(st.tuples(*(st.integers(0, size - 1) for size in shape)), eighths), max_size=most)


def changed(
    base: np.ndarray[Any, np.dtype[np.float64]], entries: list[tuple[tuple[int, ...], float]]
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The base with those entries replaced."""
    base = base.copy()
    for index, value in entries:
        base[index] = value
    return base
