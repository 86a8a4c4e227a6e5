"""Pullbacks of a method as values, and what autograd may do that must not matter to one.

A law about it is a row, as in `properties.laws.calls`. Values are not moved, and no reference is involved: gradients of
one implementation are compared, within the bounds of both.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from mhc_ref import Params
from properties import bounds
from properties.bounds import Approx
from properties.core.case import Case, map_tensors
from properties.core.family import end_of
from properties.core.handing import rounded, stored_dtype
from properties.core.implementation import Implementation
from properties.core.trial import Trial, outputs_of, same_bits, wide
from properties.core.truth import accumulate, pulled_back
from properties.laws import calls, errors
from properties.laws.calls import Call, Place

FURTHER = 24
"""Forward passes before a backward one: what is saved outside of the graph comes in rings of 2, 4, 8 and 16."""


@dataclass(frozen=True)
class Pulled:
    """A call to be differentiated by every tensor that it is given.

    Attributes:
        call: the call.
        cotangents: one for each output.
        errors: cotangents -> the bound of the gradient by each input.
        still: names of inputs that no other forward pass may change.
    """

    call: Call
    cotangents: tuple[Tensor, ...]
    errors: Callable[[tuple[Tensor, ...]], list[Tensor]]
    still: tuple[str, ...] = ()

    @property
    def method(self) -> str:
        """The name of the method."""
        return self.call.method

    @property
    def names(self) -> tuple[str, ...]:
        """Of its inputs."""
        return tuple(name for name, _ in self.call.tensors(self.call.given))

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What it is given; the first `by_token` of them have a token axis in front, the rest are parameters."""
        return tuple(one for _, one in self.call.tensors(self.call.given))

    @property
    def by_token(self) -> int:
        """How many of its inputs have a token axis."""
        return sum(isinstance(one, Tensor) for one in self.call.given)

    def function(self, target: Implementation, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The outputs for other inputs."""
        left = iter(inputs)

        def filled(one: Any) -> Any:
            if isinstance(one, Tensor):
                return next(left)
            if isinstance(one, Params):
                return Params(*(None if part is None else next(left) for part in one))  # pyright: ignore[reportArgumentType]
            if isinstance(one, tuple):
                return tuple(filled(part) for part in cast("tuple[Any, ...]", one))
            return map_tensors(one, lambda part: part.to(inputs[0].device))

        return tuple(outputs_of(self.call.on(target, [filled(one) for one in self.call.given])))


def projection(trial: Trial, case: Case) -> Pulled:
    """`project`, of logits and a cotangent."""
    call = calls.projection(trial, case.logits)
    return Pulled(call, (case.cotangent,), lambda bars: [errors.projection_gradient(trial, case.logits, bars[0]).error])


def mappings(trial: Trial, case: Case) -> Pulled:
    """`mappings`, of x, params and a cotangent of each."""
    call = calls.mappings(trial, case.x, case.params)

    def bound(bars: tuple[Tensor, ...]) -> list[Tensor]:
        given = dict(zip(call.parts, bars, strict=True))
        every = [given.get(k, torch.zeros_like(bar)) for k, bar in enumerate(case.cotangents)]
        return errors.by_parameters(errors.mappings_gradient(trial, case.x, case.params, every), case.x, case.params)

    return Pulled(call, tuple(case.cotangents[k] for k in call.parts), bound)


def block(trial: Trial, case: Case) -> Pulled:
    """A block, of x, params, a branch whose derivative is known, and a cotangent."""
    call = calls.block(trial, case.x, case.params, case.branch)

    def bound(bars: tuple[Tensor, ...]) -> list[Tensor]:
        found = errors.block_gradient(trial, case.x, case.params, case.branch, bars[0])
        return errors.by_parameters(found, case.x, case.params)

    return Pulled(call, (case.cotangent,), bound)


def stack(trial: Trial, case: Case) -> Pulled:
    """`stack`, of h, n, params, branches whose derivatives are known, a head where there is one, and a cotangent."""
    call = calls.stack(trial, case, case.h)
    every: tuple[Params, ...] = (*case.params, *case.head)

    def bound(bars: tuple[Tensor, ...]) -> list[Tensor]:
        stack = (case.h, case.n, case.params, case.branches, case.head, bars[0])
        by_h, layers = bounds.pullback.stack(*stack, trial.dialect, trial.rounding)
        found = [by_h.error]
        for params, back in zip(every, layers, strict=True):
            found += [
                getattr(back, name).error.view_as(one) for name, one in params._asdict().items() if one is not None
            ]
        return found

    return Pulled(call, (case.cotangent,), bound)


def mixtures(trial: Trial, case: Case) -> list[Pulled]:
    """post, and pre where it is offered, of x, y, h_post, h_res and cotangents of both."""
    found: list[Pulled] = []
    for call in calls.mixtures(trial, case):

        def bound(bars: tuple[Tensor, ...], method: str = call.method) -> list[Tensor]:
            return [part.error for part in errors.mixture_gradient(trial, case, method, bars[0]).values()]

        found.append(Pulled(call, (case.cotangents[call.method == "pre"],), bound, ("h_res",)))
    return found


def collapse(trial: Trial, case: Case) -> Pulled:
    """`collapse`, of x, a head where the dialect has one, and a cotangent of the shape of x."""
    head: Params | None = case.head if end_of(trial.dialect).HEAD else None
    given, names = ((case.x, head), ("x", "head")) if head else ((case.x,), ("x",))
    call = Call("collapse", names, given, ("collapse",), lambda: (errors.collapse(trial, case.x, head).error,))

    def bound(bars: tuple[Tensor, ...]) -> list[Tensor]:
        found = bounds.pullback.collapse(Approx.exact(case.x), bars[0], trial.dialect, trial.rounding, head)
        if isinstance(found, Approx):
            return [found.error]
        assert head is not None
        return errors.by_parameters(found, case.x, head)

    return Pulled(call, (case.cotangent[..., 0, :].contiguous(),), bound)


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
            accumulate(pulled.function(target, given), bars)
            seen = [torch.zeros_like(one) for one in given]
            for one, so_far in zip(given, seen, strict=True):
                one.register_hook(partial(_added, so_far))
            accumulate(pulled.function(target, given), bars)
            return tuple(torch.zeros_like(one) if one.grad is None else 0.5 * one.grad for one in given), tuple(seen)

        def other(size: float) -> list[Tensor]:
            """Inputs of another size, parameters as they can be stored."""
            changed = [one if name in pulled.still else one * size for one, name in zip(leaves(), names, strict=True)]
            return [one if k < pulled.by_token else rounded(one, stored) for k, one in enumerate(changed)]

        def between(keep: bool) -> tuple[list[Tensor], list[Tensor], tuple[Tensor, ...]]:
            """A backward pass after other forward passes, as of later layers or of the next parts of a batch."""
            given = leaves()
            outputs = pulled.function(target, given)
            bars = [place(bar).to(o.dtype).clone() for bar, o in zip(pulled.cotangents, outputs, strict=True)]
            for k in range(FURTHER):
                pulled.function(target, other(0.5 + k / 64))
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
        spaced: list[Tensor | None] = [torch.stack([bar, bar - 1], -1)[..., 0] for bar in bars]
        again["for cotangents that are not contiguous"] = fresh(spaced)
        own = leaves()  # a fused sum of gradients finds leaves alone
        again["for inputs that are results themselves"] = tuple(
            pulled_back(pulled.function(target, [one * 1 for one in own]), own, [*bars])
        )
        if trial.implementation.strided:
            own = leaves()
            views = [torch.cat([one, one - 1], -1)[..., : one.shape[-1]] for one in own]
            again["for inputs that are slices"] = tuple(pulled_back(pulled.function(target, views), own, [*bars]))
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
        again["for slices of wider cotangents"] = fresh(
            [torch.cat([bar, bar - 1], -1)[..., : bar.shape[-1]] for bar in bars]
        )
        again["for the outputs that are used alone"] = fresh([bar if bool(bar.any()) else None for bar in bars])
        wide_bars: list[Tensor | None] = [bar[..., :1].expand(bar.shape) for bar in bars]
        copied = fresh([None if bar is None else bar.contiguous() for bar in wide_bars])
        expanded = fresh(wide_bars)
        alone = tuple(fresh([*bars], lambda k, j=j: k == j)[0] for j in range(len(names)))
        frozen = tuple(fresh([*bars], lambda k, off=off: k not in off) for off in freezing)
        used = (tuple(bars), tuple(kept)), grads
        singly = tuple(
            (fresh([bar if k == only else None for k, bar in enumerate(bars)]), fresh([*only_one(bars, only)]))
            for only in several
        )
        return first, tuple(found), used, tuple(again.items()), (expanded, copied), (alone, frozen, singly)

    def only_one(bars: Sequence[Tensor], only: int) -> tuple[Tensor, ...]:
        return tuple(bar if k == only else torch.zeros_like(bar) for k, bar in enumerate(bars))

    several = [k for k, bar in enumerate(pulled.cotangents) if bool(bar.any())] if len(pulled.cotangents) > 1 else []

    freezing = _freezings(pulled)
    first, later, used, again, (expanded, copied), (alone, frozen, singly) = trial.observe(pulled.method, run)
    (bars, kept), (grads, before_grads) = used
    what = f"the gradient of {pulled.method} by"
    for bar, before in zip(bars, kept, strict=True):
        same, of = torch.equal(bar, before), f"a cotangent after the backward pass of {pulled.method}"
        trial.holds(of, same, "changed", "as before", kind="memory")
    for name, one, before in zip(names, later, first, strict=True):
        same = same_bits(one, before)
        trial.holds(f"{what} {name} after further backward passes", same, "changed", "as returned", kind="memory")
    for name, one, before in zip(names, grads, before_grads, strict=True):
        same, of = one is not None and same_bits(one, before), f"the .grad of {name} after autograd.grad"
        trial.holds(f"{of} of {pulled.method}", same, "changed", "as before", kind="memory")
    slack = [2 * error for error in pulled.errors(pulled.cotangents)]
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
    wide_bars = tuple(bar[..., :1].expand(bar.shape).contiguous() for bar in pulled.cotangents)
    for name, one, other, error in zip(names, expanded, copied, pulled.errors(wide_bars), strict=True):
        trial.near(f"{what} {name} for an expanded cotangent", one, wide(other), 2 * error)


def does_not_see_strides_of_zero(trial: Trial, pulled: Pulled) -> None:
    """Compare the gradients by biases and gates of one number each that lie in full with those by an expanded number.

    `pulled` is given such biases and gates.
    """
    names = pulled.names
    expands = [name in ("bias", "alpha") for name in names]

    def run(target: Implementation, place: Place) -> Any:
        def gradients(leaves: list[Tensor]) -> tuple[Tensor, ...]:
            bars = [place(bar).clone() for bar in pulled.cotangents]
            return tuple(pulled_back(pulled.function(target, leaves), leaves, bars))

        given = [place(one).clone() for one in pulled.inputs]
        full = gradients([one.clone().requires_grad_() for one in given])
        lying = [one[:1].expand(one.shape) if on else one for one, on in zip(given, expands, strict=True)]
        return full, gradients([one.detach().requires_grad_() for one in lying])

    full, expanded = trial.observe(pulled.method, run)
    for name, one, other, error in zip(names, expanded, full, pulled.errors(pulled.cotangents), strict=True):
        what = f"the gradient of {pulled.method} by {name} for biases and gates that are one number, expanded"
        trial.near(what, one, wide(other), 2 * error)


def _copied(one: Tensor) -> Tensor:
    """What offloading to another device comes back as: the same values elsewhere, in the order of their entries."""
    return torch.empty(one.shape, dtype=one.dtype, device=one.device).copy_(one.detach())


def _added(so_far: Tensor, bar: Tensor) -> None:
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
