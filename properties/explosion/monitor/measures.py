"""What a monitor measures of a layer: a sample of its operators and a few numbers, on the device where they are."""

from __future__ import annotations

import contextlib
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mhc_ref.gain import prefixes, suffixes
from properties.explosion.monitor.emissions import is_plain
from properties.explosion.monitor.limits import Sums
from properties.explosion.monitor.troubles import Nothing


class State(NamedTuple):
    """What is known of the streams at the door of a layer; their dispersion is a ratio of two norms."""

    streams: int | None
    dtype: torch.dtype
    extremes: tuple[Tensor, Tensor]  # the smallest and the largest number, of all tokens
    sample: Tensor | None  # [T, n, C] of the sampled tokens, float64; kept while the layer runs
    apart: Tensor | None  # the norm of x less its mean over streams, of the sampled tokens
    norms: Tensor | None  # [T], of the sampled tokens
    stride: int  # the sampled tokens are 0, stride, 2 stride, ...
    size: int  # how many numbers a token has
    shape: tuple[int, ...] = ()  # of what enters a plain block
    slope: list[Tensor] | None = None  # the norm of the gradient there, when it has come


class Layer(NamedTuple):
    """What is known of a layer when it has run."""

    name: str
    operator: Tensor | None  # [T, n, n] of the sampled tokens, as applied, float64; None for a plain block
    emitted: torch.dtype
    entered: State | None
    left: State | None = None  # of a plain block, which is seen when it ends
    extremes: tuple[Tensor, Tensor] | None = None  # the smallest and the largest entry, of all tokens
    gates: Tensor | None = None  # the share of write gates that are at an end of their range
    softmax: Tensor | None = None  # the share of rows before the projection that are one entry and nothing else
    attention: Tensor | None = None  # a cap of the attention logits of sampled tokens


def layer_of(name: str, emitted: Any, entered: State | None, tokens: int, transposed: bool) -> Layer:
    """A layer from the h_res [..., n, n] that it emitted; its operator is the applied one.

    Raises:
        TypeError, ValueError: it is no such tensor, or numbers cannot be read from it.
    """
    if not isinstance(emitted, Tensor):
        raise TypeError(f"h_res is of type {type(emitted).__name__}; expected a tensor [..., n, n]")
    if emitted.ndim < 2 or emitted.shape[-1] != emitted.shape[-2] or not emitted.shape[-1]:
        raise ValueError(f"h_res has shape {tuple(emitted.shape)}; expected [..., n, n]")
    if emitted.is_complex() or is_plain(emitted):
        raise ValueError(f"h_res {is_plain(emitted) or f'is {emitted.dtype}; expected real numbers'}")
    n = emitted.shape[-1]
    every = emitted.detach().reshape(-1, n, n)
    # A copy, for the model may write into its own.
    operator = sampled(every, tokens).to(_wide(emitted), copy=True)
    applied = operator.mT if transposed else operator
    return Layer(name, applied, emitted.dtype, entered, extremes=extremes(every) if every.numel() else None)


def streams_of(x: Any, tokens: int, plain: bool = False) -> State | None:
    """The numbers of the streams x [..., n, C], or of the one stream [..., C] of a plain block; None without numbers.

    Raises:
        TypeError, ValueError: it is no tensor, or numbers cannot be read from it.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x is of type {type(x).__name__}; expected a tensor [..., n, C]")
    if is_plain(x):
        raise ValueError(f"x {is_plain(x)}")
    if not x.numel():
        return None
    dtype, x = x.dtype, x.detach()
    if x.is_complex():
        x = x.abs()
    if plain:
        x = x.unsqueeze(-2)
    found = extremes(x)
    if x.ndim < 2:
        return State(None, dtype, found, None, None, None, 1, x.numel())
    rows = x.reshape(-1, *x.shape[-2:])
    # float64: the squares of the other dtypes neither overflow nor underflow in it.
    sample = sampled(rows, tokens).to(_wide(x), copy=True)
    apart = None if plain else (sample - sample.mean(-2, keepdim=True)).norm()
    norms = sample.flatten(1).norm(dim=-1)
    streams, size = x.shape[-2], x.shape[-1] * x.shape[-2]
    return State(streams, dtype, found, sample, apart, norms, _stride(len(rows), tokens), size)


def saturated(gates: Tensor) -> Tensor:
    """The share of gates of a range [0, 1] that are within a thousandth of one of its ends."""
    gates = gates.detach().float()
    return ((gates < 1e-3) | (gates > 1 - 1e-3)).double().mean()


def one_sided(logits: Tensor) -> Tensor:
    """The share of rows of logits [..., n, n] whose softmax is one entry, up to 1/10000."""
    return (logits.detach().float().softmax(-1).amax(-1) > 1 - 1e-4).double().mean()


class Table(NamedTuple):
    """The numbers of the layers of a pass. Gains are None of a layer without an operator, or where they are unknown."""

    own: list[Sums | None]  # of A_l
    composed: list[Sums | None]  # of P_l
    backward: list[tuple[float, float] | None]  # the largest column sum of S_l, absolute and signed
    worst: list[int | None]  # which sampled token has the largest gain of P_l
    numbers: list[Numbers]


class Numbers(NamedTuple):
    """Of one layer; NaN where it is unknown."""

    entered: float  # the largest |x| that enters, of all tokens
    dispersion: float
    entry: float  # the largest |A_ij|, of all tokens
    left: float  # the largest |x| that leaves a plain block
    norm: float  # of the sampled tokens: of what leaves a plain block, of what enters another layer
    grown: float  # the same of one token, against that of the token where it entered the first layer: the largest
    faded: float  # and the smallest
    token: float  # which of the sampled tokens has grown most
    typical: float  # the norm of the median token
    median: float  # growth of the median token, from where it started; see `_starts`
    most: float  # of the token that has grown most from where it started
    gates: float
    softmax: float
    attention: float


def table_of(layers: list[Layer], complete: bool) -> Table:
    """Everything that is measured of a pass: one transfer from the device.

    Raises:
        Nothing: no layer was given a token, as of an empty batch.
    """
    device = next((layer.operator.device for layer in layers if layer.operator is not None), None)
    if device is None:
        doors = [at for layer in layers for at in (layer.entered, layer.left) if at is not None]
        if not doors:
            raise Nothing("a pass has no rows, for no layer was given a token, as of an empty batch")
        device = doors[0].extremes[0].device
    mixing = [place for place, layer in enumerate(layers) if layer.operator is not None]
    operators = [layer.operator for layer in layers if layer.operator is not None]
    empty: list[Any] = [None] * len(layers)
    own, composed, backward, worst = list(empty), list(empty), list(empty), list(empty)
    numbers = _numbers(layers, device)
    parts: list[Tensor] = [numbers]
    alike = len({(one.shape, one.device) for one in operators}) == 1 and len(operators[0]) > 0
    if alike:
        stack = torch.stack(operators)
        parts.append(_sums(stack))
        if complete:
            # float64 is left alone by autocast; where there is none, float32 must be.
            short = stack.dtype != torch.float64
            with torch.autocast(device.type, enabled=False) if short else contextlib.nullcontext():
                before, after = prefixes(stack), suffixes(stack)
            most = torch.maximum(before.abs().sum(-1).amax(-1), before.abs().sum(-2).amax(-1)).argmax(-1)
            columns = [one.sum(-2).flatten(1).abs().amax(-1) for one in (after.abs(), after)]
            parts += [_sums(before), torch.stack([*columns, most.to(stack.dtype)], -1)]
    flat = torch.cat([part.to(numbers).flatten() for part in parts]).tolist()
    width = len(Numbers._fields)
    lines = [Numbers(*flat[at * width : (at + 1) * width]) for at in range(len(layers))]
    del flat[: len(layers) * width]
    if alike:
        gains, count = len(Sums._fields), len(mixing)
        for at, place in enumerate(mixing):
            own[place] = Sums(*flat[at * gains : (at + 1) * gains])
            if complete:
                products, ends = flat[count * gains :], flat[2 * count * gains :]
                composed[place] = Sums(*products[at * gains : (at + 1) * gains])
                backward[place] = (ends[3 * at], ends[3 * at + 1])
                worst[place] = int(ends[3 * at + 2])
    else:
        # Other numbers of streams or tokens, no tokens, or several devices: no composite.
        for place, one in zip(mixing, operators, strict=True):
            own[place] = Sums(*_sums(one[None])[0].tolist()) if len(one) else None
    return Table(own, composed, backward, worst, lines)


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.device.type != "mps" else torch.float32


def extremes(x: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest and the largest number, both NaN where there is one."""
    if x.dtype not in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        x = x.to(torch.float32 if x.is_floating_point() else _wide(x))  # bytes, and the short ones of eight bits
    low, high = torch.aminmax(x)
    return low, high


def _numbers(layers: list[Layer], device: torch.device) -> Tensor:
    """[L, the fields of `Numbers`]; the norms of tokens are compared with those of the first layer."""
    wide = torch.float32 if device.type == "mps" else torch.float64
    unknown = torch.full((), math.nan, dtype=wide, device=device)
    zero = torch.zeros_like(unknown)
    flat: list[Tensor] = []
    for layer in layers:
        entered, left = layer.entered, layer.left
        n = None if layer.operator is None else layer.operator.shape[-1]
        flat += entered.extremes if entered is not None else (unknown, unknown)
        if entered is not None and entered.apart is not None and entered.norms is not None and entered.streams == n:
            flat += (entered.apart, entered.norms.norm())
        else:
            flat += (unknown, unknown)
        flat += layer.extremes or (zero, zero)
        flat += left.extremes if left is not None else (unknown, unknown)
        flat += [unknown if one is None else one for one in (layer.gates, layer.softmax, layer.attention)]
    if len({(one.dtype, one.device) for one in flat}) > 1:
        flat = [one.to(device, wide) for one in flat]
    low, high, apart, whole, least, most, under, over, gates, softmax, attention = (
        torch.stack(flat).to(wide).view(len(layers), -1).unbind(-1)
    )
    columns = [torch.maximum(-low, high), apart / whole, torch.maximum(-least, most), torch.maximum(-under, over)]
    return torch.stack([*columns, *_growth(layers, unknown), gates, softmax, attention], -1)


def _growth(layers: list[Layer], unknown: Tensor) -> list[Tensor]:
    """norm, grown, faded, token, typical, median, most of `Numbers`, each [L]."""
    reached = [layer.left or layer.entered for layer in layers]
    first = next((layer.entered or layer.left for layer in layers), None)
    begun = None if first is None else first.norms
    norms = [None if one is None else one.norms for one in reached]
    if first is not None and begun is not None and all(one is not None and one.shape == begun.shape for one in norms):
        table = torch.stack([one.to(unknown) for one in norms if one is not None])
        begun = begun.to(unknown)
        ratio = table / begun
        dead = begun == 0  # a token of padding, of which no growth is taken
        most, token = torch.where(dead, -math.inf, ratio).max(-1)
        grown = [table.norm(dim=-1), most, torch.where(dead, math.inf, ratio).amin(-1), token.to(unknown)]
        starts = _starts(begun, table, left=layers[0].left is not None, size=first.size)
        since = table / starts
        furthest = torch.where(dead | (starts == 0), -math.inf, since).amax(-1)
        return [*grown, _median(table, table > 0), _median(since, (starts > 0).expand_as(since)), furthest]
    whole = torch.stack([unknown if one is None else one.norm().to(unknown) for one in norms])
    middle = torch.stack([unknown if one is None else _median(one.to(unknown), one > 0) for one in norms])
    gone = [unknown.expand(len(layers)) for _ in range(3)]
    return [whole, *gone, middle, *gone[:2]]


def _starts(begun: Tensor, table: Tensor, left: bool, size: int) -> Tensor:
    """[T]: the norm from which growth of each token is judged, given its norms [L, T] at the layers.

    It is where it entered the first layer, or nearer to an rms of 1 if the first layer brings it nearer: the middle one
    of its norm before that layer, its norm behind it, and the norm of numbers of size 1. A branch that begins with a
    norm writes numbers of order 1 to whatever comes in, and a norm behind the sum leaves such, without an explosion.
    left: the first row of the table is behind the first layer, and not before it.
    """
    behind = table[0] if left else table[1] if len(table) > 1 else begun
    unit = torch.full_like(begun, math.sqrt(size))
    return torch.maximum(torch.minimum(begun, behind), torch.minimum(torch.maximum(begun, behind), unit))


def _median(values: Tensor, counted: Tensor) -> Tensor:
    """Of the values [..., T] that are counted, the lower one of two; infinite where none is."""
    ordered = torch.where(counted, values, math.inf).sort(-1).values
    place = (counted.sum(-1, keepdim=True) - 1).clamp_min(0) // 2
    return ordered.gather(-1, place).squeeze(-1)


def _stride(rows: int, most: int) -> int:
    return 1 if rows <= most else -(-rows // most)


def sampled(rows: Tensor, most: int) -> Tensor:
    """At most `most` rows, evenly spread."""
    return rows[:: _stride(len(rows), most)]


def _sums(operators: Tensor) -> Tensor:
    """[L, T, n, n] -> [L, the fields of `Sums`]."""
    size = operators.abs()
    rows, lines, columns = size.sum(-1), operators.sum(-1).flatten(1), operators.sum(-2).flatten(1)
    logs = size.clamp_min(torch.finfo(torch.float32).tiny).log().abs()
    largest = [part.flatten(1).amax(-1) for part in (rows, size.sum(-2))]
    smallest = [lines.amin(-1), columns.amin(-1), rows.amax(-1).flatten(1).amin(-1)]
    return torch.stack([*largest, *smallest, logs.flatten(1).amax(-1), lines.amax(-1), columns.amax(-1)], -1)
