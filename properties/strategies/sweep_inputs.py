"""The inputs of a sweep: a few wide tensors of noise, of which every size takes a part, and how they may look.

Tokens come again after a prime number of them, so that what lies a tile apart differs. The terms of long sums have one
sign, so that the bound of a sum stays far below it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from mhc_ref import Params
from mhc_ref.packing import beyond, logits_shape, params_shapes, residual_size
from properties.core.case import BranchSpec, Case, map_tensors
from properties.core.family import end_of, guarantees_of, mix_of
from properties.core.reads import mapping_shapes, read_of
from properties.core.sweep import BY_TOKEN
from properties.strategies.agreeing import agreeing_params, agreeing_state
from properties.strategies.coefficients import saturates
from properties.strategies.draws import noise
from properties.strategies.layouts import ALONE, APART, EVEN, SUMMED
from properties.strategies.projected import at_temperature, params_at_temperature
from properties.strategies.setting import Setting
from properties.strategies.sweep_looks import LARGE, alone, evened, faded, hollowed, prompted, soared

EDGE = 8
"""Channels at either end of a wide stream that weigh as much as 1/64 of its width: a tail that is lost shows."""
BACKWARDS = " backwards"
"""Ends the kind of inputs that have cotangents."""
LOOKS: Mapping[str, str] = {
    "negative": "where every entry of the state is negative",
    "tiny": "where every entry of the state is tiny, and so are the logits",
    "large": "where the entries of the state are large, and gates are saturated",
    "uneven": "where some streams are far smaller than others, or some logits far from the others",
    "silent": "where some streams are zero, or whole tokens, or streams or logits are equal",
}
"""How inputs may look, and the words for it."""
PADDED = 8
"""From this one on silent tokens are zero, as padding is, or the last of few wide ones: what skips a tile of padding
owes it the biases, and the branch."""
FADING, SOARING = "fading", "soaring"
"""The same of cotangents alone."""
RISING = "rising"
"""The same of layers alone."""
REWEIGHTED = "reweighted"
"""The same of parameters alone."""
IDLE = "idle"
"""The same of parameters that begin at zero."""
HOLLOW = "hollow"
"""The same of channels beyond a few."""
PROMPT = "prompt"
"""The same of the tokens that a sequence begins with."""
SAID = {
    **LOOKS,
    **{one: APART[one] for one in (SUMMED, *ALONE, *EVEN)},
    PROMPT: "where the tokens that a sequence begins with are zero, as padding is, or their cotangents, as of a prompt",
    HOLLOW: "where half of the channels are zero in every token and stream, of the state or of its cotangent",
    IDLE: "where some parameters are zero, as they are before training",
    REWEIGHTED: "where a norm over an even width has no weight, and one over an odd width has one",
    FADING: "where the cotangents of some tokens are far smaller than those of others, or zero",
    SOARING: "where the cotangents of some tokens are far larger or smaller than those of others",
    RISING: "where the channels of the state beyond the 1024th are larger, and gates depend on it",
}
SMALL = 0.009
"""The most of a logit that is small."""
REACH = 0.25
"""What a rising state contributes to a logit: the bound of two layers stays far below what they give."""


@functools.lru_cache(maxsize=64)
def _noise(seed: int, *shape: int) -> Tensor:
    return torch.tensor(noise(seed, *shape))


def wave(rows: int, columns: int) -> Tensor:
    """[rows, columns] of 1.8 and 0.2, which change every 16 rows, and from column to column."""
    down, across = (
        1.0 - 2.0 * (torch.arange(size) // width % 2).double() for size, width in ((rows, 16), (columns, 1))
    )
    return torch.outer(0.8 * down, across).add_(1.0)


def repeated(values: Tensor, *sizes: int) -> Tensor:
    """The values over and over along the first axes, up to these sizes; their own are primes, so that what lies a tile
    apart differs."""
    for axis, size in enumerate(sizes):
        if values.shape[axis] < size:
            times = [-(-size // values.shape[axis]) if axis == k else 1 for k in range(values.ndim)]
            values = values.repeat(*times)
        values = values.narrow(axis, 0, size)
    return values


@functools.lru_cache(maxsize=32)
def _sizes(seed: int, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """The sizes of the entries of a wide phi, and their running sums over rows."""
    sizes = (0.5 + repeated(_noise(seed, 4093, columns), rows).abs()).mul_(wave(rows, columns))
    return sizes, sizes.cumsum(0)


def params_at(setting: Setting, n: int, channels: int, seed: int, scale: float) -> Params:
    """Parameters whose logits are of order one, and of few terms that cancel where there are many of them.

    A sum of K terms of either sign may have a bound larger than itself. So from 64 channels on the terms of one logit
    have one sign, if the state has (`state_at`), and the ends of every stream weigh much.
    """
    shapes = params_shapes(n, channels, setting.dialect)
    rows, columns = shapes.phi
    dtype = setting.parameter_dtype
    if channels <= 64:
        phi = repeated(_noise(seed, 251, columns), rows) / math.sqrt(rows)
    else:
        sizes, sums = _sizes(seed, 1 << (rows - 1).bit_length(), columns)
        ends = torch.arange(rows).view(-1, channels)[:, [*range(EDGE), *range(channels - EDGE, channels)]].flatten()
        more = (channels / 64 - 1) * sizes[ends]
        sign = _noise(seed + 1, columns)
        each = sign.sign() * (0.5 + sign.abs()) / (sums[rows - 1] + more.sum(0))
        phi = sizes[:rows] * each
        phi[ends] += more * each
    size = residual_size(n, setting.dialect)
    if last := beyond(setting.dialect):
        phi[:, -last:] *= 2 * math.sqrt(rows) if channels <= 64 else 2 * rows
    bias = _noise(seed + 2, shapes.bias[0] - size)
    bias = torch.cat([bias, scale * _noise(seed + 3, size)]) if size else bias
    alpha = torch.tensor([1.0, 0.8, 0.5 * scale][: shapes.alpha[0]], dtype=torch.float64)
    weight = weight_at(n, channels, seed) if setting.norm_weight and channels % 2 == 0 else None
    params = Params(*(None if one is None else one.to(dtype).contiguous() for one in (phi, bias, alpha, weight)))  # pyright: ignore[reportArgumentType]
    return params_at_temperature(params, n, setting.dialect)


def weight_at(n: int, channels: int, seed: int) -> Tensor:
    """The weight of a norm."""
    return 0.75 + 0.5 * repeated(_noise(seed + 4, 251).sigmoid(), n * channels)


def reweighted(params: Params, n: int, channels: int, seed: int) -> Params:
    """The same parameters with a norm weight where there was none, and without where there was one: what is vectorised
    for the widths of models may have no weight, and what has one a tail of channels."""
    weight = weight_at(n, channels, seed).to(params.phi) if params.norm_weight is None else None
    return params._replace(norm_weight=weight)


def idle(params: Params) -> Params:
    """The same with zeros: every third weight of the norm and every third row of phi, the biases of a half, and the
    second gate where there are several. What is zero has a gradient all the same."""
    phi, bias, alpha = (one.clone() for one in params[:3])
    weight = None if params.norm_weight is None else params.norm_weight.clone()
    phi[1::3], bias[::2] = 0.0, 0.0
    alpha[1:2] = 0.0
    if weight is not None:
        weight[::3] = 0.0
    return Params(phi, bias, alpha, weight)


def map_params(change: Callable[[Params], Params], params: Any) -> Any:
    """Those of one layer, or of each of several."""
    return change(params) if isinstance(params, Params) else tuple(map(change, params))


def state_at(setting: Setting, tokens: int, n: int, channels: int, seed: int) -> Tensor:
    """A state [tokens, n, C] of noise; a wide one is of one sign, and its tokens differ by where they are large."""
    if channels <= 64:
        x = _noise(seed + 5, tokens, n, channels)
    else:
        x = repeated(_noise(seed + 5, min(tokens, 61), min(n * channels, 4093)), tokens, n * channels)
        x = ((0.5 + x.abs()) * wave(n * channels, tokens).T).unflatten(-1, (n, channels))
    return x.to(setting.dtype).contiguous()


def layer_params(setting: Setting, n: int, channels: int, depth: int, seed: int) -> tuple[Params, ...]:
    """Parameters of many layers whose bounds stay finite: mappings that hardly depend on the state, and nearly carry
    the streams round, so that they stay distinct. Every second layer has a norm weight, where there may be one."""
    dialect, dtype = setting.dialect, setting.parameter_dtype
    shapes, made = params_shapes(n, channels, dialect), list[Params]()
    for layer in range(depth):
        drawn = _noise(seed + 10 + layer, shapes.bias[0])
        carried = mix_of(dialect).carrying(torch.eye(n, dtype=torch.float64).roll(layer % n, -1), dialect)
        bias = drawn.clone()
        if carried is not None and residual_size(n, dialect):
            flat = carried.flatten().double() / guarantees_of(dialect).temperature
            bias[2 * n :] = (
                flat / flat.abs().max().clamp_min(1) * min(4.0, float(flat.abs().max())) + 0.05 * drawn[2 * n :]
            )
        alpha = torch.full(shapes.alpha, 1e-3)
        phi = repeated(_noise(seed + 9, 251, shapes.phi[1]), shapes.phi[0])
        if not read_of(dialect).affine(dialect):
            phi = phi * 1e-3
        weight = None
        if setting.norm_weight and layer % 2:
            weight = (1 + 0.25 * repeated(_noise(seed + 8 + layer, 251), n * channels)).to(dtype)
        parts = (phi.roll(layer, 0) / math.sqrt(shapes.phi[0])).to(dtype), bias.to(dtype), alpha.to(dtype)
        made.append(params_at_temperature(Params(*parts, weight), n, dialect))
    return tuple(made)


def distinct(kind: str, n: int, channels: int, tokens: int, layers: int, look: str = "") -> int:
    """How many tokens differ from one another: a prime, so that what lies a tile apart differs; fewer where each of
    them takes long to judge. All of them where whole tiles of many tokens are zero."""
    most = 1 << 14 if layers == 1 else 1 << 8
    if PROMPT in look.split() and 4 * LARGE <= tokens <= 512 and n * channels * layers <= 1 << 8:
        return tokens
    return min(tokens, next((prime for prime in (61, 31, 13, 5) if prime * n * channels * layers <= most), 3))


def looking(look: str, case: Case, n: int, least: float, saturates: bool) -> Case:
    """The same values, but for how they look; `saturates`: gates stay in their range, however large their logits."""
    values = dict(case.items())
    for name in ("x", "h", "logits"):
        if name in values:
            old = values[name].double()
            tiny = 2.0**-12 if values[name].dtype == torch.float16 else max(2.0**-44, least)
            changed = _logits(look, old) if name == "logits" else _state(look, old, tiny)
            values[name] = changed.to(values[name].dtype).contiguous()
    if isinstance(values.get("params"), Params):
        values["params"] = _gated(look, values["params"], n, saturates)
    if look == "silent" and "branch" in values:  # what a token of zeros gets of it shows
        values["branch"] = BranchSpec("constant", values["branch"].weight)
    return Case(**values)


def _state(look: str, x: Tensor, tiny: float) -> Tensor:
    """A state; every third token of it where only some are out of the ordinary."""
    if look == "negative":
        return -x.abs() - 1e-3
    if look in ("tiny", "large"):
        return x * (tiny if look == "tiny" else 2.0 ** (6 if tiny == 2.0**-12 else 36))
    x = x.clone()
    if x.ndim > 2 and x.shape[1] > 1:  # one stream, or all of them the same, otherwise
        x[::3, -1] = x[::3, -1] * tiny if look == "uneven" else 0.0
        if look == "silent":
            x[1::3, 1] = x[1::3, 0]
    if look == "silent":
        x[len(x) - 1 if 2 < len(x) <= PADDED and x.shape[-1] > 64 else PADDED :] = 0.0  # few tokens of wide ones differ
    return x


def _logits(look: str, z: Tensor) -> Tensor:
    """Logits; those of every third matrix where only some are out of the ordinary."""
    if look == "tiny":  # where one iteration and all of them differ still
        return SMALL * z.tanh()
    if look == "large":
        return 4.0 * z
    if look == "negative":
        return -z.abs() - 1e-3
    flat = z.flatten(1).clone()
    if flat.shape[1] > 1:
        flat[::3, -1] = flat[::3, -2] - (30 if look == "uneven" else 0)
    return flat.view_as(z)


def _gated(look: str, params: Params, n: int, saturates: bool) -> Params:
    """Parameters whose gates are saturated, or whose logits are small, or tied."""
    phi, bias, alpha = params.phi.clone(), params.bias.clone(), params.alpha
    if look == "large":
        bias[0] += 30
        bias[n] -= 30
        if saturates:
            bias[n - 1] += 60
            bias[2 * n - 1] += 210
    elif look == "tiny":
        bias, alpha = SMALL * bias.tanh(), alpha * 1e-3
    elif look == "silent" and phi.shape[1] == len(bias) > 2 * n + 1:  # a logit has a column of its own
        phi[:, 2 * n + 1], bias[2 * n + 1] = phi[:, 2 * n], bias[2 * n]
    return Params(phi, bias, alpha, params.norm_weight)


def rising(setting: Setting, case: Case, n: int, seed: int) -> Case:
    """The same layers on a state whose channels beyond the 1024th are four times as large, with terms that agree in
    sign, so that a mean of squares over the first of them alone shows in every gate."""
    first = case.x if "x" in case else case.h
    tokens, channels = first.shape[0], first.shape[-1]
    x = agreeing_state(seed, tokens, n, channels, setting.dtype)
    x[..., 1024:] *= 4
    made = [
        agreeing_params(seed + layer, n, channels, setting.dialect, setting.parameter_dtype, reach=REACH)
        for layer in range(len(case.params))
    ]
    params = tuple(params_at_temperature(one, n, setting.dialect) for one in made)
    kept = map_tensors(case.branches, torch.Tensor.abs)
    branches = tuple(BranchSpec("scale", one.weight) for one in kept)
    states = {"x": x} if "x" in case else {"h": x[:, 0].contiguous()}
    return case.with_(**states, params=params, branches=branches)


RANGING = {FADING: faded, SOARING: soared, SUMMED: torch.ones_like}
"""What makes cotangents look so."""


def inputs(
    setting: Setting, kind: str, n: int, channels: int, tokens: int, layers: int, scale: float, look: str, seed: int
) -> Case:
    """The values of a case of that kind."""
    few, back = distinct(kind, n, channels, tokens, layers, look), kind.endswith(BACKWARDS)
    made = _made(setting, kind.removesuffix(BACKWARDS), n, channels, few, layers, scale, seed)
    for one in look.split():
        if one == RISING:
            made = rising(setting, made, n, seed)
        elif one == REWEIGHTED:
            given = {"n": n, "channels": channels, "seed": 1000 * seed}
            made = made.with_(params=map_params(functools.partial(reweighted, **given), made.params))
        elif one == IDLE:
            made = made.with_(params=map_params(idle, made.params)) if "params" in made else made
        elif one == HOLLOW:
            made = hollowed(made, back)
        elif one == PROMPT:
            made = prompted(made, back)
        elif one in ALONE:
            made = alone(made, ALONE.index(one))
        elif one in EVEN:
            made = made.with_(cotangents=tuple(evened(bar, EVEN[one]) for bar in made.cotangents))
        elif one in LOOKS:
            made = looking(one, made, n, setting.least_scale, saturates(setting.dialect))
        else:
            made = made.with_(cotangents=tuple(map(RANGING[one], made.cotangents)))

    def again(value: Any) -> Any:
        return map_tensors(value, lambda one: repeated(one, tokens))

    wanted = {name: value for name, value in made.items() if back or name != "cotangents"}
    return setting.stored(Case(**{name: again(value) if name in BY_TOKEN else value for name, value in wanted.items()}))


def _made(
    setting: Setting, kind: str, n: int, channels: int, tokens: int, layers: int, scale: float, seed: int
) -> Case:
    seed, dtype, state = 1000 * seed, setting.parameter_dtype, setting.dtype
    scales = torch.tensor([3.0, 1.0, 6.0]).repeat(-(-tokens // 3))[:tokens].double()
    if kind == "project":
        shape = logits_shape(n, setting.dialect)
        logits = at_temperature(_noise(seed, tokens, *shape) * scales.view(-1, *[1] * len(shape)), setting.dialect)
        return Case(logits=logits.to(dtype), cotangents=(_noise(seed + 7, tokens, n, n).to(dtype),))
    x = state_at(setting, tokens, n, channels, seed)
    bar = repeated(_noise(seed + 7, min(tokens, 61), n, min(channels, 509)), tokens, n, channels).to(state)
    if kind in ("mappings", "collapse", "block"):
        params = params_at(setting, n, channels, seed, scale)
        if kind == "mappings":
            shapes = mapping_shapes((tokens, n, channels), setting.dialect)
            bars = [_noise(seed + k, *shape) for k, shape in zip((7, 8, 9), shapes, strict=True)]
            return Case(x=x, params=params, cotangents=tuple(bar.to(dtype) for bar in bars))
        if kind == "collapse":
            head = {"params": params} if end_of(setting.dialect).HEAD else {}
            return Case(x=x, **head, cotangents=(bar[:, 0].contiguous(),))
        weight = (0.5 + repeated(_noise(seed + 6, 251), channels)).to(state)
        return Case(x=x, params=params, branch=BranchSpec("scale", weight), cotangents=(bar,))
    if kind == "mixture":
        y = repeated(_noise(seed + 6, min(tokens, 61), channels), tokens).to(state)
        h_post, h_res = _noise(seed + 2, tokens, n).to(dtype), _noise(seed + 3, tokens, n, n).to(dtype)
        if guarantees_of(setting.dialect).identity:
            h_res = torch.eye(n, dtype=dtype).expand(tokens, n, n).clone()
        return Case(x=x, y=y, h_post=h_post, h_res=h_res, cotangents=(bar,))
    if kind == "expand":
        return Case(h=x[:, 0].contiguous(), n=n, cotangents=(bar,))
    params = layer_params(setting, n, channels, layers, seed)
    kinds = ("scale", "constant")
    weights = 0.1 * (1 + repeated(_noise(seed + 8, layers, 61), layers, channels)).to(state)
    branches = tuple(BranchSpec(kinds[layer % 2], weight) for layer, weight in enumerate(weights))
    if kind == "layers":
        return Case(x=x, params=params, branches=branches, cotangents=(bar,))
    head = layer_params(setting, n, channels, 1, seed + 500) if end_of(setting.dialect).HEAD else ()
    return Case(h=x[:, 0].contiguous(), n=n, params=params, branches=branches, head=head, cotangents=(bar[:, 0],))
