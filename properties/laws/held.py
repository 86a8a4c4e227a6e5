"""What calls hand out stays as it is, however many follow; what they do not hand out, they let go.

Judges of calls, as in `properties.laws.calls`.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from properties.core.case import BranchSpec, map_tensors
from properties.core.implementation import Implementation
from properties.core.living import Living
from properties.core.trial import Trial, same_numbers
from properties.laws.calls import MANY, Call, Place, flooded, kept

FURTHER = 24
"""Calls of the same shapes after the one whose output is held: buffers come in rings of 2, 4, 8 and 16."""
OTHER_SHAPES = 6
"""After so many of them comes a call with another number of tokens."""
MODES = ("", " under no_grad", " with gradients recorded")
INFERENCE = " in inference mode"


def modes(trial: Trial) -> tuple[str, ...]:
    """The modes of autograd in which an implementation is called."""
    return MODES if trial.implementation.differentiable else MODES[:2]


def under(mode: str) -> AbstractContextManager[Any]:
    """The mode of torch by its name."""
    if mode == INFERENCE:
        return torch.inference_mode()
    return torch.no_grad() if mode == MODES[1] else nullcontext()


def lasting(given: Sequence[Any]) -> tuple[Any, ...]:
    """Copies of the arguments for all calls in one mode: parameters stay from call to call, as those of a module do,
    and so does what is kept beside them."""
    return map_tensors(tuple(given), torch.clone)


def varied(call: Call, given: Sequence[Any], mode: str, turn: int = 0, tokens: int = 0) -> tuple[Any, ...]:
    """The arguments in that mode, of which those with tokens are copies: the state or the logits turned by so many
    entries and a little smaller, for so many tokens."""
    first, *rest = (one.clone() if isinstance(one, Tensor) else one for one in given)
    first = first.flatten().roll(turn).view_as(first) * (1 - turn / 64)
    found = (first, *rest)
    if tokens:
        found = tuple(flooded(one, tokens) if isinstance(one, Tensor) else one for one in found)
    if mode == MODES[2]:
        for _, one in call.tensors(found):
            one.requires_grad_()
    return found


SHARED = 3
"""Blocks whose branch returns the same tensor, and calls of many tokens, in each mode."""
WIDE = 128
"""Channels that have a buffer of their own perhaps."""
CROWDS = 70, MANY
"""Numbers of tokens from which on outputs have a buffer perhaps: of the batches that graphs are recorded for, and of
what is large."""


def large_ones_outlive_further_calls(trial: Trial, call: Call) -> None:
    """What a call of many tokens returned, and handed to its branches, is not changed by two others of the same shapes,
    in any mode."""
    most = trial.implementation.max_tokens

    def run(target: Implementation, place: Place) -> Any:
        placed = map_tensors(call.given, place)

        def moved(mode: str, count: int) -> int:
            held: list[tuple[tuple[Tensor, ...], tuple[Tensor, ...]]] = []

            def keeping(branch: BranchSpec, u: Tensor) -> Tensor:
                held.append(((u,), kept((u,))))
                return branch(u)

            given = lasting(placed)
            with under(mode):
                for k in range(SHARED):
                    own = varied(call, given, mode, k, count)
                    if trial.implementation.in_process:  # a branch that keeps what it reads cannot be sent elsewhere
                        own = map_branches(own, lambda one: partial(keeping, one))
                    outputs = call.on(target, own)
                    held.append((outputs, kept(outputs)))
            return sum(_moved(*one) for one in held)

        return tuple(moved(mode, min(count, most)) for mode in (*modes(trial), INFERENCE) for count in CROWDS)

    every = [(mode, min(count, most)) for mode in (*modes(trial), INFERENCE) for count in CROWDS]
    for (mode, count), changed in zip(every, trial.observe(call.method, run), strict=True):
        what = f"what {SHARED} calls of {call.method} of {count} tokens gave, and handed to branches{mode}, all held"
        trial.holds(what, not changed, f"{changed} changed by later calls", "as returned", kind="memory")


def map_branches(given: Sequence[Any], change: Callable[[BranchSpec], Any]) -> tuple[Any, ...]:
    """The arguments of a call with other branches."""
    every: list[Any] = []
    for one in given:
        several = isinstance(one, tuple) and any(isinstance(part, BranchSpec) for part in one)
        each = tuple(change(part) for part in one) if several else one
        every.append(change(one) if isinstance(one, BranchSpec) else each)
    return tuple(every)


def outlives_further_calls(trial: Trial, call: Call) -> None:
    """What a call returned is not changed by many others, of the same shapes and of new ones, in any mode; nor what one
    of many tokens did."""
    most, further = trial.implementation.max_tokens, _further(call)

    def run(target: Implementation, place: Place) -> Any:
        placed = map_tensors(call.given, place)

        def through(mode: str) -> tuple[int, int]:
            """After how many further calls the first output was another, 0 for never; how many others were in the
            end."""
            held: list[tuple[tuple[Tensor, ...], tuple[Tensor, ...]]] = []
            given, changed = lasting(placed), 0
            with under(mode):
                for k in range(further + 1):
                    outputs = call.on(target, varied(call, given, mode, k))
                    held.append((outputs, kept(outputs)))
                    if k % OTHER_SHAPES == OTHER_SHAPES - 1:
                        call.on(target, varied(call, given, mode, k, min(given[0].shape[0] + 1 + k, most)))
                    changed = changed or k * _moved(*held[0])
            return changed, sum(_moved(*one) for one in held[1:])

        return tuple(through(mode) for mode in modes(trial))

    what = " and ".join(call.gives)
    for mode, (changed, others) in zip(modes(trial), trial.observe(call.method, run), strict=True):
        trial.holds(
            f"{what}, held through {further} further calls{mode}",
            not changed,
            f"changed by call {changed + 1}",
            "as returned",
            kind="memory",
        )
        trial.holds(
            f"{what} of {further} calls one after the other{mode}, all of them held",
            not others,
            f"{others} changed by later calls",
            "as returned",
            kind="memory",
        )
    if further == FURTHER:
        large_ones_outlive_further_calls(trial, call)


def _further(call: Call) -> int:
    """How many calls follow: of tokens beyond a tile, or of wide states, fewer."""
    state = call.given[0]
    return FURTHER if state.shape[0] < CROWDS[0] and state.shape[-1] < WIDE else OTHER_SHAPES


def _moved(outputs: Sequence[Tensor], copies: Sequence[Tensor]) -> int:
    return int(not all(same_numbers(one.detach(), copy) for one, copy in zip(outputs, copies, strict=True)))


def branch_inputs_outlive_further_calls(trial: Trial, call: Call, further: int = 0) -> None:
    """What a block, or each of several layers, handed to its branch, which keeps it, is not changed by what follows, in
    any mode; `further`: so many calls, where fewer than of others are enough."""
    most, further = trial.implementation.max_tokens, further or _further(call)

    def run(target: Implementation, place: Place) -> Any:
        placed = map_tensors(call.given, place)

        def moved(mode: str) -> int:
            """How many of the branch inputs, all of them held, were others in the end."""
            held: list[tuple[tuple[Tensor, ...], tuple[Tensor, ...]]] = []
            given = lasting(placed)

            def keeping(branch: BranchSpec, u: Tensor) -> Tensor:
                held.append(((u,), kept((u,))))
                return branch(u)

            def once(k: int, *tokens: int) -> None:
                state, params, branch = varied(call, given, mode, k, *tokens)
                several = isinstance(branch, tuple)
                kept_by = tuple(partial(keeping, one) for one in (branch if several else (branch,)))
                call.on(target, (state, params, kept_by if several else kept_by[0]))

            with under(mode):
                for k in range(further + 1):
                    once(k)
                    if k % OTHER_SHAPES == OTHER_SHAPES - 1:
                        once(k, min(given[0].shape[0] + 1 + k, most))
            return sum(_moved(*one) for one in held)

        return tuple(moved(mode) for mode in modes(trial))

    for mode, changed in zip(modes(trial), trial.observe(call.method, run), strict=True):
        of = "blocks" if call.method == "block" else f"calls of {call.method}"
        deep = f" of {len(call.given[1])} layers" if call.method == "layers" else ""
        what = f"what {further} {of}{deep} one after the other handed to their branches{mode}, all of it held"
        trial.holds(what, not changed, f"{changed} changed by what followed", "as handed over", kind="memory")


def leaves_branch_outputs_alone(trial: Trial, call: Call) -> None:
    """What a branch returned, and keeps, is not written to by the block that called it, in any mode."""

    def run(target: Implementation, place: Place) -> Any:
        x, params, branch = map_tensors(call.given, place)
        kept_output = branch(x[..., 0, :])
        before = kept_output.clone()

        def changed(mode: str) -> bool:
            given = lasting((x, params, branch))
            with under(mode):
                for turn in range(SHARED):
                    state, weights, _ = varied(call, given, mode, turn)
                    target.block(state, weights, lambda u: kept_output)
            return not same_numbers(kept_output, before)

        found = [changed(mode) for mode in modes(trial)]
        with torch.inference_mode():
            target.block(x.clone(), params, lambda u: kept_output)
        return (*found, not same_numbers(kept_output, before))

    every = (*modes(trial), INFERENCE)
    for mode, changed in zip(every, trial.observe(call.method, run), strict=True):
        what = f"what a branch returned, after the block that called it{mode}"
        trial.holds(what, not changed, "changed", "as returned", kind="memory")


CALLS = 40
"""How many calls are made one after the other, of which half may leave something: caches and rings have an end."""


def lets_go(trial: Trial, call: Call) -> None:
    """Once its outputs are dropped, a call has left no memory behind, but for what a bounded number of calls keep; and
    under no_grad nothing but its outputs while they are held, of parameters that learn as of others."""

    def run(target: Implementation, place: Place) -> Any:
        given = map_tensors(call.given, place)

        def left(mode: str, holding: bool = False) -> int:
            """How many of the calls have left something, beside their outputs where these are held."""
            learning = holding and trial.implementation.differentiable  # forward-only code may refuse what asks
            _, *rest = varied(call, lasting(given), MODES[2] if learning else mode)
            known: list[Tensor] = []
            map_tensors(tuple(rest), lambda one: (known.append(one), one)[1])
            living = Living(known)
            held: list[tuple[Tensor, ...]] = []

            def once(k: int) -> None:
                first, *_ = varied(call, (given[0], *(() for _ in rest)), mode, k)
                living.begin()
                living.note(first)
                with under(mode), living:
                    found = call.on(target, (first, *rest))
                    living.note(found)
                if holding:
                    held.append(found)

            for k in range(CALLS):
                once(k)
            if living.left(held) > CALLS // 2:
                gc.collect()  # what is kept by nobody but itself, as closures that call themselves keep it
            return living.left(held)

        return *(left(mode) for mode in modes(trial)[1:]), left(MODES[1], holding=True)

    what = " and ".join(call.gives)
    *dropped, beside = trial.observe(call.method, run)
    told = [(mode, count, f"once {what} is dropped") for mode, count in zip(modes(trial)[1:], dropped, strict=True)]
    for mode, count, when in (*told, (MODES[1], beside, f"beside {what}, which is held")):
        trial.holds(
            f"memory of earlier calls of {call.method}{mode}, {when}",
            count <= CALLS // 2,
            f"still held after {count} of {CALLS} calls of the same shapes",
            "let go",
            kind="memory",
        )
