"""How a cotangent lies in memory, which must not matter to a backward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from properties.core.implementation import Implementation
from properties.core.pulling import pulled_back
from properties.core.trial import Trial, wide
from properties.laws.calls import Place
from properties.laws.cotangents import EXPANDED, LYING, same_along
from properties.laws.pulls import Pulled


def does_not_see_how_cotangents_lie(trial: Trial, pulled: Pulled, bounds: Sequence[Tensor]) -> None:
    """Compare the gradients for cotangents that lie otherwise with those for contiguous ones of the same values.

    `bounds`: of the gradients for the cotangents as they are.
    """
    ways, expansions = _lying(pulled), _expansions(pulled)

    def run(target: Implementation, place: Place) -> Any:
        def gradients(laid: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
            given = [place(one).clone().requires_grad_() for one in pulled.inputs]
            outputs = pulled.function(target, given)
            bars = [place(bar).to(o.dtype).clone() for bar, o in zip(pulled.cotangents, outputs, strict=True)]
            return tuple(pulled_back(outputs, given, [laid(bar) for bar in bars]))

        first = gradients(lambda bar: bar)
        lying = tuple(gradients(laid) for laid in ways.values())
        expanded = tuple(
            (
                gradients(lambda bar, axes=axes: same_along(bar, axes)),
                gradients(lambda bar, axes=axes: same_along(bar, axes).contiguous()),
            )
            for axes in expansions.values()
        )
        return first, lying, expanded

    first, lying, expanded = trial.observe(pulled.method, run)
    what = f"the gradient of {pulled.method} by"
    for how, found in zip(ways, lying, strict=True):
        for name, one, other, error in zip(pulled.names, found, first, bounds, strict=True):
            trial.near(f"{what} {name} {how}", one, wide(other), 2 * error)
    for (how, axes), (found, copied) in zip(expansions.items(), expanded, strict=True):
        bars = tuple(same_along(bar, axes).contiguous() for bar in pulled.cotangents)
        for name, one, other, error in zip(pulled.names, found, copied, pulled.errors(bars), strict=True):
            trial.near(f"{what} {name} for a cotangent expanded {how}", one, wide(other), 2 * error)


def _lying(pulled: Pulled) -> dict[str, Callable[[Tensor], Tensor]]:
    """Those of `LYING` that differ: of two axes there are two orders."""
    found: dict[Any, str] = {_places(pulled.cotangents): ""}
    for how, laid in LYING.items():
        found.setdefault(_places([laid(bar) for bar in pulled.cotangents]), how)
    return {how: LYING[how] for how in found.values() if how}


def _expansions(pulled: Pulled) -> dict[str, tuple[int, ...]]:
    """The same of `EXPANDED`: what has one token has no other way along its tokens."""
    found: dict[Any, str] = {_places(pulled.cotangents): ""}
    for how, axes in EXPANDED.items():
        found.setdefault(_places([same_along(bar, axes) for bar in pulled.cotangents]), how)
    return {how: EXPANDED[how] for how in found.values() if how}


def _places(bars: Sequence[Tensor]) -> Any:
    """Where the entries are: strides, but of axes of one entry, and the first of all."""
    strides = [tuple(s if size > 1 else 0 for s, size in zip(b.stride(), b.shape, strict=True)) for b in bars]
    return *strides, *(bar.storage_offset() for bar in bars)
