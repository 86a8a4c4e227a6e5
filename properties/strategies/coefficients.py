"""Parameters of a block: gates and biases of order one, sparse or dense phi, structured residual biases; branches."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from mhc_ref import Params
from mhc_ref.packing import beyond, logit_sizes, params_shapes, residual_size
from properties.core.case import BranchSpec
from properties.core.family import mix_of
from properties.strategies.draws import among, changed, changes, coarse, eighths, kept, noise, seeds
from properties.strategies.patterns import MODERATE
from properties.strategies.projected import logit_matrix, params_at_temperature, shift_axis
from properties.strategies.setting import Setting

GATES = (1.0, 0.5, -1.0, 2.0, 0.01, 0.0)


@kept
@st.composite
def params_of(
    draw: DrawFn,
    setting: Setting,
    n: int,
    channels: int,
    *,
    gates: tuple[float, ...] = GATES,
    patterns: tuple[str, ...] = MODERATE,
    least_phi: int = 0,
) -> Params:
    """One block's parameters: gates and biases of order one, structured residual biases, sparse or dense phi.

    `least_phi` 1 rules out a phi of zeros, 2 asks for a dense one.
    """
    dialect = setting.dialect
    gated, size = sum(logit_sizes(n, dialect)[:2]), residual_size(n, dialect)
    shape, _, gate_shape, _ = params_shapes(n, channels, dialect)
    kinds = ("zero", "sparse", "integers", "dense", "dense", "strong")
    kind = draw(among(*kinds[min(least_phi, 2) + (least_phi > 1) :]))
    seed = draw(seeds)
    entries = draw(changes(shape, most=4))  # always drawn, so that a dense phi can shrink to a sparse one
    root = math.sqrt(shape[0])
    if kind in ("zero", "sparse"):
        phi = np.zeros(shape)
        if kind == "sparse":
            phi = changed(phi, entries if entries else [((seed % shape[0], seed // 7 % shape[1]), 1.0)])
    elif kind == "integers":
        phi = coarse(seed, *shape) / 2.0 ** round(math.log2(max(1.0, root)))
    else:
        phi = noise(seed, *shape) * ((4.0 if kind == "strong" else 1.0) / root)
    if last := beyond(dialect):  # no products with a state of order 1 for each number, but the gates themselves
        phi[:, -last:] = noise(seed + 4, shape[0], last) * draw(among(2.0, 8.0, 0.0))
    h = draw(st.lists(st.tuples(st.integers(0, gated - 1), eighths), max_size=4))
    bias = np.zeros(gated)
    if draw(st.booleans()):
        bias = noise(seed + 1, gated) * draw(among(1.0, 3.0, 10.0))
    bias = changed(bias, [((index,), value) for index, value in h])
    if mix_of(dialect).shape(n, dialect) == (n, n):
        residual = draw(logit_matrix(n, patterns, axis=shift_axis(dialect), stretch=setting.stretch)).reshape(-1)
    else:
        residual = noise(seed + 2, size) * draw(among(0.0, 1.0, 4.0))
    alpha = draw(st.tuples(*[among(*gates)] * gate_shape[0]))
    weight = draw(among(None, "integers", "normal")) if setting.norm_weight else None
    norm_weight = None
    if weight == "integers":
        norm_weight = np.abs(coarse(seed + 3, n * channels))  # 0 among them: some channels silenced
    elif weight == "normal":
        norm_weight = 1.0 + 0.5 * noise(seed + 3, n * channels)
    dtype = setting.parameter_dtype
    params = Params(
        torch.tensor(phi, dtype=dtype),
        torch.tensor(np.concatenate([bias, residual]), dtype=dtype),
        torch.tensor(alpha, dtype=dtype),
        None if norm_weight is None else torch.tensor(norm_weight, dtype=dtype),
    )
    return params_at_temperature(params, n, dialect)


def saturating(params: Params, n: int, far: float, *, alike: bool = False) -> Params:
    """The same parameters with the biases of the gates moved by `far` and -`far` in turn.

    `alike`: all of them by `far`, so that every gate of a token is open, or every one shut.
    """
    bias = params.bias.clone()
    gates = bias[: 2 * n]
    gates += far * (1.0 if alike else -1.0) ** torch.arange(len(gates)).to(bias)
    return params._replace(bias=bias)


@kept
@st.composite
def extreme_params(draw: DrawFn, setting: Setting, n: int, channels: int) -> Params:
    """Parameters whose logits lie far apart, those of the gates too; most of them beyond the range of exp."""
    far = draw(among(0.0, -100.0, 100.0, 1000.0, -1000.0))
    patterns = mix_of(setting.dialect).extreme(setting.dialect) or MODERATE
    return saturating(draw(params_of(setting, n, channels, patterns=patterns)), n, far, alike=draw(st.booleans()))


@kept
@st.composite
def branch_of(
    draw: DrawFn,
    setting: Setting,
    channels: int,
    kinds: tuple[str, ...] = ("zero", "identity", "scale", "constant", "tanh"),
) -> BranchSpec:
    """A branch as data."""
    kind = draw(among(*kinds))
    if kind in ("zero", "identity"):
        return BranchSpec(kind)
    weight = changed(coarse(draw(seeds), channels) + 0.5, draw(changes((channels,), most=1)))
    return BranchSpec(kind, torch.tensor(weight, dtype=torch.float64).to(setting.dtype))
