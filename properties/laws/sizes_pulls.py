"""How gradients are asked for at any size: for which cotangents, what of outputs is used, and what comes between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from properties.core.case import Case
from properties.core.handing import rounded, stored_dtype
from properties.core.implementation import Implementation
from properties.core.pulling import pulled_back
from properties.core.sweep import BY_TOKEN
from properties.core.trial import Trial, outputs_of
from properties.laws.calls import QUIET
from properties.laws.modes import in_another_thread
from properties.laws.sizes_calls import Named
from properties.laws.sizes_layouts import (
    USED,
    arranged,
    asks,
    axes_of,
    handing,
    in_order,
    layout_of,
    lying,
    memory_of,
    taken_out,
    turned,
    within_more,
)
from properties.strategies.layouts import ABROAD, ALONE, EVALUATED, SUMMED, TURNED, parts_of


def pulled(
    trial: Trial,
    what: str,
    names: Sequence[str],
    inputs: Sequence[Tensor],
    case: Case,
    run: Any,
    gives: Sequence[str] = (),
) -> Named:
    """The gradients by those inputs that ask for one, by their names, for the cotangents of a case, and the outputs, by
    what they are called: where gradients are recorded other code computes them.

    Autograd hands on a cotangent as it came. So outputs become a part of something larger, whose gradient has theirs as
    a part: where they lie in it, a cotangent lies.
    """
    layout = layout_of(case)
    axes, memory, bars = axes_of(layout), memory_of(layout), list(case.cotangents)
    used = next((part for part in parts_of(layout) if part in USED), "")
    stored = stored_dtype(trial.implementation, trial.dtype)

    def handed(name: str, one: Tensor) -> Tensor:
        one = one if asks(name, layout) else one.detach()
        if name in BY_TOKEN:
            return lying(one, layout)
        return turned(one) if TURNED in memory and name.split()[0] == "phi" else one

    def once(target: Implementation, given: Sequence[Tensor]) -> Sequence[Tensor]:
        return outputs_of(run(target, *(handed(name, one) for name, one in zip(names, given, strict=True))))

    def elsewhere(target: Implementation, *given: Tensor) -> Any:
        abroad = ABROAD in parts_of(layout)
        outputs = in_another_thread(lambda: once(target, given)) if abroad else once(target, given)
        if EVALUATED in parts_of(layout):
            _evaluated(lambda others: once(target, others), names, given, stored)
        outputs = handing(outputs, layout)
        if used:
            found = _as_used(outputs, used, [arranged(bar, axes) for bar in bars], given)
            return run(target, *map(handed, names, given)) if found is None else found
        return tuple(_within(one, memory) for one in outputs)

    if used == SUMMED:
        kept = [torch.ones((), dtype=bar.dtype) for bar in bars]
    elif used in ALONE:
        kept = [arranged(bars[ALONE.index(used)], axes)]
    else:
        kept = [_within(arranged(bar, axes), () if used else memory) for bar in bars]
    found = trial.pull(what, inputs, kept, elsewhere, bool(gives) and not used)
    named = {f"the gradient by {name}": one for name, one in zip(names, found, strict=False) if asks(name, layout)}
    outputs = zip(gives, found[len(names) :], case.cotangents, strict=False)
    return named | {name: in_order(_taken(one, arranged(bar, axes), memory), axes) for name, one, bar in outputs}


def _within(one: Tensor, memory: Sequence[str]) -> Tensor:
    for part in memory:
        one = within_more(one, part)
    return one


def _taken(one: Tensor, bar: Tensor, memory: Sequence[str]) -> Tensor:
    for part in reversed(memory):
        one = taken_out(one, bar, part)
    return one


def _as_used(outputs: Sequence[Tensor], used: str, bars: Sequence[Tensor], given: Sequence[Tensor]) -> Any:
    """Outputs that are added up, of which autograd makes cotangents of strides 0; the one that is used, where the
    others have no cotangent; and those of a graph that is kept, after a first backward pass. None where it refuses to
    be kept, which gives nothing wrong."""
    if used == SUMMED:
        return tuple(one.sum() for one in outputs)
    if used in ALONE:
        return outputs[ALONE.index(used)]
    try:
        pulled_back(outputs, given, [bar.clone() for bar in bars], keep=True)
    except (RuntimeError, ValueError):  # or one has another shape, which is told of the pass that is judged
        return None
    return tuple(outputs)


def _evaluated(
    call: Callable[[Sequence[Tensor]], Any], names: Sequence[str], given: Sequence[Tensor], stored: torch.dtype
) -> None:
    """Calls that record nothing, with other values: half of them, parameters as they can be stored, and matrices of
    other tokens, which may be no others."""

    def other(name: str, one: Tensor, size: float) -> Tensor:
        if name == "h_res":
            return one.roll(1, 0)
        return one * size if name in BY_TOKEN else rounded(one * size, stored)

    for size, (_, mode) in zip((0.5, 0.25, 0.125), QUIET, strict=True):
        with mode():
            values = (one.detach().clone() for one in given)
            call([other(name, one, size) for name, one in zip(names, values, strict=True)])
