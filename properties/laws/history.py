"""What was called before must not matter: the first call of a shape, and other calls between two equal ones, or within.

Judges of calls and of pullbacks, as in `properties.laws.calls` and `properties.laws.pulls`. A number of tokens that no
call has had before is not part of a case: the next example, and a replay in another process, must meet another one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mhc_ref import Params
from properties.core.case import BranchSpec, map_tensors
from properties.core.handing import storable, stored_dtype
from properties.core.implementation import Implementation, dtype_names, parameter_dtype
from properties.core.pulling import pulled_back
from properties.core.trial import Trial, wide
from properties.laws.calls import Call, Place, asking, every_mode, flooded, kept
from properties.laws.premises import mixes_in_compute_dtype
from properties.laws.pulls import Pulled
from properties.laws.surroundings import (
    GENERATORS,
    OF_A_BRANCH,
    Cancelled,
    attempted,
    flushes,
    generators,
    modes,
    restored,
    seeded,
)

_turn = itertools.count()
_LEAST, _SPREAD = 11, 89
QUIET, LOUD = 3, 4
"""How often the same is asked of a shape, without gradients and with them: what is tuned while it runs does so at the
first two or three calls."""


def fresh(trial: Trial, few: int = 0) -> int:
    """A number of tokens, `few` at least, that has not been met for the last 88 times, as far as a call takes so
    many."""
    return min(trial.implementation.max_tokens, max(few, _LEAST) + next(_turn) % _SPREAD)


# -- the first call ----------------------------------------------------------------------------------------------------


def first_calls_are_like_later_ones(trial: Trial, pulled: Pulled) -> None:
    """The first calls of a number of tokens give what later ones do, without gradients, and backwards.

    The tokens are those of the case over and over; the cotangents of all but the first ones are 0.
    """
    pulls = _pulls(trial, pulled)

    def run(target: Implementation, place: Place) -> Any:
        def once(count: int, recorded: bool) -> _Given:
            return _of_the_first(pulled, target, place, count, recorded)

        few = pulled.inputs[0].shape[0]
        with torch.no_grad():
            quiet, count = [], fresh(trial, few)
            for _ in range(QUIET):
                quiet.append(once(count, False))
        count = fresh(trial, few)
        loud = [once(count, pulls) for _ in range(LOUD)]
        count = fresh(trial, few)
        with torch.inference_mode():
            once(count, False)  # what is made there and kept cannot be saved for a backward pass
        return tuple(quiet), (once(count, pulls), *loud)

    quiet, loud = trial.observe(pulled.method, run)
    outputs, gradients = loud[-1]
    slack = pulled.call.errors()
    bounds = pulled.errors(pulled.cotangents) if pulls else []
    named = [(f"call {k + 1} of a number of tokens under no_grad", one) for k, one in enumerate(quiet)]
    named += [("a call after one in inference mode", loud[0])]
    named += [(f"call {k + 1} of a number of tokens", one) for k, one in enumerate(loud[1:-1])]
    for called, (first, found) in named:
        what = f"{called}, against a later one"
        for name, one, other, error in zip(pulled.call.gives, first, outputs, slack, strict=True):
            trial.near(f"{name} of {what}", one, wide(other), 2 * error, kind="memory")
        for name, one, other, error in zip(pulled.names, found, gradients, bounds, strict=False):
            trial.near(f"the gradient by {name} of {what}", one, wide(other), 2 * error, kind="memory")


_Given = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]
"""What a call gave for the tokens of a case, and the gradients."""


def _pulls(trial: Trial, pulled: Pulled) -> bool:
    """Whether gradients are promised, and have a bound."""
    implementation = trial.implementation
    part = pulled.method in ("project", "mappings")
    return trial.differentiable and (part or mixes_in_compute_dtype(implementation, trial.dtype) is None)


def _of_the_first(pulled: Pulled, target: Implementation, place: Place, count: int, recorded: bool) -> _Given:
    """What a call of so many tokens gives for those of the case, which come over and over, and whose cotangents alone
    are not 0."""
    few = pulled.inputs[0].shape[0]
    inputs = [
        flooded(place(one), count) if k < pulled.by_token else place(one).clone() for k, one in enumerate(pulled.inputs)
    ]
    given = [one.requires_grad_(recorded) for one in inputs]
    outputs = pulled.function(target, given)
    first = kept([one[:few] for one in outputs])
    if not recorded:
        return first, ()
    bars = [_padded(place(bar), count) for bar in pulled.cotangents]
    found = pulled_back(outputs, given, bars)
    return first, tuple(one[:few] if k < pulled.by_token else one for k, one in enumerate(found))


def _padded(bar: Tensor, count: int) -> Tensor:
    """A cotangent for so many tokens, 0 for those beyond its own."""
    return torch.cat([bar, bar.new_zeros(count - bar.shape[0], *bar.shape[1:])])


_width = itertools.count()
LONG = 1031
"""Tokens of a call that is long: more than a launch of 1024 threads takes."""


def spread(multiple: int) -> int:
    """How many numbers of channels are met in turn; fewer where they are far apart."""
    return max(8, 48 // multiple)


def fresh_width(trial: Trial, widest: int) -> int:
    """A number of channels that has not been met for a while, of those that the inputs can be narrowed to."""
    multiple = trial.implementation.channel_multiple
    return widest - multiple * (next(_width) % spread(multiple))


def first_call_decides_nothing(trial: Trial, widest: int, at: Callable[[int], Sequence[Pulled]]) -> None:
    """At a number of channels that is first met with many tokens, and at one that is first met with few, both give the
    same.

    Arguments:
        widest: the most channels that there are inputs for.
        at: a number of channels -> what is pulled back there, always of the same methods.
    """
    most = min(LONG, trial.implementation.max_tokens)

    def run(target: Implementation, place: Place) -> Any:
        found: list[Any] = []
        for long_first in (True, False):
            channels = fresh_width(trial, widest)
            for pulled in at(channels):
                few = pulled.inputs[0].shape[0]
                one, two = (
                    _of_the_first(pulled, target, place, count, _pulls(trial, pulled))
                    for count in ((most, few) if long_first else (few, most))
                )
                found.append((channels, one, two))
        return tuple(found)

    for k, (channels, one, two) in enumerate(trial.observe("the methods of a block", run)):
        stages = at(channels)
        pulled = stages[k % len(stages)]
        long_first = k < len(stages)
        what = f"of {'few' if long_first else 'many'} tokens after a first call of {'many' if long_first else 'few'}"
        for name, a, b, error in zip(pulled.call.gives, one[0], two[0], pulled.call.errors(), strict=True):
            trial.near(f"{name} {what}", b, wide(a), 2 * error, kind="memory")
        bounds = pulled.errors(pulled.cotangents) if one[1] else []
        for name, a, b, error in zip(pulled.names, one[1], two[1], bounds, strict=False):
            trial.near(f"the gradient of {pulled.method} by {name} {what}", b, wide(a), 2 * error, kind="memory")


# -- other calls between -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Turn:
    """A call among others, and what the truth has for it; `alone`: with the tokens that it has, not with many."""

    what: str
    call: Call
    exact: Sequence[Tensor]
    alone: bool = False


def is_itself_among_others(trial: Trial, turns: Sequence[Turn]) -> None:
    """Every call of a sequence is what the truth says, and the first one again at its end.

    What calls share are the same tensors in the same places, and they come in every mode of autograd. In another dtype
    that is declared, the first one is called before all of them and once between.
    """
    first = turns[0]
    order, every = (*turns, first), every_mode(trial)
    others = [one for one in map(_dtype, dtype_names(trial.implementation)) if one != trial.dtype]
    others.sort(key=lambda one: -torch.finfo(one).eps)  # what is kept in the coarsest shows

    def run(target: Implementation, place: Place) -> Any:
        def through(count: int, mode: str) -> tuple[tuple[Tensor, ...], ...]:
            placed: dict[tuple[int, int], Tensor] = {}

            def once(one: Tensor, tokens: int = 0) -> Tensor:
                if (key := (id(one), tokens)) not in placed:
                    placed[key] = flooded(place(one), tokens) if tokens else place(one).clone()
                return placed[key]

            def given(turn: Turn) -> list[Any]:
                tokens = 0 if turn.alone else count
                return [
                    once(one, tokens) if isinstance(one, Tensor) else asking(map_tensors(one, once), mode, trial)
                    for one in turn.call.given
                ]

            def in_another_dtype() -> None:
                for dtype in others[:1]:
                    first.call.on(target, [_cast(trial, one, dtype, first.call.method) for one in given(first)])

            in_another_dtype()
            found: list[tuple[Tensor, ...]] = []
            for k, turn in enumerate(order):
                outputs = turn.call.on(target, given(turn))
                found.append(kept([one[: turn.call.given[0].shape[0]] for one in outputs]))  # however many there were
                if k == 1:
                    in_another_dtype()
            return tuple(found)

        most = max(turn.call.given[0].shape[0] for turn in order)
        counts = [fresh(trial, most) for _ in every]
        sequences: list[Any] = []
        for count, (name, mode) in zip(counts, every, strict=True):
            with mode():
                sequences.append(through(count, name))
        return tuple(sequences)

    for (mode, _), sequence in zip(every, trial.observe(first.call.method, run), strict=True):
        for k, (turn, found) in enumerate(zip(order, sequence, strict=True)):
            what = (turn.what if k < len(turns) else f"{turn.what}, after the others") + mode
            for name, one, exact, error in zip(turn.call.gives, found, turn.exact, turn.call.errors(), strict=True):
                trial.within(f"{name} of {what}", one, exact, error)


# -- what is left behind -----------------------------------------------------------------------------------------------


def leaves_surroundings(trial: Trial, call: Call) -> None:
    """The modes of torch are as before a call, also within its branch, and no generator is set to a fixed state."""

    def run(target: Implementation, place: Place) -> Any:
        given = map_tensors(call.given, place)
        inside, outside = list[bool](), list[bool]()

        def states(seed: int) -> tuple[Any, ...]:
            """Of generators after the first call of a number of tokens."""
            count = fresh(trial)
            seeded(seed)
            if flushed:  # by an earlier call perhaps
                torch.set_flush_denormal(False)
            before = modes()

            def within(branch: Any, u: Tensor) -> Tensor:
                # who computes a branch again backwards calls it without gradients first
                inside.append(modes()[OF_A_BRANCH] == before[OF_A_BRANCH])
                return branch(u)

            own = [partial(within, one) if isinstance(one, BranchSpec) else one for one in given]
            call.on(target, [flooded(one, count) if isinstance(one, Tensor) else one for one in own])
            outside.append(modes() == before)
            return generators()

        flushed = flushes()
        with restored():
            with torch.no_grad():
                first = states(1)
            second = states(2)
        return all(inside), all(outside), tuple(one != other for one, other in zip(first, second, strict=True))

    within, after, apart = trial.observe(call.method, run)
    trial.holds("the modes of torch within a branch", within, "others", "as before the call", kind="memory")
    trial.holds("the modes of torch after a call", after, "others", "as before", kind="memory")
    for name, one in zip(GENERATORS, apart, strict=True):
        what = f"the global generator of {name} after the first call of a number of tokens"
        trial.holds(what, one, "in one state, whatever it was in before", "left alone", kind="memory")


# -- other calls within ------------------------------------------------------------------------------------------------


class _OutOfMemory(RuntimeError):
    """What a branch raises here."""


def is_not_disturbed_by_its_branch(trial: Trial, call: Call, other: Call) -> None:
    """A block, or layers, whose branches pass another one, and one after a call whose last branch raised, are as
    without."""

    recorded = (False, True) if trial.differentiable else (False,)
    raised = {_OutOfMemory: "raised", Cancelled: "was cancelled"}

    def run(target: Implementation, place: Place) -> Any:
        (x, params, branch), others = map_tensors(call.given, place), map_tensors(other.given, place)
        several: tuple[Any, ...] = branch if isinstance(branch, tuple) else (branch,)

        def passing(one: Any, u: Tensor) -> Tensor:
            call.on(target, others)
            return one(u)

        def raising(error: type[BaseException], u: Tensor) -> Tensor:
            raise error

        def through(*branches: Any) -> Any:
            """As many branches as the call has, or the one."""
            return branches if isinstance(branch, tuple) else branches[0]

        def once() -> Any:
            plain = kept(call.on(target, (x, params, branch)))
            within = kept(call.on(target, (x, params, through(*(partial(passing, one) for one in several)))))
            after: list[tuple[Tensor, ...]] = []
            for error in raised:
                attempted(
                    lambda error=error: call.on(target, (*others[:2], through(*several[:-1], partial(raising, error))))
                )
                after.append(kept(call.on(target, (x, params, branch))))
            return plain, within, tuple(after)

        found: list[Any] = []
        for on in recorded:
            with torch.set_grad_enabled(on):
                if on:  # as in training, where what a backward pass needs waits for the branch, too
                    x, params, others = map_tensors((x, params, others), _asking)
                found.append(once())
        return tuple(found)

    for on, (plain, within, after) in zip(recorded, trial.observe(call.method, run), strict=True):
        mode = ", with gradients recorded" if on else ""
        bounds = call.errors()
        for name, one, nested, error in zip(call.gives, plain, within, bounds, strict=True):
            what = f"around a branch that passes another {call.method}{mode}"
            trial.near(f"{name} {what}", nested, wide(one), 2 * error, kind="memory")
        for how, found in zip(raised.values(), after, strict=True):
            for name, one, later, error in zip(call.gives, plain, found, bounds, strict=True):
                trial.near(f"{name} after one whose branch {how}{mode}", later, wide(one), 2 * error, kind="memory")


def _asking(one: Tensor) -> Tensor:
    return one.detach().clone().requires_grad_()


def _cast(trial: Trial, given: Any, dtype: torch.dtype, method: str) -> Any:
    """An argument for states of another dtype, parameters with values that can be stored beside these."""
    wide_enough = isinstance(given, Params) or method == "project"
    cast = map_tensors(given, lambda one: one.to(parameter_dtype(dtype) if wide_enough else dtype))
    return storable(cast, stored_dtype(trial.implementation, dtype)) if isinstance(cast, Params) else cast


def _dtype(name: str) -> torch.dtype:
    return getattr(torch, name)
