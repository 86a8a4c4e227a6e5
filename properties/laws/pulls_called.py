"""What autograd may do that must not matter to the pullback of a method.

Values are not moved, and no reference is involved: gradients of one implementation are compared, within the bounds of
both. How cotangents lie is in `properties.laws.pulls_cotangents`, and what comes between a forward pass and its
backward pass in `properties.laws.pulls_between`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from properties.core.handing import stored_dtype
from properties.core.implementation import Implementation
from properties.core.pulling import accumulate, pulled_back
from properties.core.trial import Trial, same_numbers, wide
from properties.laws.calls import Place
from properties.laws.layouts import among_nan
from properties.laws.pulls import Pulled
from properties.laws.pulls_between import does_not_see_what_comes_between, resized
from properties.laws.pulls_cotangents import does_not_see_how_cotangents_lie

FURTHER = 24
"""Forward passes before a backward one: what is saved outside of the graph comes in rings of 2, 4, 8 and 16."""


def does_not_see_how_it_is_called(trial: Trial, pulled: Pulled) -> None:
    """Compare the gradients of one pass with those under other circumstances."""
    names, stored = pulled.names, stored_dtype(trial.implementation, trial.dtype)

    def run(target: Implementation, place: Place) -> Any:
        def leaves(asked: Callable[[int], bool] = lambda k: True) -> list[Tensor]:
            return [place(one).clone().requires_grad_(asked(k)) for k, one in enumerate(pulled.inputs)]

        def fresh(bars: list[Tensor | None], asked: Callable[[int], bool] = lambda k: True) -> tuple[Tensor, ...]:
            given = leaves(asked)
            return tuple(pulled_back(pulled.function(target, given), given, bars))

        def accumulated(bars: list[Tensor]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
            """Half of what two backward passes leave in the leaves, as for the parts of a batch, and what hooks of the
            leaves see of the second, as a trainer sees gradients that it reduces over ranks."""
            given = leaves()
            own = [bar.clone() for bar in bars]  # what comes through views alone autograd keeps as a .grad, and adds to
            accumulate(pulled.function(target, given), own)
            seen = [torch.zeros_like(one) for one in given]
            for one, so_far in zip(given, seen, strict=True):
                one.register_hook(partial(_added, so_far))
            accumulate(pulled.function(target, given), [bar.clone() for bar in bars])
            return tuple(torch.zeros_like(one) if one.grad is None else 0.5 * one.grad for one in given), tuple(seen)

        def between(keep: bool) -> tuple[list[Tensor], list[Tensor], tuple[Tensor, ...]]:
            """A backward pass after other forward passes, as of later layers or of the next parts of a batch."""
            given = leaves()
            outputs = pulled.function(target, given)
            bars = [place(bar).to(o.dtype).clone() for bar, o in zip(pulled.cotangents, outputs, strict=True)]
            for k in range(FURTHER):
                pulled.function(target, resized(pulled, leaves(), 0.5 + k / 64, stored))
            found = pulled_back(outputs, given, [*bars], keep=keep)
            first = tuple(one.clone() for one in found)
            if keep:
                again["a second time"] = tuple(pulled_back(outputs, given, [*bars]))
            return bars, found, first

        again: dict[str, tuple[Tensor, ...]] = {}
        try:
            bars, found, first = between(keep=True)
        except RuntimeError:  # buffers donated by a compiler, say: a graph that refuses to be kept gives nothing wrong
            bars, found, first = between(keep=False)
        kept = [place(bar).to(used.dtype) for bar, used in zip(pulled.cotangents, bars, strict=True)]
        own = leaves()  # a fused sum of gradients finds leaves alone
        again["for inputs that are results themselves"] = tuple(
            pulled_back(pulled.function(target, [one * 1 for one in own]), own, [*bars])
        )
        if trial.implementation.strided:
            own = leaves()
            views = [torch.cat([one, one - 1], -1)[..., : one.shape[-1]] for one in own]
            again["for inputs that are slices"] = tuple(pulled_back(pulled.function(target, views), own, [*bars]))
            own = leaves()
            views = [among_nan(one) for one in own]
            again["for inputs that are NaN beside them"] = tuple(
                pulled_back(pulled.function(target, views), own, [*bars])
            )
            own = leaves()  # rows that follow one another, and tokens that do not
            views = [torch.stack([one, one - 1], 1)[:, 0] if k < pulled.by_token else one for k, one in enumerate(own)]
            again["for every second of more tokens"] = tuple(pulled_back(pulled.function(target, views), own, [*bars]))
            own = leaves()  # a weight is stored as a linear layer has it, and handed over transposed
            views = [one.mT.contiguous().mT if one.ndim > 1 else one for one in own]
            again["for inputs that lie transposed"] = tuple(pulled_back(pulled.function(target, views), own, [*bars]))
            own = leaves()  # as those of an optimiser lie, one after the other in one storage
            views = [torch.cat([one.new_ones(1), one.flatten()])[1:].view(one.shape) for one in own]
            again["for inputs off the start of a storage"] = tuple(
                pulled_back(pulled.function(target, views), own, [*bars])
            )
        with torch.autograd.graph.saved_tensors_hooks(_copied, _copied):
            again["where autograd keeps copies of what is saved"] = fresh([*bars])
        left, hooked = accumulated(bars)
        again["added to those of a backward pass before"] = left
        again["as hooks of the leaves see it, beside those of a backward pass before"] = hooked
        own, kept_grads = leaves(), [place(one) - 0.5 for one in pulled.inputs]
        for one, grad in zip(own, kept_grads, strict=True):
            one.grad = grad.clone()
        again["of leaves that have gradients"] = tuple(pulled_back(pulled.function(target, own), own, [*bars]))
        grads = tuple(one.grad for one in own), tuple(kept_grads)
        again["for the outputs that are used alone"] = fresh([bar if bool(bar.any()) else None for bar in bars])
        alone = tuple(fresh([*bars], lambda k, j=j: k == j)[0] for j in range(len(names)))
        frozen = tuple(fresh([*bars], lambda k, off=off: k not in off) for off in freezing)
        used = (tuple(bars), tuple(kept)), grads
        singly = tuple(
            (fresh([bar if k == only else None for k, bar in enumerate(bars)]), fresh([*only_one(bars, only)]))
            for only in several
        )
        return first, tuple(found), used, tuple(again.items()), (alone, frozen, singly)

    def only_one(bars: Sequence[Tensor], only: int) -> tuple[Tensor, ...]:
        return tuple(bar if k == only else torch.zeros_like(bar) for k, bar in enumerate(bars))

    several = [k for k, bar in enumerate(pulled.cotangents) if bool(bar.any())] if len(pulled.cotangents) > 1 else []

    freezing = _freezings(pulled)
    first, later, used, again, (alone, frozen, singly) = trial.observe(pulled.method, run)
    (bars, kept), (grads, before_grads) = used
    what = f"the gradient of {pulled.method} by"
    for bar, before in zip(bars, kept, strict=True):
        same, of = torch.equal(bar, before), f"a cotangent after the backward pass of {pulled.method}"
        trial.holds(of, same, "changed", "as before", kind="memory")
    for name, one, before in zip(names, later, first, strict=True):
        same = same_numbers(one, before)
        trial.holds(f"{what} {name} after further backward passes", same, "changed", "as returned", kind="memory")
    for name, one, before in zip(names, grads, before_grads, strict=True):
        same, of = one is not None and same_numbers(one, before), f"the .grad of {name} after autograd.grad"
        trial.holds(f"{of} of {pulled.method}", same, "changed", "as before", kind="memory")
    bounds = pulled.errors(pulled.cotangents)
    slack = [2 * error for error in bounds]
    every = list(range(len(names)))
    others = [("with no other input asking for one", every, alone)]
    for off, found in zip(freezing, frozen, strict=True):
        of = " and ".join(names[k] for k in sorted(off))
        others.append((f"with {of} asking for none", [k for k in every if k not in off], found))
    for circumstance, asked, found in (*((how, every, found) for how, found in again), *others):
        for k, one in zip(asked, found, strict=True):
            trial.near(f"{what} {names[k]} {circumstance}", one, wide(first[k]), slack[k])
    for only, (without, zeros) in zip(several, singly, strict=True):
        slack = [2 * error for error in pulled.errors(only_one(pulled.cotangents, only))]
        for name, one, other, error in zip(names, without, zeros, slack, strict=True):
            told = f"{what} {name} where {pulled.call.gives[only]} is used alone"
            trial.near(told, one, wide(other), error)
    does_not_see_how_cotangents_lie(trial, pulled, bounds)
    does_not_see_what_comes_between(trial, pulled, bounds)


def does_not_see_strides_of_zero(trial: Trial, pulled: Pulled) -> None:
    """Compare the gradients by biases and gates of one number each, and by a state whose streams are one, that lie in
    full with those by an expanded number, and by an expanded stream.

    `pulled` is given such biases, gates, and states.
    """
    names = pulled.names
    axes = [0 if name in ("bias", "alpha") else 1 if k < pulled.by_token else None for k, name in enumerate(names)]

    def run(target: Implementation, place: Place) -> Any:
        def gradients(leaves: list[Tensor]) -> tuple[Tensor, ...]:
            bars = [place(bar).clone() for bar in pulled.cotangents]
            return tuple(pulled_back(pulled.function(target, leaves), leaves, bars))

        given = [place(one).clone() for one in pulled.inputs]
        full = gradients([one.clone().requires_grad_() for one in given])
        lying = [
            one if axis is None else one.narrow(axis, 0, 1).expand(one.shape)
            for one, axis in zip(given, axes, strict=True)
        ]
        return full, gradients([one.detach().requires_grad_() for one in lying])

    full, expanded = trial.observe(pulled.method, run)
    for name, one, other, error in zip(names, expanded, full, pulled.errors(pulled.cotangents), strict=True):
        what = f"the gradient of {pulled.method} by {name} for what is one number or one stream, expanded"
        trial.near(what, one, wide(other), 2 * error)


def _copied(one: Tensor) -> Tensor:
    """What offloading to another device comes back as: the same values elsewhere, in the order of their entries."""
    return torch.empty(one.shape, dtype=one.dtype, device=one.device).copy_(one.detach())


def _added(so_far: Tensor, bar: Tensor | None) -> None:
    if bar is not None:  # a backward pass of one's own says so of what it does not read
        so_far.add_(bar)


def _freezings(pulled: Pulled) -> list[frozenset[int]]:
    """Which inputs ask for no gradient: each alone, those of each layer, and some together, which the cotangents of the
    case choose."""
    count = len(pulled.names)
    if count < 2:
        return []
    alone = [frozenset((k,)) for k in range(count)]
    layers = sorted({name.partition(" of ")[2] for name in pulled.names} - {""})
    alone += [frozenset(k for k, name in enumerate(pulled.names) if name.endswith(f" of {one}")) for one in layers]
    some = range(2, count) if count < 10 else ()  # of many inputs layers are what is frozen together
    together = [frozenset(off) for size in some for off in itertools.combinations(range(count), size)]
    if not together:
        return alone
    number = sum(int(wide(bar).ne(0).sum()) + int(wide(bar).gt(0).sum()) for bar in pulled.cotangents)
    return [*alone, together[number % len(together)]]
