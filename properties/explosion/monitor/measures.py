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


class Entered(NamedTuple):
    """What is known of the streams that entered a layer; their dispersion is a ratio of two norms."""

    streams: int | None
    extremes: tuple[Tensor, Tensor]  # the smallest and the largest number, of all tokens
    norms: tuple[Tensor, Tensor] | None  # of x less its mean over streams, and of x, of the sampled tokens


class Layer(NamedTuple):
    """What is known of a layer when it has run."""

    name: str
    operator: Tensor  # [T, n, n] of the sampled tokens, as applied, float64
    emitted: torch.dtype
    entered: Entered | None
    extremes: tuple[Tensor, Tensor] | None  # the smallest and the largest entry, of all tokens; None without tokens


def layer_of(name: str, emitted: Any, entered: Entered | None, tokens: int, transposed: bool) -> Layer:
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
    operator = _sample(every, tokens).to(_wide(emitted), copy=True)
    applied = operator.mT if transposed else operator
    return Layer(name, applied, emitted.dtype, entered, _extremes(every) if every.numel() else None)


def streams_of(x: Any, tokens: int) -> Entered | None:
    """The numbers of the streams x [..., n, C]; None where there are none.

    Raises:
        TypeError, ValueError: it is no tensor, or numbers cannot be read from it.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x is of type {type(x).__name__}; expected a tensor [..., n, C]")
    if is_plain(x):
        raise ValueError(f"x {is_plain(x)}")
    if not x.numel():
        return None
    x = x.detach()
    if x.is_complex():
        x = x.abs()
    extremes = _extremes(x)
    if x.ndim < 2:
        return Entered(None, extremes, None)
    # float64: the squares of the other dtypes neither overflow nor underflow in it.
    sampled = _sample(x.reshape(-1, *x.shape[-2:]), tokens).to(_wide(x))
    apart = sampled - sampled.mean(-2, keepdim=True)
    return Entered(x.shape[-2], extremes, (apart.norm(), sampled.norm()))


def tables(
    layers: list[Layer], complete: bool
) -> tuple[list[Sums | None], list[Sums | None], list[float | None], list[list[float]]]:
    """Sums of A_l and of P_l, the backward gain of S_l, and the numbers of each layer: one transfer from the device."""
    device = layers[0].operator.device
    alike = len({(layer.operator.shape, layer.operator.device) for layer in layers}) == 1
    empty: list[Any] = [None] * len(layers)
    if alike and len(layers[0].operator):
        stack = torch.stack([layer.operator for layer in layers])
        parts = [_sums(stack), _numbers(layers, stack.dtype, device)]
        if complete:
            # float64 is left alone by autocast; where there is none, float32 must be.
            short = stack.dtype != torch.float64
            with torch.autocast(device.type, enabled=False) if short else contextlib.nullcontext():
                before, after = prefixes(stack), suffixes(stack)
            parts += [_sums(before), after.abs().sum(-2).flatten(1).amax(-1, keepdim=True)]
        table = torch.cat(parts, -1).tolist()
        own: list[Sums | None] = [Sums(*line[:6]) for line in table]
        numbers = [line[6:9] for line in table]
        if not complete:
            return own, empty, empty, numbers
        return own, [Sums(*line[9:15]) for line in table], [line[15] for line in table], numbers
    # Other numbers of streams or tokens, no tokens, or several devices: no composite.
    own = [Sums(*_sums(layer.operator[None])[0].tolist()) if len(layer.operator) else None for layer in layers]
    return own, empty, empty, _numbers(layers, layers[0].operator.dtype, device).tolist()


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.device.type != "mps" else torch.float32


def _extremes(x: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest and the largest number, both NaN where there is one."""
    if x.dtype not in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        x = x.to(torch.float32 if x.is_floating_point() else _wide(x))  # bytes, and the short ones of eight bits
    low, high = torch.aminmax(x)
    return low, high


def _numbers(layers: list[Layer], wide: torch.dtype, device: torch.device) -> Tensor:
    """Activation max, dispersion, and the largest entry of all tokens' operators, [L, 3]; NaN where unknown."""
    unknown = torch.full((), math.nan, dtype=wide, device=device)
    nothing = (unknown, unknown)
    zero = torch.zeros_like(unknown)
    pairs: list[tuple[Tensor, Tensor]] = []
    for layer in layers:
        entered = layer.entered
        known = entered is not None and entered.streams == layer.operator.shape[-1]
        pairs.append(entered.extremes if entered is not None else nothing)
        pairs.append((entered.norms if known and entered is not None else None) or nothing)
        pairs.append(layer.extremes or (zero, zero))
    flat = [one for pair in pairs for one in pair]
    if len({(one.dtype, one.device) for one in flat}) > 1:
        flat = [one.to(device, wide) for one in flat]
    (low, high), (apart, whole), (least, most) = (
        part.unbind(-1) for part in torch.stack(flat).to(device, wide).view(-1, 3, 2).unbind(1)
    )
    return torch.stack([torch.maximum(-low, high), apart / whole, torch.maximum(-least, most)], -1)


def _sample(rows: Tensor, most: int) -> Tensor:
    """At most `most` rows, evenly spread."""
    return rows if len(rows) <= most else rows[:: -(-len(rows) // most)]


def _sums(operators: Tensor) -> Tensor:
    """[L, T, n, n] -> [L, 6], the fields of `Sums`."""
    size = operators.abs()
    rows = size.sum(-1)
    logs = size.clamp_min(torch.finfo(torch.float32).tiny).log().abs()
    largest = [part.flatten(1).amax(-1) for part in (rows, size.sum(-2))]
    smallest = [part.flatten(1).amin(-1) for part in (operators.sum(-1), operators.sum(-2), rows.amax(-1))]
    return torch.stack([*largest, *smallest, logs.flatten(1).amax(-1)], -1)
