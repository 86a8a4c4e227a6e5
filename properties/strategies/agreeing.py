"""States and parameters of any width and depth whose terms agree in sign, so that no sum of them cancels.

A derived bound of a sum of K products is gamma_K sum |x||phi|. With phi ~ N(0, 1/K) the terms cancel: |sum| is of order
1, sum |x||phi| of order sqrt(K), and from a thousand terms on the bound of h_res is above h_res itself. Here channel c
has one sign s_c, the same in every state and in every column of phi up to the signs of the token and of the column, so
that sum |x||phi| = |logit|: the error is gamma_K of the number itself, .002 of it in float32 at K = 32768.

What a block makes of such a state is one again: gates and h_res are not negative, and a branch that keeps the sign of
what it reads gives s_c back. So nothing cancels in a stack either, whose error grows by what alpha lets a layer's
logits see of it: with `STEADY` it stays finite for 64 layers.

Tokens stay apart at every width. Independent terms of one sign would average out: every token would have the logits of
every other from a few hundred channels on. So a token weighs classes of channels (c mod 4) and streams by factors of
its own, and so does a column of phi. A state is a prefix of the one of more channels or more tokens with the same seed.

`columns` channels of phi are not 0 where it is given, the last ones and others spread over the width: a sum of few
terms and many zeros has the roundings of the few, so that its bound is sharp at any width, and each term is a large
share of the logit: what leaves out one channel of 8192 is seen.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mhc_ref import Dialect, Params
from mhc_ref.packing import params_shapes, residual_size
from properties.core.family import guarantees_of, mix_of
from properties.strategies.draws import noise

STEADY = 0.02
"""The `reach` at which the bound of a stack of 64 layers is still a statement in float32."""

_CLASSES = 4
_WIDEST = 2**17

_SIGNS = np.where(np.random.default_rng(0).random(_WIDEST) < 0.5, -1.0, 1.0)


def agreeing_state(seed: int, tokens: int, n: int, channels: int, dtype: torch.dtype) -> Tensor:
    """x [tokens, n, C] of order 1, of channel c the sign s_c times that of the token; streams and tokens differ.

    One of fewer tokens, or of fewer channels, is a prefix of it.
    """
    classes = np.exp(noise(seed, tokens, n, _CLASSES))
    signs = np.where(np.random.default_rng([seed, 4]).random(tokens) < 0.5, -1.0, 1.0)
    # The same for all tokens but for a wave of their own: to draw every number of thousands of tokens is dear.
    sizes = np.random.default_rng([seed, 1]).uniform(0.5, 1.5, (channels, n)).T
    own = classes[:, :, np.arange(channels) % _CLASSES]
    tilt = 1 + 0.25 * np.cos(np.arange(channels) * (1 + np.arange(tokens)[:, None, None]))
    state = own * sizes * tilt * _SIGNS[:channels] * signs[:, None, None]
    return torch.from_numpy(state).to(dtype).contiguous()  # numpy lays out what it has indexed by arrays as it likes


def agreeing_params(
    seed: int,
    n: int,
    channels: int,
    dialect: Dialect,
    dtype: torch.dtype,
    *,
    reach: float = 1.0,
    columns: int | None = None,
    weighted: bool = False,
) -> Params:
    """One block's parameters for `agreeing_state`, biases of order 1.

    Arguments:
        reach: the size of what the state contributes to a logit: alpha x^ phi is about that large.
        columns: how many channels of each stream phi reads; None: all of them.
        weighted: with a norm weight, positive and of order 1.
    """
    shape, biases, gates, weight = params_shapes(n, channels, dialect)
    each = np.random.default_rng([seed, 2])
    blocks = shape[0] // channels  # of streams, each with a phi of its own; one where it is shared
    factors = np.exp(each.standard_normal((blocks, _CLASSES, shape[1])))
    signs = np.where(each.random(shape[1]) < 0.5, -1.0, 1.0)
    sizes = np.random.default_rng([seed, 3]).uniform(0.5, 1.5, (channels, shape[1]))
    phi = factors[:, np.arange(channels) % _CLASSES] * (sizes * _SIGNS[:channels, None] * signs)
    if columns is not None and columns < channels:
        read = np.zeros(channels, bool)
        read[_spread(each, channels, columns)] = True
        phi[:, ~read] = 0
    phi = phi.reshape(shape) / np.abs(phi).sum((0, 1))
    bias = noise(seed + 1, *biases)
    for kind, part in ((dialect.pre, slice(0, n)), (dialect.post, slice(n, 2 * n))):
        if kind not in ("sigmoid", "softmax"):  # a gate of no range of its own: positive, and above what is added to it
            bias[part] = 1 + np.abs(bias[part])
    size = residual_size(n, dialect)
    if size and not guarantees_of(dialect).nonnegative and mix_of(dialect).shape(n, dialect) == (n, n):
        bias[2 * n :] = (0.5 * np.eye(n) + np.abs(bias[2 * n :].reshape(n, n)) / (2 * n)).reshape(-1)
    alpha = reach * np.array([1.0, -0.75, 0.5])[: gates[0]]
    norm_weight: Any = None
    if weighted:
        norm_weight = torch.from_numpy(each.uniform(0.5, 1.5, weight)).to(dtype)
    given = [torch.from_numpy(part).to(dtype) for part in (phi, bias, alpha)]
    return Params(given[0], given[1], given[2], norm_weight)


def _spread(each: np.random.Generator, channels: int, columns: int) -> Any:
    """The last channels, half of them, and others anywhere."""
    last = channels - 1 - np.arange(columns // 2)
    rest = each.choice(channels - len(last), columns - len(last), replace=False)
    return np.concatenate([last, rest])
