"""Logits of h_res: a base pattern for every token and a few changed entries."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from torch import Tensor

from mhc_ref import Dialect, Params
from properties.core.case import Case
from properties.core.family import guarantees_of, mix_of
from properties.strategies.draws import among, changed, changes, kept, levels, noise, seeds
from properties.strategies.patterns import BEYOND_EXP, PATTERNS
from properties.strategies.setting import Setting


def shift_axis(dialect: Dialect) -> str:
    """The axis along whose lines a constant changes nothing; where there is none, the one that is normalised first."""
    return guarantees_of(dialect).shift or dialect.first_axis


@kept
@st.composite
def logit_matrix(
    draw: DrawFn, n: int, patterns: tuple[str, ...] = tuple(PATTERNS), *, axis: str = "row", stretch: float = 1.0
) -> Any:
    """One n x n matrix of logits as float64 numpy; lines of `axis` are those that "line offset" moves apart."""
    name, drawn = draw(among(*patterns)), (draw(seeds), draw(levels), draw(among(*AMPLITUDES)))
    return changed(patterned(name, n, *drawn, axis, stretch), draw(changes((n, n))))


AMPLITUDES = (0.0, 1.0, 1.0, 1.0)
"""Of the noise of a pattern."""


def patterned(name: str, n: int, seed: int, level: int, amplitude: float, axis: str, stretch: float) -> Any:
    """A pattern of a matrix, see `logit_matrix`."""
    base = PATTERNS[name](n, seed, level, amplitude)
    if name in BEYOND_EXP:
        base = base * stretch
    if name == "line offset" and axis == "column":
        base = base.T.copy()
    return base


def at_temperature(logits: Any, dialect: Dialect) -> Any:
    """Logits that do what these do without a temperature; the same where there is none."""
    temperature = guarantees_of(dialect).temperature
    return logits if temperature == 1 else temperature * logits


def params_at_temperature(params: Params, n: int, dialect: Dialect) -> Params:
    """Parameters whose residual logits are those of these at the temperature of the dialect."""
    temperature = guarantees_of(dialect).temperature
    if temperature == 1:
        return params
    bias = torch.cat([params.bias[: 2 * n], temperature * params.bias[2 * n :]])
    return params._replace(bias=bias, alpha=torch.cat([params.alpha[:2], temperature * params.alpha[2:]]))


SIZES = (0, 0.5, 1, 2, 4, 8, 16, 40)
"""Of the noise of logits that are no matrix."""


@kept
def token_logits(setting: Setting, n: int, patterns: tuple[str, ...] = tuple(PATTERNS)) -> SearchStrategy[Any]:
    """The logits of one token as float64 numpy, of the shape that the mix of the dialect says: patterns of a matrix, or
    noise of any size with a few changed entries; and what the mix adds to them."""
    dialect, mix = setting.dialect, mix_of(setting.dialect)
    shape = mix.shape(n, dialect)
    if shape == (n, n):
        usual = logit_matrix(n, mix.patterns(dialect, patterns), axis=shift_axis(dialect), stretch=setting.stretch)
        if guarantees_of(dialect).temperature != 1:
            usual = usual.map(partial(at_temperature, dialect=dialect))
    elif 0 in shape:
        usual = st.just(np.zeros(shape))
    else:
        usual = st.tuples(seeds, levels, changes(shape)).map(
            lambda drawn: changed(noise(drawn[0], *shape) * SIZES[drawn[1]], drawn[2])
        )
    telling = mix.telling(n, dialect)
    return usual if telling is None else usual | telling


@kept
@st.composite
def logits_of(
    draw: DrawFn,
    setting: Setting,
    n: int,
    *,
    least: int = 1,
    most: int = 5,
    patterns: tuple[str, ...] = tuple(PATTERNS),
) -> Tensor:
    """Logits [tokens, *s], s the shape that the mix of the dialect says, in the dtype of parameters."""
    most = min(most, setting.max_tokens)
    tokens = draw(st.lists(token_logits(setting, n, patterns), min_size=min(least, most), max_size=most))
    shape = mix_of(setting.dialect).shape(n, setting.dialect)
    every = np.array(tokens).reshape(len(tokens), -1)
    several = setting.crowded(every)
    return torch.tensor(several.reshape(len(several), *shape), dtype=setting.parameter_dtype)


@kept
def streams(setting: Setting, least: int = 1, most: int = 8) -> SearchStrategy[int]:
    """An accepted n, small ones first but n = 3, the smallest with a non-symmetric doubly stochastic matrix, not
    rare."""
    accepted = [n for n in setting.streams if least <= n <= most] or [min(setting.streams)]
    favoured = [n for n in accepted if n in (3, 4)]
    return among(*sorted(accepted), *favoured)


@st.composite
def projection_cases(
    draw: DrawFn,
    setting: Setting,
    *,
    least_n: int = 1,
    most_n: int = 8,
    patterns: tuple[str, ...] = tuple(PATTERNS),
    most: int = 5,
) -> Case:
    """logits [tokens, n, n]."""
    n = draw(streams(setting, least_n, most_n))
    return Case(logits=draw(logits_of(setting, n, most=most, patterns=patterns)))
