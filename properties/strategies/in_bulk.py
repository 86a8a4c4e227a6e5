"""Thousands of tokens at once: what the strategies draw one by one through Hypothesis, drawn from a seed.

Hypothesis takes a millisecond or more for a token, which is most of a cheap law's time. Where many cases are judged in
one pass, their first one is drawn by the law's own strategy and the others are tokens from here: of the same kinds,
patterns, sizes and changed entries, and made by the same functions. They do not shrink; what fails is shrunk in
Hypothesis's own search.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from properties.core.family import guarantees_of, mix_of
from properties.strategies.draws import changed, noise
from properties.strategies.patterns import PATTERNS
from properties.strategies.projected import AMPLITUDES, SIZES, at_temperature, patterned, shift_axis
from properties.strategies.setting import Setting
from properties.strategies.tokens import KINDS, made, scales_of


def _seed(dice: random.Random) -> int:
    return dice.randrange(2**20)


def _changes(dice: random.Random, shape: tuple[int, ...], most: int) -> list[tuple[tuple[int, ...], float]]:
    """As `draws.changes`."""
    count = dice.randint(0, most)
    return [(tuple(dice.randrange(size) for size in shape), dice.randint(-48, 48) / 8) for _ in range(count)]


def bulk_states(
    dice: random.Random, setting: Setting, n: int, channels: int, count: int, scales: tuple[float, ...] = ()
) -> Tensor:
    """So many tokens [count, n, C] in the dtype of the state, as `states_of` draws them."""
    sizes, least = scales_of(setting, scales), setting.least_scale
    tokens = [
        made(
            dice.choice(KINDS),
            _seed(dice),
            _changes(dice, (n, channels), 2),
            dice.choice(sizes),
            n,
            channels,
            least,
        )
        for _ in range(count)
    ]
    return torch.tensor(np.array(tokens).reshape(count, n, channels)).to(setting.dtype)


def bulk_logits(dice: random.Random, setting: Setting, n: int, count: int) -> Tensor:
    """So many tokens of logits [count, *s] in the dtype of parameters, as `logits_of` draws them, but for those that a
    mix adds by a strategy of its own."""
    tokens = np.array([_logits(dice, setting, n) for _ in range(count)])
    shape = mix_of(setting.dialect).shape(n, setting.dialect)
    return torch.tensor(tokens.reshape(count, *shape), dtype=setting.parameter_dtype)


def _logits(dice: random.Random, setting: Setting, n: int) -> Any:
    dialect, mix = setting.dialect, mix_of(setting.dialect)
    shape = mix.shape(n, dialect)
    if 0 in shape:
        return np.zeros(shape)
    if shape != (n, n):
        return changed(noise(_seed(dice), *shape) * dice.choice(SIZES), _changes(dice, shape, 3))
    name, axis = dice.choice(mix.patterns(dialect, tuple(PATTERNS))), shift_axis(dialect)
    base = patterned(name, n, _seed(dice), dice.randrange(8), dice.choice(AMPLITUDES), axis, setting.stretch)
    found = changed(base, _changes(dice, shape, 3))
    return at_temperature(found, dialect) if guarantees_of(dialect).temperature != 1 else found


def bulk_noise(
    dice: random.Random, count: int, *shape: int, dtype: torch.dtype, sizes: tuple[float, ...] = (1.0,)
) -> Tensor:
    """Normal numbers [count, *shape], each token of one of the sizes."""
    scale = np.array([dice.choice(sizes) for _ in range(count)]).reshape(count, *[1] * len(shape))
    return torch.tensor(noise(_seed(dice), count, *shape) * scale).to(dtype)
