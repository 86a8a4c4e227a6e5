"""States: tokens whose streams differ, cancel, or lie orders of magnitude apart, at every scale of their dtype."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from properties.strategies.draws import among, changed, changes, coarse, kept, noise, seeds
from properties.strategies.setting import Setting

KINDS = ("ramp", "one-hot", "integers", "normal", "normal", "cancelling", "uneven", "identical")
"""What a token is like, the simplest first."""


def _scales(dtype: torch.dtype) -> tuple[float, ...]:
    """Sizes of a state whose squares the compute dtype represents, 1 first."""
    if dtype == torch.float16:
        return (1.0, 1e-3, 100.0, 0.03)
    return (1.0, 1e-3, 1e3, 1e-6, 30.0, 1e6, 1e-4, 1e-9, 1e-12, 1e12, 1e-30, 1e18)


def offsets_of(setting: Setting) -> tuple[float, ...]:
    """What is added to all numbers of a token, in units of its scale: nothing, but where the norm subtracts a mean.

    A mean that is far larger than what is left of a state shows whatever loses digits or sums with it.
    """
    if not setting.dialect.centred:
        return (0.0,)
    return (0.0, 8.0, -64.0) if setting.dtype == torch.float16 else (0.0, 8.0, -64.0, 1000.0)


@kept
@st.composite
def token_state(
    draw: DrawFn,
    n: int,
    channels: int,
    dtype: torch.dtype,
    scales: tuple[float, ...],
    least: float = 0.0,
    offsets: tuple[float, ...] = (0.0,),
) -> Any:
    """One token [n, C]: distinct streams unless it says otherwise, no stream of the order of less than `least`."""
    kind, seed = draw(among(*KINDS)), draw(seeds)
    entries, scale = draw(changes((n, channels), most=2)), draw(among(*scales))
    state = made(kind, seed, entries, scale, n, channels, least)
    return state if len(offsets) == 1 else state + draw(among(*offsets)) * scale


def made(
    kind: str,
    seed: int,
    entries: list[tuple[tuple[int, ...], float]],
    scale: float,
    n: int,
    channels: int,
    least: float = 0.0,
) -> Any:
    """A token [n, C] of one of the `KINDS`, with a few entries changed before it is scaled."""
    if kind == "ramp":
        base = np.arange(1.0, n + 1)[:, None] * np.ones((1, channels)) + np.arange(channels) * 0.25
    elif kind == "one-hot":
        base = np.zeros((n, channels))
        base[seed % n, seed // 8 % channels] = 1.0
    elif kind == "integers":
        base = coarse(seed, n, channels)
    elif kind == "cancelling":
        base = np.ones((n, channels)) * (1 + 0.01 * noise(seed, n, channels)) * (-1.0) ** np.arange(n)[:, None]
    elif kind == "uneven":
        base = noise(seed, n, channels) * 10.0 ** (-np.arange(n)[:, None])
    elif kind == "identical":
        base = np.repeat(noise(seed, 1, channels), n, 0)
    else:
        base = noise(seed, n, channels)
    state = changed(base, entries)
    if kind == "uneven" and least:  # n = 8 goes down to 1e-7 of the scale
        state = state * np.maximum(1.0, least / (scale * 10.0 ** (-np.arange(n)[:, None])))
    return state * scale


def scales_of(setting: Setting, scales: tuple[float, ...] = ()) -> tuple[float, ...]:
    """Those of some sizes, or of the usual ones, that a state may have."""
    most = 100.0 if setting.dtype == torch.float16 else math.inf
    return tuple(s for s in scales or _scales(setting.dtype) if setting.least_scale <= s <= most) or (1.0,)


@kept
@st.composite
def states_of(
    draw: DrawFn,
    setting: Setting,
    n: int,
    channels: int,
    *,
    least: int = 1,
    most: int = 5,
    scales: tuple[float, ...] = (),
) -> Tensor:
    """[tokens, n, C] in the dtype of the state."""
    sizes, offsets = scales_of(setting, scales), offsets_of(setting)
    token = token_state(n, channels, setting.dtype, sizes, setting.least_scale, offsets)
    tokens = draw(st.lists(token, min_size=least, max_size=min(most, setting.max_tokens)))
    return torch.tensor(setting.crowded(np.array(tokens).reshape(-1, n, channels))).to(setting.dtype)
