"""Thousands of tokens at once: what the strategies draw one by one through Hypothesis, drawn from a seed.

Hypothesis takes a millisecond or more for a token, which is most of a cheap law's time. Where many cases are judged in
one pass, their first one is drawn by the law's own strategy and the others are tokens from here: of the same kinds,
patterns, sizes and changed entries, and made by the same functions. They do not shrink; what fails is shrunk in
Hypothesis's own search.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from properties.core.family import guarantees_of, mix_of
from properties.strategies.draws import changed, noise
from properties.strategies.patterns import PATTERNS
from properties.strategies.projected import AMPLITUDES, SIZES, at_temperature, patterned, shift_axis
from properties.strategies.setting import Setting
from properties.strategies.tokens import KINDS, made, offsets_of, scales_of

Dice = Callable[[], float]
"""A number from 0 on and below 1."""


def _one(dice: Dice, values: Sequence[Any]) -> Any:
    """One of some values; `random.choice` takes three times as long."""
    return values[int(dice() * len(values))]


def _seed(dice: Dice) -> int:
    return int(dice() * 2**20)


def _changes(dice: Dice, shape: tuple[int, ...], most: int) -> list[tuple[tuple[int, ...], float]]:
    """As `draws.changes`."""
    count = int(dice() * (most + 1))
    return [(tuple(int(dice() * size) for size in shape), int(dice() * 97 - 48) / 8) for _ in range(count)]


def bulk_states(
    dice: random.Random, setting: Setting, n: int, channels: int, count: int, scales: tuple[float, ...] = ()
) -> Tensor:
    """So many tokens [count, n, C] in the dtype of the state, as `states_of` draws them."""
    sizes, least, shape, draw = scales_of(setting, scales), setting.least_scale, (n, channels), dice.random
    tokens, offsets = np.empty((count, n, channels)), offsets_of(setting)
    for k in range(count):
        kind, seed, entries = _one(draw, KINDS), _seed(draw), _changes(draw, shape, 2)
        size = _one(draw, sizes)
        tokens[k] = made(kind, seed, entries, size, n, channels, least)
        if len(offsets) > 1:
            tokens[k] += _one(draw, offsets) * size
    return torch.from_numpy(tokens).to(setting.dtype)


def bulk_logits(dice: random.Random, setting: Setting, n: int, count: int) -> Tensor:
    """So many tokens of logits [count, *s] in the dtype of parameters, as `logits_of` draws them, but for those that a
    mix adds by a strategy of its own."""
    dialect, mix, draw = setting.dialect, mix_of(setting.dialect), dice.random
    shape = mix.shape(n, dialect)
    tokens = np.zeros((count, *shape))
    if 0 not in shape:
        make = _of_patterns(draw, setting, n) if shape == (n, n) else _of_noise(draw, shape)
        for k in range(count):
            tokens[k] = changed(make(), _changes(draw, shape, 3))
    if guarantees_of(dialect).temperature != 1 and shape == (n, n):
        tokens = at_temperature(tokens, dialect)
    return torch.from_numpy(tokens).to(setting.parameter_dtype)


def _of_noise(dice: Dice, shape: tuple[int, ...]) -> Callable[[], Any]:
    return lambda: noise(_seed(dice), *shape) * _one(dice, SIZES)


def _of_patterns(dice: Dice, setting: Setting, n: int) -> Callable[[], Any]:
    names = mix_of(setting.dialect).patterns(setting.dialect, tuple(PATTERNS))
    axis, stretch = shift_axis(setting.dialect), setting.stretch

    def one() -> Any:
        name, seed, level = _one(dice, names), _seed(dice), int(dice() * 8)
        return patterned(name, n, seed, level, _one(dice, AMPLITUDES), axis, stretch)

    return one


def bulk_noise(
    dice: random.Random, count: int, *shape: int, dtype: torch.dtype, sizes: tuple[float, ...] = (1.0,)
) -> Tensor:
    """Normal numbers [count, *shape], each token of one of the sizes."""
    scale = np.array([_one(dice.random, sizes) for _ in range(count)]).reshape(count, *[1] * len(shape))
    return torch.tensor(noise(_seed(dice.random), count, *shape) * scale).to(dtype)
