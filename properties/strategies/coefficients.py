"""Parameters of a block: gates and biases of order one, sparse or dense phi, structured residual biases; branches."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from mhc_ref import Dialect, Params
from mhc_ref.packing import beyond, logit_sizes, params_shapes, residual_size
from properties.core.case import BranchSpec
from properties.core.family import gate_of, mix_of
from properties.core.reads import read_of
from properties.strategies.draws import among, changed, changes, coarse, eighths, kept, noise, seeds
from properties.strategies.patterns import MODERATE
from properties.strategies.projected import at_temperature, logit_matrix, params_at_temperature, shift_axis
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

    `least_phi` 1 rules out a phi of zeros, 2 asks for a dense one. In a crowd, of which there is one example, no part
    is left out: phi is dense, gates are open as far as a law allows it, and there is a norm weight.
    """
    dialect, crowd = setting.dialect, setting.crowd is not None
    least_phi = 2 if crowd else least_phi
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
    wide = tuple(gate for gate in gates if abs(gate) >= 0.5) if crowd else ()
    alpha = draw(st.tuples(*[among(*(wide or gates))] * gate_shape[0]))
    weight = draw(among(*([] if crowd else [None, "integers"]), "normal")) if setting.norm_weight else None
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


QUIET = 2.0**-9
"""Gates at which many layers hardly move the logits of the next, so that errors do not grow from one to the other."""


@st.composite
def params_of_layers(
    draw: DrawFn, setting: Setting, n: int, channels: int, count: int, **options: Any
) -> tuple[Params, ...]:
    """The parameters of so many layers, see `params_of`; in a crowd of gates that are nearly closed.

    Through open gates the bound of a wide state is lost within two layers: nothing would be asked of them.
    """
    made = tuple(draw(params_of(setting, n, channels, **options)) for _ in range(count))
    return made if setting.crowd is None else tuple(quietened(one) for one in made)


def quietened(params: Params) -> Params:
    """The same parameters with gates that are nearly closed."""
    return params._replace(alpha=QUIET * params.alpha)


def saturates(dialect: Dialect) -> bool:
    """Whether gates of each stream stay in their range, however large their logits are."""
    gates = gate_of(dialect.pre), gate_of(dialect.post)
    return read_of(dialect).plain and all(one.unit_range and not one.constant for one in gates)


TAILS = ("", "", "", "", "", "", "biases", "one bias", "residual", "phi")
"""Which logits are far from 0, in two examples of five."""
FAR = 200.0
"""How far: exp of it is beyond float32, and beyond it on either side of 88.7 and of 104 something else gives out."""


@kept
@st.composite
def with_tails(draw: DrawFn, setting: Setting, params: Params, n: int) -> Params:
    """The same parameters, or such that the logits of gates, or residual ones, go to 200 and -200.

    The biases of gates are spread over all of that, or one of them lies in its outer half; residual logits lie as far
    apart as the mixing takes; or each gate has one entry of phi of that size, of which the bound of a product stays far
    below it.
    """
    kind, seed, dialect = draw(among(*TAILS)), draw(seeds), setting.dialect
    if not kind or not (saturates(dialect) or kind == "residual"):
        return params
    phi, bias, chance = params.phi.clone(), params.bias.clone(), np.random.default_rng(seed)
    gates = sum(logit_sizes(n, dialect)[:2])
    most = FAR * setting.stretch
    far = torch.tensor(most * (2 * chance.random(gates) - 1)).to(bias)
    if kind == "residual":
        patterns = mix_of(dialect).extreme(dialect)
        if patterns is None or mix_of(dialect).shape(n, dialect) != (n, n):
            return params
        found = draw(logit_matrix(n, patterns, axis=shift_axis(dialect), stretch=setting.stretch)).reshape(-1)
        bias[gates:] = torch.tensor(at_temperature(found, dialect)).to(bias)
    elif kind == "biases":
        bias[:gates] = far
    elif kind == "one bias":
        bias[seed % gates] = far[0].sign() * (most / 2 + far[0].abs() / 2)
    else:
        columns = min(gates, phi.shape[1])
        phi[torch.tensor(chance.integers(phi.shape[0], size=columns)), torch.arange(columns)] = far[:columns].to(phi)
    return params._replace(phi=phi, bias=bias)


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
