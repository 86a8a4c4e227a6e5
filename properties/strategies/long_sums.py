"""Sums over thousands of channels or tokens of which few are not 0: any order of float32 is exact to a few units.

Kernels split such sums into chunks and store the partial sums. To add an exact 0 rounds nothing, in any order
(`properties.bounds.arithmetic.addends`), so that what float32 may err by grows with the number of terms that are not 0,
`TERMS`, and not with the length of the sum. These terms have more bits than bfloat16 and float16 have, each by itself
and all the more in sums, and one sign: whatever the chunks, their partial sums have to be rounded to be stored in one.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from mhc_ref import Params
from mhc_ref.block import normalise, squash
from mhc_ref.packing import params_shapes
from mhc_ref.registry import formulas
from properties.core.case import BranchSpec, Case
from properties.core.reads import mapping_shapes
from properties.strategies.draws import among, noise, seeds
from properties.strategies.projected import streams
from properties.strategies.setting import Setting

LENGTHS = (1024, 4096, 8192, 12288, 16384, 20480, 24576, 28672)
"""Numbers K that are summed over; 28672 is 4 streams of 7168 channels."""

_UNIT = 64
"""Channels are a multiple of it, so that the truth needs no more of them than there are terms (`gathered`)."""

CROWDS = (16, 64, 130)
"""Numbers of tokens, made of the few over and over: of a tile or of several, whose products go another way."""
_MOST = 1 << 19
"""The most numbers of a crowd's state beyond the first such number: who sums products one by one holds each of them."""

TERMS = 32
"""How many terms of a sum are not 0."""

BALANCE = 3.0
"""The odds of two gates whose streams nearly cancel."""


@st.composite
def long_sums(draw: DrawFn, setting: Setting, least_n: int = 1) -> Case:
    """x [tokens, n, C], params, and `count`, how many tokens are made of these few: every logit is a sum of n C
    products (C where phi is shared), `TERMS` of them not 0.

    The last channel holds no such term: there the first two streams are weighed by gates of odds `BALANCE` to 1, and
    nearly cancel, so that what is read shows an error of the gates in the last bits of bfloat16 as well.
    """
    dialect, n = setting.dialect, draw(streams(setting, least_n, 4))
    length = draw(among(*LENGTHS))
    groups = n if dialect.shared_projection else 1  # sums of a token that have a channel to themselves
    each = length if dialect.shared_projection else -(-length // n)
    channels = setting.width(-(-each // _UNIT) * _UNIT)
    tokens = min(3, setting.max_tokens)
    rng = np.random.default_rng(draw(seeds))

    inside = rng.choice((channels - 1) * (n // groups), (tokens, groups, TERMS), replace=False)
    stream = inside // (channels - 1) + np.arange(groups)[:, None]  # one of n, or the group's own
    place = inside % (channels - 1)
    sizes = (2 * rng.integers(64, 128, inside.shape) + 1) / 128  # eight bits: exact in every dtype
    signs = rng.choice([-1.0, 1.0], inside.shape)
    x = np.zeros((tokens, n, channels))
    x[np.arange(tokens)[:, None, None], stream, place] = sizes * signs
    dtype = torch.float64
    logits = torch.full((n,), math.log(BALANCE), dtype=dtype) * (-1.0) ** torch.arange(n)
    weights = squash(_activated(logits, setting), dialect.pre, dialect) + dialect.pre_eps
    x[:, 0, -1] = 1.0
    if n > 1 and weights[1]:
        x[:, 1, -1] = -float(weights[0] / weights[1])
    state = torch.tensor(x).to(setting.dtype)

    # phi: as large as makes each sum what it is to be, whatever the norm makes of the state.
    shapes = params_shapes(n, channels, dialect)
    phi = torch.zeros(shapes.phi, dtype=dtype)
    columns = shapes.phi[1]
    entries = torch.tensor((0.5 + rng.random((*inside.shape, columns))) * signs[..., None])
    unit = normalise(state.double(), None, dialect).nan_to_num()
    terms = unit[torch.arange(tokens)[:, None, None], torch.tensor(stream), torch.tensor(place)]
    sums = torch.einsum("tgk,tgkm->tgm", terms, entries)
    wanted = torch.ones(groups, columns, dtype=dtype)
    wanted[:, ::2] *= -1
    if dialect.shared_projection:
        wanted[:, 0] = logits
    else:
        wanted[0, :n] = logits
    rows = torch.tensor(place if dialect.shared_projection else stream * channels + place)
    phi[rows.flatten()] = (entries * (wanted / sums).unsqueeze(2)).flatten(0, 2)
    still = torch.zeros(shapes.bias, dtype=setting.parameter_dtype)
    params = Params(phi.to(still), still, torch.ones(shapes.alpha, dtype=setting.parameter_dtype))
    crowds = [count for count in CROWDS if count * n * channels <= _MOST] or CROWDS[:1]
    return Case(x=state, params=params, count=min(draw(among(*crowds)), setting.max_tokens))


def gathered(case: Case, keeps_zeros: bool) -> tuple[Tensor, Params, Tensor, int]:
    """A state in float64 with the same logits, of few channels: x, params, the channels, and what x was divided by.

    The mean of squares of one 4^j-th of the channels, all that are not 0 among them, is that of all of them where the
    state is divided by 2^j; phi takes that back. Both are exact. A norm that does not keep zeros needs all channels.
    """
    n, channels = case.x.shape[-2:]
    there = (case.x != 0).flatten(0, -2).any(0)
    parts = 1
    while keeps_zeros and channels % (4 * parts) == 0 and channels // (4 * parts) >= int(there.sum()):
        parts *= 4
    keep = torch.argsort(~there, stable=True)[: channels // parts]
    factor = math.isqrt(parts)
    phi = case.params.phi
    rows = phi[keep] if len(phi) == channels else phi.unflatten(0, (n, channels))[:, keep].flatten(0, 1)
    return case.x[..., keep].double() / factor, case.params._replace(phi=rows * factor), keep, factor


def _activated(products: Tensor, setting: Setting) -> Tensor:
    return formulas("dynamic", setting.dialect.dynamic).activate(products, setting.dialect)


@st.composite
def block_long_sums(draw: DrawFn, setting: Setting) -> Case:
    """The same, and a branch of zeros."""
    return draw(long_sums(setting, 2)).with_(branch=BranchSpec("zero"))


TOKENS = (700, 2100, 4200)
"""How many tokens a gradient is summed over."""


@st.composite
def long_token_sums(draw: DrawFn, setting: Setting) -> Case:
    """x [tokens, n, C], params, and `live`, the indices of the few tokens of which anything is used: cotangents of the
    mappings `bars`, and of a block `cotangent`, [live, ...]. The other tokens are equal to one another."""
    dialect, n, dtype = setting.dialect, draw(streams(setting, 1, 4)), setting.parameter_dtype
    channels, tokens = setting.width(draw(among(2, 5))), min(draw(among(*TOKENS)), setting.max_tokens)
    few = min(TERMS, tokens)
    seed = draw(seeds)
    rng = np.random.default_rng(seed)
    live = torch.tensor(np.sort(rng.choice(tokens, few, replace=False)))
    x = torch.ones(tokens, n, channels, dtype=torch.float64)
    x[live] = torch.tensor(noise(seed, few, n, channels)).abs() + 0.25
    shapes = params_shapes(n, channels, dialect)
    weight = torch.tensor(noise(seed + 1, n * channels)).abs() + 0.5 if setting.norm_weight else None

    def of(number: int, *shape: int) -> Tensor:
        return torch.tensor(noise(seed + number, *shape)).to(dtype)

    params = Params(
        0.25 * of(2, *shapes.phi),
        0.5 * of(3, *shapes.bias),
        torch.ones(shapes.alpha, dtype=dtype),
        None if weight is None else weight.to(dtype),
    )
    bars = tuple(of(4 + k, *shape).abs() for k, shape in enumerate(mapping_shapes((few, n, channels), dialect)))
    # Where the output of a branch depends on the state, it is rounded, and so are the cotangents that it sends back.
    branch = BranchSpec("constant", torch.full((channels,), 0.5).to(setting.dtype))
    cotangent = torch.tensor(noise(seed + 7, few, n, channels)).to(setting.dtype)
    return Case(x=x.to(setting.dtype), params=params, live=live, bars=bars, branch=branch, cotangent=cotangent)


@st.composite
def long_channel_sums(draw: DrawFn, setting: Setting) -> Case:
    """x [tokens, n, C], y, h_post and h_res for `pre` and `post`, and cotangents that are 0 but for `TERMS` of
    thousands of channels, the indices `live`: gradients by the mappings are sums over C."""
    n, dtype = draw(streams(setting, 1, 4)), setting.parameter_dtype
    channels, tokens = setting.width(draw(among(700, 2100, 4200, 7168))), min(2, setting.max_tokens)
    seed = draw(seeds)
    live = torch.tensor(np.sort(np.random.default_rng(seed).choice(channels, TERMS, replace=False)))

    def of(number: int, *shape: int) -> Any:
        return torch.tensor(noise(seed + number, *shape))

    bars = tuple(torch.zeros(shape, dtype=setting.dtype) for shape in ((tokens, n, channels), (tokens, channels)))
    for k, bar in enumerate(bars):
        bar[..., live] = (of(1 + k, *bar.shape[:-1], TERMS).abs() + 0.25).to(bar)
    x, y = (of(3, tokens, n, channels).abs() + 0.25), (of(4, tokens, channels).abs() + 0.25)
    return Case(
        x=x.to(setting.dtype),
        y=y.to(setting.dtype),
        h_post=of(5, tokens, n).to(dtype),
        h_res=of(6, tokens, n, n).softmax(-1).to(dtype),
        cotangents=bars,
        live=live,
    )
