"""What a call may not write to, and what it may not remember: judges of calls, as in `properties.laws.calls`."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from mhc_ref import Params
from properties.core.case import map_tensors
from properties.core.implementation import Implementation
from properties.core.trial import Trial, same_numbers, wide
from properties.laws.calls import MANY, RECORDED, Call, Place, every_mode, flooded, kept, mappings, of_a_model

WRITING = ("", " in inference mode", RECORDED)
"""Modes in which nothing that is given may be written to: autograd would know of it in the last of them alone, and not
of what is written under no_grad there, as a weight that is normalised at every step is."""


def leaves_arguments_alone(trial: Trial, call: Call) -> None:
    """Nothing that a call is given is written to, nor in inference mode, where autograd would not know, nor where
    tokens are many, nor with gradients recorded; nor what it returned itself, where that is passed on to it. Lists of
    parameters and of branches are the caller's, too."""
    counts = (0, min(MANY, trial.implementation.max_tokens))
    modes = [(name, mode) for name, mode in every_mode(trial) if name in WRITING]

    def run(target: Implementation, place: Place) -> Any:
        def after(count: int, mode: str) -> tuple[bool, ...]:
            given = of_a_model(map_tensors(call.given, place), mode, trial)
            if count:
                given = tuple(flooded(one, count) if isinstance(one, Tensor) and len(one) else one for one in given)
            before, lists = map_tensors(given, _copy), [listed(one) for one in given]
            outputs = call.on(target, lists)
            pairs = zip(call.tensors(given), call.tensors(before), strict=True)
            found = [same_numbers(one.detach(), other) for (_, one), (_, other) in pairs]
            found.append(all(_holds(one, whole) for one, whole in zip(lists, given, strict=True)))
            if count or not follows(given[0], outputs):
                return (*found, True)
            (own,) = kept(outputs)
            call.on(target, (outputs[0], *given[1:]))
            return (*found, same_numbers(outputs[0].detach(), own))

        found: list[Any] = []
        for count in counts:
            for name, mode in modes:
                with mode():
                    found.append(after(count, name))
        return tuple(found)

    names = [name for name, _ in call.tensors(call.given)]
    names += ["lists of parameters and branches", f"what {call.method} returned, passed on to it,"]
    called = [f"{mode}{of}" for of in ("", f" of {counts[1]} tokens") for mode, _ in modes]
    for mode, found in zip(called, trial.observe(call.method, run), strict=True):
        for name, same in zip(names, found, strict=True):
            trial.holds(f"{name} after the call{mode}", same, "changed", "as before", kind="memory")


def _copy(one: Tensor) -> Tensor:
    return one.detach().clone()


def listed(one: Any) -> Any:
    """What has an entry for every layer as a list, which a callee could write to."""
    return list(cast("tuple[Any, ...]", one)) if isinstance(one, tuple) and not isinstance(one, Params) else one


def _holds(one: Any, whole: Any) -> bool:
    """Whether a list has still what it was made of."""
    if not isinstance(one, list):
        return True
    entries = cast("list[Any]", one)
    return len(entries) == len(whole) and all(a is b for a, b in zip(entries, whole, strict=True))


def follows(first: Tensor, outputs: Sequence[Tensor]) -> bool:
    """Whether what a call gave can be passed on to it in the place of its first argument."""
    return len(outputs) == 1 and outputs[0].shape == first.shape and outputs[0].dtype == first.dtype


def repeats_bits(trial: Trial, call: Call) -> None:
    """The same call on the same storage gives the same bits, but for the sign of a zero."""

    def run(target: Implementation, place: Place) -> Any:
        given = map_tensors(call.given, place)
        return tuple(kept(call.on(target, given)) for _ in range(3))

    first, *others = trial.observe(call.method, run)
    for k, name in enumerate(call.gives):
        same = all(same_numbers(first[k], other[k]) for other in others)
        trial.holds(f"{name} of the same call again", same, "other bits", "the same bits")


def has_no_memory(trial: Trial, call: Call, other: Call, outputs: bool = False) -> tuple[Tensor, ...]:
    """Other values in the same storage, the first ones again, and others in a new storage of the same tensors are
    treated as if nothing had been called before, in any mode: what is folded, cast or tuned for weights that learn no
    more is kept where gradients are off, and what is packed once for a kernel is kept while they are recorded.

    What was returned belongs to the caller, who writes to it before the first values come again. With `outputs`, it is
    looked at again after further calls, and the same call is made twice.

    Returns:
        what the call gave for the other values in the storage of the first.
    """

    def run(target: Implementation, place: Place) -> Any:
        def once(mode: str) -> Any:
            def copied(one: Call) -> Any:
                return of_a_model(map_tensors(one.given, place), mode, trial)

            def fresh(one: Call) -> tuple[Tensor, ...]:
                return kept(call.on(target, copied(one)))

            storage = copied(call)

            def hold(one: Call) -> None:
                for (_, old), (_, new) in zip(call.tensors(storage), call.tensors(one.given), strict=True):
                    old.data.copy_(place(new))  # as loaders of weights do: no version of a tensor counts it

            returned = call.on(target, storage)
            first = kept(returned)
            twice = kept(call.on(target, storage)) if outputs else first
            hold(other)
            second, alone = kept(call.on(target, storage)), fresh(other)
            later = kept(returned) if outputs else first  # before the first values come again
            for one in returned:
                with contextlib.suppress(RuntimeError):  # an expanded one is not to be written to
                    one.fill_(math.nan)
            hold(call)
            again, back = fresh(call), kept(call.on(target, storage))
            for (_, old), (_, new) in zip(call.tensors(storage), call.tensors(other.given), strict=True):
                _moved(old, place(new).clone())
            return first, twice, later, second, alone, again, back, kept(call.on(target, storage))

        found: list[Any] = []
        for name, mode in every_mode(trial):
            with mode():
                found.append(once(name))
        return tuple(found)

    found = trial.observe(call.method, run)
    one, two = call.errors(), other.errors()
    for (mode, _), (first, twice, later, second, alone, again, back, moved) in zip(
        every_mode(trial), found, strict=True
    ):
        for k, name in enumerate(call.gives):
            if outputs:
                if trial.implementation.deterministic:
                    same, what = same_numbers(first[k], twice[k]), f"{name} of the same call{mode}"
                    trial.holds(what, same, "other bits", "the same bits", kind="randomness")
                same, what = same_numbers(first[k], later[k]), f"{name} after further calls{mode}"
                trial.holds(what, same, "changed", "as returned", kind="memory")
            what = f"{name} of new {call.values} in old storage{mode}"
            trial.near(what, second[k], wide(alone[k]), 2 * two[k], kind="memory")
            what = f"{name} of the first {call.values} again{mode}"
            trial.near(what, again[k], wide(first[k]), 2 * one[k], kind="memory")
            what = (
                f"{name} of the first {call.values} back in their storage{mode}, after the caller wrote to what it got"
            )
            trial.near(what, back[k], wide(first[k]), 2 * one[k], kind="memory")
            what = f"{name} of new {call.values} in new storage of the same tensors{mode}"
            trial.near(what, moved[k], wide(alone[k]), 2 * two[k], kind="memory")
    return found[0][3]


def _moved(old: Tensor, new: Tensor) -> None:
    """Give a tensor other storage, as whoever shards, loads or moves a model does; one of a subclass, as those of a
    simulated device are, has rules of its own, and is written to."""
    if type(old) is Tensor:
        old.data = new
    else:
        old.data.copy_(new)


def each_parameter_is_read_anew(trial: Trial, x: Tensor, params: Params, others: Params) -> None:
    """Where one of the parameters alone has new values in its storage, mappings are made of these: who packs several
    in a row asks one of them perhaps whether they are others."""
    names = [name for name, one in params._asdict().items() if one is not None]
    changed = {name: mappings(trial, x, params._replace(**{name: getattr(others, name)})) for name in names}
    first = mappings(trial, x, params)

    def run(target: Implementation, place: Place) -> Any:
        found: list[tuple[tuple[Tensor, ...], tuple[Tensor, ...]]] = []
        with torch.no_grad():
            state, own = place(x).clone(), map_tensors(place(params), torch.clone)
            for name, call in changed.items():
                first.on(target, (state, own))
                getattr(own, name).copy_(place(getattr(others, name)))
                again = kept(call.on(target, (state, own)))
                found.append((again, kept(call.on(target, map_tensors(map_tensors(call.given, place), torch.clone)))))
                getattr(own, name).copy_(place(getattr(params, name)))
        return tuple(found)

    for (name, call), (found, fresh) in zip(changed.items(), trial.observe("mappings", run), strict=True):
        for gives, one, other, error in zip(call.gives, found, fresh, call.errors(), strict=True):
            what = f"{gives} where {name} alone has new values in its storage"
            trial.near(what, one, wide(other), 2 * error, kind="memory")
