"""Sizes, and whole inputs of a block or of its parts: what the laws draw."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from torch import Tensor

from mhc_ref.packing import residual_size
from properties.core.case import Case
from properties.core.norms import norm_of
from properties.core.slips import clamps_norm
from properties.core.truth import wide
from properties.strategies.coefficients import branch_of, params_of, with_tails
from properties.strategies.draws import among, kept, noise, seeds
from properties.strategies.projected import streams
from properties.strategies.setting import Setting
from properties.strategies.tokens import states_of

CHANNELS = (1, 2, 3, 7, 9, 17, 33, 67, 259)
"""Widths off the powers of two, where tails and tiles go wrong; tiles of 64 and of 256 channels are met in practice."""


def arrangeable(setting: Setting) -> int:
    """Six tokens, or the even number below that a call takes, or one: to be arranged on several axes; those of a crowd
    where there is one."""
    return setting.count(6) if setting.crowd else min(6, setting.max_tokens) // 2 * 2 or 1


def sequenced(setting: Setting, n: int) -> SearchStrategy[int]:
    """Six tokens, or two sequences of as many tokens as there are streams: there a layout told by its shape is told
    wrongly."""
    most = 0 if setting.crowd else setting.max_tokens
    return among(*dict.fromkeys((arrangeable(setting), 2 * n if 2 * n <= most else arrangeable(setting))))


def on_two_axes(count: int) -> tuple[int, int]:
    """The shape of that many tokens, an even number or one, on two axes."""
    return (2, count // 2) if count > 1 else (1, 1)


def width_among(setting: Setting, *channels: int) -> SearchStrategy[int]:
    """One of these widths C, or the next that is accepted; that of a crowd where there is one."""
    if setting.crowd and setting.crowd.channels:
        return among(setting.width(setting.crowd.channels))
    if setting.channel_multiple == 1:
        return among(*channels)
    return among(*dict.fromkeys(map(setting.width, channels)))  # most of them are the smallest: once is enough


def layers_among(setting: Setting, least: int, most: int) -> SearchStrategy[int]:
    """So many layers, the fewest first; those of a crowd where there is one."""
    return st.just(setting.depth(0)) if setting.depth(0) else st.integers(least, most)


def channel_count(setting: Setting, most: int = 259) -> SearchStrategy[int]:
    """A width C."""
    return width_among(setting, *(c for c in CHANNELS if c <= most))


def projected_width(setting: Setting, n: int) -> SearchStrategy[int]:
    """A width C of a state that is projected: small, above one tile, or the one for which phi is square and its
    transpose has its shape."""
    square = [(2 * n + size) // n] if (size := residual_size(n, setting.dialect)) % n == 0 else []
    return width_among(setting, *(c for c in CHANNELS if c <= 17), *(c for c in square if c <= 33), 67)


@st.composite
def coefficient_cases(
    draw: DrawFn, setting: Setting, *, least_n: int = 1, most: int = 4, tails: bool = False, **options: Any
) -> Case:
    """x [tokens, n, C] and params; with `tails` some of their logits lie far from 0."""
    n = draw(streams(setting, least_n))
    channels = draw(projected_width(setting, n))
    scales = options.pop("scales", ())
    x = draw(states_of(setting, n, channels, most=most, scales=scales))
    params = draw(params_of(setting, n, channels, **options))
    return Case(x=x, params=draw(with_tails(setting, params, n)) if tails else params)


@st.composite
def silenced(draw: DrawFn, setting: Setting, x: Tensor) -> Tensor:
    """x [tokens, n, C], or, where the norm clamps, x with one of the norms of its first token at 0, or at half the eps.

    There the derivative is the reciprocal of the clamp, 1e12 beside streams whose own is of order 1. Nothing but a
    stream of zeros shows that a backward pass has it, and nothing but a small one that it has no more than it.
    """
    if setting.least_scale or not clamps_norm(setting.dialect):
        return x
    stream = draw(st.sampled_from((None, None, *range(x.shape[1]))))
    if stream is None:
        return x
    x = x.clone()
    place = (slice(0, 1), stream if norm_of(setting.dialect).OVER == (-1,) else slice(None))
    size = float(wide(x[place]).norm())
    share = draw(st.sampled_from((0.0, 0.5)))
    x[place] = (wide(x[place]) * (share * setting.dialect.rms_eps / size if size else 0.0)).to(x.dtype)
    return x


@st.composite
def block_cases(
    draw: DrawFn, setting: Setting, *, least_n: int = 1, most: int = 4, kinds: tuple[str, ...] = (), **options: Any
) -> Case:
    """x, params and a branch."""
    case = draw(coefficient_cases(setting, least_n=least_n, most=most, **options))
    branch = draw(branch_of(setting, case.x.shape[-1], kinds)) if kinds else draw(branch_of(setting, case.x.shape[-1]))
    return case.with_(branch=branch)


@kept
def permutations_of(n: int) -> SearchStrategy[tuple[int, ...]]:
    """A permutation of n streams, the identity first."""
    if n <= 4:
        return st.sampled_from(list(itertools.permutations(range(n))))
    return st.permutations(list(range(n))).map(tuple)


@kept
@st.composite
def cotangent_for(draw: DrawFn, shape: tuple[int, ...], dtype: torch.dtype, far: int = 0) -> Tensor:
    """A random cotangent; never constant, since the gradient of a sum of a stochastic matrix is exactly 0.

    `far`: it may be larger or smaller by a power of two, 2^far or 2^-far at most, see `far_beside`.
    """
    dense = draw(st.booleans())
    seed = draw(seeds)
    power = draw(among(*dict.fromkeys((0, min(20, far), -min(30, far), far, -far)))) if far else 0
    if dense:
        return torch.tensor(noise(seed, *shape) * 2.0**power).to(dtype)
    flat = torch.zeros(math.prod(shape), dtype=torch.float64)
    if flat.numel():
        flat[seed % flat.numel()] = 2.0**power
    return flat.reshape(shape).to(dtype)


def far_beside(dtype: torch.dtype, *states: Tensor) -> int:
    """How far from 1, as a power of two, a cotangent may lie whose pullback multiplies by these states.

    A loss may be scaled by 2^16, a mean is over 10^7 numbers, and a backward pass by hand squares what it likes: 2^75
    squared is beyond float32, and 2^-75 squared below it. A norm divides by the cube of the root mean square. So a
    state far from 1 leaves less room within the range of the compute dtype, and gets cotangents of order 1.
    """
    sizes = torch.cat([one.detach().double().abs().flatten(1).amax(1) for one in states] or [torch.ones(1).double()])
    sizes = sizes[sizes > 0]
    if bool((sizes < 2.0**-10).any()) or bool((sizes > 2.0**10).any()):
        return 0
    return {torch.float16: 8, torch.float64: 480}.get(dtype, 75)
