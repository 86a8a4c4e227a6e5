"""What a mutant does wrong at a stage: to its value, its gradient, what it was given, or what it gave before."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from properties.catalogue.mutants.moments import Moment, Variable
from properties.core.deviant import through, through_tf32, with_gradient_of

Effect = Literal["value", "gradient", "contract"]
STREAM_STAGES = ("norm", "write", "layers")
"""Stages that give [..., n, C]."""
GATE_STAGES = ("h_pre", "h_post")
STAGES = ("norm", "products", "logits", "h_pre", "h_post", "h_res", "read", "write", "layers")
"""Where a mutant can be wrong, in the order of the mathematics."""
MATRIX = {"norm": 2, "h_res": 2, "write": 2, "layers": 2}
"""How many of the last axes of a stage's output are no token axes, where that is not 1."""

Change = Callable[[Tensor, Moment, dict[Any, Tensor]], Tensor]
"""(what the stage gives, where, what the mutant remembers) -> what the mutant gives."""


@dataclass(frozen=True)
class Slip:
    """A wrong thing to do.

    Attributes:
        sort: what class of mutants it makes, in a word or two.
        whole: whether it says by itself where it happens, so that no position is drawn for it.
    """

    sort: str
    text: str
    change: Change
    effect: Effect = "value"
    whole: bool = False


def kept_axes(stage: str) -> int:
    """How many of the last axes of a stage's output are no token axes."""
    return MATRIX.get(stage, 1)


def by_token(value: Tensor, stage: str) -> Tensor:
    """All token axes in one."""
    kept = kept_axes(stage)
    return value.reshape(-1, *value.shape[value.ndim - kept :])


# Values


def _scaled(chance: random.Random, stage: str) -> Slip:
    k = chance.choice((1, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22))
    sign = chance.choice((1, -1))
    factor = 1 + sign * 2.0**-k
    return Slip(
        "scaled by a power of two", f"scaled by 1 {'+' if sign > 0 else '-'} 2^-{k}", lambda v, m, s: v * factor
    )


def _zeroed(chance: random.Random, stage: str) -> Slip:
    def change(value: Tensor, m: Moment, s: dict[Any, Tensor]) -> Tensor:
        last = torch.arange(value.shape[-1], device=value.device) == value.shape[-1] - 1
        return torch.where(last, 0.0, value).to(value.dtype)

    return Slip("an entry zeroed", "its last entry is 0", change)


def _unwritten(chance: random.Random, stage: str) -> Slip:
    def change(value: Tensor, m: Moment, s: dict[Any, Tensor]) -> Tensor:
        if m.given.shape == value.shape:  # what was there before, in place
            return m.given.to(value.dtype)
        return torch.zeros_like(value)

    return Slip("left unwritten", "left as it was", change)


def _previous_token(chance: random.Random, stage: str) -> Slip:
    def change(value: Tensor, m: Moment, s: dict[Any, Tensor]) -> Tensor:
        return by_token(value, stage).roll(1, 0).reshape(value.shape)

    return Slip("the previous token's", "that of the token before", change)


def _transposed(chance: random.Random, stage: str) -> Slip:
    def change(value: Tensor, m: Moment, s: dict[Any, Tensor]) -> Tensor:
        return value.mT if value.shape[-1] == value.shape[-2] else value

    return Slip("transposed", "transposed", change)


def _swapped(chance: random.Random, stage: str) -> Slip:
    axis = -2 if stage in ("norm", "write", "layers") else -1

    def change(value: Tensor, m: Moment, s: dict[Any, Tensor]) -> Tensor:
        order = list(range(value.shape[axis]))
        order[:2] = reversed(order[:2])
        return value.index_select(axis, torch.tensor(order, device=value.device))

    return Slip("two lines swapped", "its first two lines are swapped", change)


def _rounded(chance: random.Random, stage: str) -> Slip:
    kind = chance.choice(("bfloat16", "float16", "TensorFloat-32"))
    rounding: Callable[[Tensor], Tensor] = (
        through_tf32 if kind == "TensorFloat-32" else lambda v: through(v, getattr(torch, kind))
    )
    return Slip("rounded to a shorter dtype", f"rounded to {kind}", lambda v, m, s: rounding(v))


def _clamped(chance: random.Random, stage: str) -> Slip:
    limits = (0.25, 0.5, 0.9) if stage in ("h_res", "h_pre") else (0.5, 1.0, 1.9) if stage == "h_post" else ()
    most = chance.choice(limits or (2.0, 10.0, 30.0, 65504.0))
    return Slip("clamped", f"clamped to {most:g}", lambda v, m, s: v.clamp(-most, most))


def _shifted(chance: random.Random, stage: str) -> Slip:
    by = chance.choice((1e-2, 1e-3, 1e-4, 1e-5, 1e-6))
    return Slip("shifted by an eps", f"{by:g} is added", lambda v, m, s: v + by)


def _negated(chance: random.Random, stage: str) -> Slip:
    return Slip("negated", "negated", lambda v, m, s: -v)


def _stale(chance: random.Random, stage: str) -> Slip:
    def change(value: Tensor, m: Moment, s: dict[Any, Tensor]) -> Tensor:
        before = s.get((value.shape, value.dtype))
        s[value.shape, value.dtype] = value.detach().clone()
        return value if before is None else with_gradient_of(before, value)

    return Slip("that of an earlier call", "that of the wrong call before", change)


def _not_a_number(chance: random.Random, stage: str) -> Slip:
    def change(value: Tensor, m: Moment, s: dict[Any, Tensor]) -> Tensor:
        last = torch.arange(value.shape[-1], device=value.device) == value.shape[-1] - 1
        return torch.where(last, torch.nan, value).to(value.dtype)

    return Slip("NaN", "its last entry is NaN", change)


def _crash(chance: random.Random, stage: str) -> Slip:
    def change(value: Tensor, m: Moment, s: dict[Any, Tensor]) -> Tensor:
        raise RuntimeError("invalid configuration argument")

    return Slip("an exception", "raises", change, "contract", whole=True)


# Gradients


class _Backwards(torch.autograd.Function):
    """The identity, whose cotangent is changed."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.change = change
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *bars: Tensor) -> Any:
        return ctx.change(bars[0]), None


def _pulled(sort: str, text: str, change: Callable[[Tensor], Tensor], whole: bool = False) -> Slip:
    def wrong(value: Tensor, m: Moment, s: dict[Any, Tensor]) -> Tensor:
        return _Backwards.apply(value, change) if value.requires_grad else value  # pyright: ignore[reportReturnType]

    return Slip(sort, text, wrong, "gradient", whole)


def _gradient(chance: random.Random, stage: str) -> Slip:
    kind = chance.choice(("scaled", "detached", "rounded", "nan", "overflow", "underflow", "neighbour", "clipped"))
    if kind == "scaled":
        factor = chance.choice((0.5, 2.0, 1 + 2.0**-6, 1 + 2.0**-10, 1 + 2.0**-14))
        return _pulled("a gradient scaled", f"its gradient is {factor:.6g} times too large", lambda g: factor * g)
    if kind == "detached":
        return Slip("detached", "detached", lambda v, m, s: v.detach(), "gradient")
    if kind == "rounded":
        name = chance.choice(("bfloat16", "float16"))
        return _pulled(
            "a gradient rounded", f"its gradient is rounded to {name}", lambda g: through(g, getattr(torch, name))
        )
    if kind == "nan":

        def spoiled(g: Tensor) -> Tensor:
            last = torch.arange(g.shape[-1], device=g.device) == g.shape[-1] - 1
            return torch.where(last & (g != 0), torch.nan, g).to(g.dtype)  # 0 outside of its position

        return _pulled("a gradient NaN", "the last entry of its gradient is NaN", spoiled)
    if kind == "overflow":
        most = chance.choice((65504.0, 1e12, 1e30))
        return _pulled(
            "a gradient overflows",
            f"its gradient is infinite beyond {most:g}",
            lambda g: torch.where(g.abs() > most, torch.inf * g.sign(), g),
        )
    if kind == "underflow":
        least = chance.choice((6e-8, 1e-12, 1e-30))
        return _pulled(
            "a gradient underflows",
            f"its gradient is 0 below {least:g}",
            lambda g: torch.where(g.abs() < least, torch.zeros_like(g), g),
        )
    if kind == "neighbour":
        return _pulled(
            "a gradient of the next token",
            "its gradient is that of the next token",
            lambda g: by_token(g, stage).roll(-1, 0).reshape(g.shape),
            whole=True,
        )
    most = chance.choice((0.5, 2.0, 16.0))
    return _pulled("a gradient clipped", f"its gradient is clipped to {most:g}", lambda g: g.clamp(-most, most))


# Contracts


def _overwritten(chance: random.Random, stage: str) -> Slip:
    def change(value: Tensor, m: Moment, s: dict[Any, Tensor]) -> Tensor:
        target = m.given if m.state is None or stage not in ("norm", "products", "logits") else m.state
        result = value.clone()
        with torch.no_grad():
            target.data.mul_(0.5)
        return result

    return Slip("an argument written to", "what it was given is halved in place", change, "contract", whole=True)


def _buffered(chance: random.Random, stage: str) -> Slip:
    slots = chance.choice((1, 2, 4, 16))

    def change(value: Tensor, m: Moment, s: dict[Any, Any]) -> Tensor:
        if value.requires_grad:
            return value
        ring, k = s.get((value.shape, value.dtype), ([], 0))
        if len(ring) < slots:
            ring.append(value.clone())
            s[value.shape, value.dtype] = ring, 0
            return ring[-1]
        ring[k].copy_(value)
        s[value.shape, value.dtype] = ring, (k + 1) % slots
        return ring[k]

    of = "one buffer" if slots == 1 else f"a ring of {slots} buffers"
    return Slip("an output buffer reused", f"given without a graph in {of}", change, "contract", whole=True)


_VALUES = (_scaled, _scaled, _scaled, _zeroed, _unwritten, _previous_token, _swapped, _rounded, _rounded, _clamped)
_MORE = (_shifted, _negated, _stale, _not_a_number, _crash)
_GIVEN_BACK = ("h_pre", "h_post", "h_res", "read", "write", "layers")
"""Stages whose output a method gives back as it is."""


def drawn(chance: random.Random, stage: str, gradients: bool) -> Slip:
    """A generic slip for a stage; `gradients`: one of a gradient can be asked for there."""
    kinds = [*_VALUES, *_MORE]
    if stage == "h_res":
        kinds += [_transposed] * 2
    if gradients:
        kinds += [_gradient] * 6
    if stage in ("h_res", "read", "write"):
        kinds.append(_overwritten)
    if stage in _GIVEN_BACK:
        kinds.append(_buffered)
    return chance.choice(kinds)(chance, stage)


# Positions


@dataclass(frozen=True)
class Position:
    """Which part of a stage's output a slip is confined to: a mask over its flat tokens and its last axes.

    There is such a part where the number of tokens, or of channels, is above `least`, and no multiple of `tile` if one
    is named.
    """

    text: str
    mask: Callable[[Tensor, str], Tensor]
    variable: Variable = "T"
    least: int = 0
    tile: int = 1

    def fits(self, size: int) -> bool:
        """Whether there is such a part."""
        return size > self.least and (self.tile == 1 or size % self.tile != 0)

    def confined(self, right: Tensor, wrong: Tensor, stage: str) -> Tensor:
        """The wrong values here, and the right ones elsewhere."""
        if right.shape != wrong.shape or not right.numel():
            return wrong
        mask = self.mask(by_token(right, stage), stage).expand(by_token(right, stage).shape)
        return torch.where(mask.reshape(right.shape), wrong, right)


def _tokens(which: Callable[[Tensor, int], Tensor]) -> Callable[[Tensor, str], Tensor]:
    def mask(flat: Tensor, stage: str) -> Tensor:
        found = which(torch.arange(flat.shape[0], device=flat.device), flat.shape[0])
        return found.view(-1, *[1] * (flat.ndim - 1))

    return mask


def _entries(which: Callable[[Tensor, int], Tensor]) -> Callable[[Tensor, str], Tensor]:
    def mask(flat: Tensor, stage: str) -> Tensor:
        return which(torch.arange(flat.shape[-1], device=flat.device), flat.shape[-1]).view(*[1] * (flat.ndim - 1), -1)

    return mask


def position(chance: random.Random, stage: str) -> Position | None:
    """A part of the output, or None for all of it."""
    tile = chance.choice((4, 8, 16, 32, 64, 128, 256))
    kinds = {
        "last token": Position("of the last token", _tokens(lambda t, n: t == n - 1)),
        "first token": Position("of the first token", _tokens(lambda t, n: t == 0)),
        "tokens past": Position(f"of tokens from {tile} on", _tokens(lambda t, n: t >= tile), "T", tile),
        "token tail": Position(
            f"of tokens behind the last full {tile}",
            _tokens(lambda t, n: (t >= n // tile * tile) & (n > tile)),
            "T",
            tile,
            tile,
        ),
        "every token": Position(
            f"of every token number {tile}", _tokens(lambda t, n: t % tile == tile - 1), "T", tile - 1
        ),
    }
    if stage in ("norm", "read", "write", "layers"):
        kinds |= {
            "last channel": Position("of the last channel", _entries(lambda c, w: c == w - 1), "C"),
            "channel tail": Position(
                f"of channels behind the last full {tile}",
                _entries(lambda c, w: (c >= w // tile * tile) & (w > tile)),
                "C",
                tile,
                tile,
            ),
            "channels past": Position(f"of channels from {tile} on", _entries(lambda c, w: c >= tile), "C", tile),
        }
    chosen = chance.choice([None, None, None, *kinds])
    return None if chosen is None else kinds[chosen]
