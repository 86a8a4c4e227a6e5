"""What comes between a forward pass and its backward pass, and must not matter to it.

Training evaluates between the two, in whatever mode; pipelines and data parallelism run them in several threads; and
who called may write to what it was given.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from properties.core.handing import rounded, stored_dtype
from properties.core.implementation import Absent, Implementation
from properties.core.pulling import accumulate, pulled_back
from properties.core.trial import Trial, same_numbers, wide
from properties.laws.calls import QUIET, Place
from properties.laws.modes import in_another_thread
from properties.laws.pulls import Pulled


def resized(pulled: Pulled, given: Sequence[Tensor], size: float, stored: torch.dtype) -> list[Tensor]:
    """Inputs of another size, parameters as they can be stored; matrices that may be no others are those of other
    tokens."""
    changed = [
        one.roll(1, 0) if name in pulled.still else one * size for one, name in zip(given, pulled.names, strict=True)
    ]
    return [one if k < pulled.by_token else rounded(one, stored) for k, one in enumerate(changed)]


def does_not_see_what_comes_between(trial: Trial, pulled: Pulled, bounds: Sequence[Tensor]) -> None:
    """Compare the gradients of a backward pass right after its forward pass with those of one after something else.

    `bounds`: of the gradients for the cotangents.
    """
    stored, most = stored_dtype(trial.implementation, trial.dtype), trial.implementation.max_tokens
    count = pulled.inputs[0].shape[0]
    counts = [one for one in (count, max(1, count // 2), 2 * count) if one <= most]  # as many, fewer, and more
    others = _tuned(trial.implementation) if trial.implementation.in_process else {}

    def run(target: Implementation, place: Place) -> Any:
        def leaves(asking: bool = True) -> list[Tensor]:
            return [place(one).clone().requires_grad_(asking) for one in pulled.inputs]

        def forth() -> tuple[list[Tensor], Sequence[Tensor]]:
            given = leaves()
            return given, pulled.function(target, given)

        def back(
            given: Sequence[Tensor], outputs: Sequence[Tensor], keep: bool = False, sign: int = 1
        ) -> tuple[Tensor, ...]:
            bars = [sign * place(bar).to(o.dtype) for bar, o in zip(pulled.cotangents, outputs, strict=True)]
            return tuple(pulled_back(outputs, given, bars, keep))

        def evaluated(counts: Sequence[int]) -> None:
            """Calls that record nothing, of so many tokens each."""
            for turn, (name, mode) in enumerate(QUIET):
                with mode():
                    for k, tokens in enumerate(counts):
                        given = resized(pulled, leaves(), 0.75 - (3 * turn + k) / 32, stored)
                        given = [_so_many(one, tokens) if j < pulled.by_token else one for j, one in enumerate(given)]
                        asking = name == QUIET[1][0]  # as the parameters of a model in training do
                        pulled.function(target, [one.detach().requires_grad_(asking) for one in given])

        def next_part() -> tuple[list[Tensor], Sequence[Tensor]]:
            given = resized(pulled, leaves(), 0.625, stored)
            return given, pulled.function(target, given)

        def trained() -> tuple[Tensor, ...]:
            """The next part of a batch, forth and back."""
            return back(*next_part())

        def apart() -> dict[str, tuple[Tensor, ...]]:
            """The gradients by states and those by parameters, of passes of their own through one graph, as pipelines
            without bubbles have them, which send the former on before they make the latter."""
            parts = [pulled.names[: pulled.by_token], pulled.names[pulled.by_token :]]
            found: dict[str, tuple[Tensor, ...]] = {}
            for first in (0, 1) if all(parts) else ():
                given, outputs = forth()
                halves = [given[: pulled.by_token], given[pulled.by_token :]]
                own: list[tuple[Tensor, ...]] = [(), ()]
                with suppress(RuntimeError):  # as above
                    own[first] = back(halves[first], outputs, keep=True)
                    own[1 - first] = back(halves[1 - first], outputs)
                    how = "parameters" if first else "states"
                    found[f"where gradients by {how} alone are made first, and the others later"] = own[0] + own[1]
            return found

        def stepped() -> tuple[Tensor, ...]:
            """As hooks see them that write to a leaf once its gradient is there."""
            given, seen = leaves(), dict[int, Tensor]()

            def step(k: int, leaf: Tensor) -> None:
                if leaf.grad is None:  # a backward pass of one's own says so of what it does not read
                    return
                seen[k] = leaf.grad.clone()
                with torch.no_grad():
                    leaf.add_(1)

            for k, leaf in enumerate(given):
                leaf.register_post_accumulate_grad_hook(partial(step, k))
            outputs = pulled.function(target, given)
            accumulate(outputs, [place(bar).to(o.dtype) for bar, o in zip(pulled.cotangents, outputs, strict=True)])
            return tuple(seen.get(k, torch.zeros_like(leaf)) for k, leaf in enumerate(given))

        def let_go() -> tuple[list[Tensor], list[Tensor]]:
            """What was made of outputs which nobody holds any more."""
            given, outputs = forth()
            return given, [
                (place(bar).to(o) * o).sum()
                for bar, o in zip(pulled.cotangents, outputs, strict=True)
                if o.requires_grad
            ]

        def checkpointed(given: Sequence[Tensor]) -> Sequence[Tensor]:
            """The outputs of a forward pass that is computed again backwards, and there only as far as it is needed."""

            def called(*own: Tensor) -> tuple[Tensor, ...]:
                return tuple(pulled.function(target, own))

            return checkpoint(called, *given, use_reentrant=False)

        given, outputs = forth()
        handed = [one.detach().clone() for one in outputs]
        first = back(given, outputs)
        whole = (
            tuple(same_numbers(one.detach(), place(before)) for one, before in zip(given, pulled.inputs, strict=True)),
            tuple(same_numbers(one.detach(), before) for one, before in zip(outputs, handed, strict=True)),
        )
        again: dict[str, tuple[Tensor, ...]] = {}
        passed = forth()
        evaluated(counts)
        again["after calls that record nothing"] = back(*passed)
        passed = forth()
        with suppress(RuntimeError):  # a graph that refuses to be kept gives nothing wrong
            back(*passed, keep=True)
        trained()
        evaluated(counts[:1])
        with suppress(RuntimeError):  # as above
            again["a second time, after other calls"] = back(*passed, keep=True)
            again["by another loss of the same graph, taken back"] = tuple(-one for one in back(*passed, sign=-1))
        given = leaves()
        with torch.no_grad():
            pulled.function(target, given)
        again["of the very tensors that were passed without gradients before"] = back(
            given, pulled.function(target, given)
        )
        again |= apart()
        if others:
            passed = forth()
            with suppress(Absent):  # a value that is not offered
                own = leaves()
                back(own, pulled.function(target.tuned(**others), own))
                again["after another instance, tuned, was called"] = back(*passed)
        if trial.implementation.in_process:
            with suppress(RuntimeError):  # what is still needed was written to, and autograd says so
                again["of leaves that an optimiser steps as soon as each has its gradient"] = stepped()
        given, losses = let_go()
        trained()
        evaluated(counts[:1])
        bars = [torch.ones_like(one) for one in losses]
        again["after its outputs were let go of, and other calls"] = tuple(pulled_back(losses, given, bars))
        if trial.implementation.in_process:
            given = leaves()
            with suppress(RuntimeError):  # what cannot be computed again says so
                again["of a forward pass that is checkpointed"] = back(given, checkpointed(given))
            again["after a forward pass that was checkpointed"] = back(*forth())
        waiting, passed = next_part(), forth()
        back(*waiting)  # first in, first out, as in a pipeline
        waiting = next_part()
        again["of two forward passes that wait, after the backward pass of the first"] = back(*passed)
        back(*waiting)
        given, outputs = forth()
        if trial.implementation.in_process:
            given[0].register_hook(_raising)
            with suppress(_Interrupted):
                back(given, outputs)
            again["after a backward pass that raised"] = back(*forth())
        given, outputs = forth()
        with suppress(RuntimeError):  # autograd knows what was written to, and says so
            for one in outputs:
                one += 1
            again["after who called has written to the output"] = back(given, outputs)
        if trial.implementation.in_process:
            again["of a forward pass in another thread"] = back(*in_another_thread(forth))
            passed = forth()
            again["in another thread than that of the forward pass"] = in_another_thread(lambda: back(*passed))
            passed = forth()
            in_another_thread(trained)
            again["after another thread has trained"] = back(*passed)
        return first, whole, tuple(again.items())

    first, whole, again = trial.observe(pulled.method, run)
    for names, same in zip((pulled.names, pulled.call.gives), whole, strict=True):
        for name, one in zip(names, same, strict=True):
            of = f"{name} after the backward pass of {pulled.method}"
            trial.holds(of, one, "changed", "as before", kind="memory")
    for how, found in again:
        for name, one, other, error in zip(pulled.names, found, first, bounds, strict=True):
            trial.near(f"the gradient of {pulled.method} by {name} {how}", one, wide(other), 2 * error)


def _tuned(target: Implementation) -> dict[str, Any]:
    """Other values of what may be tuned and changes no shape."""
    now = {"iterations": target.dialect.iterations, "post_scale": target.dialect.post_scale}
    return {name: value + 1 for name, value in now.items() if name in target.tunable and value}


class _Interrupted(Exception):
    """What a hook raises here."""


def _raising(bar: Tensor) -> None:
    raise _Interrupted


def _so_many(one: Tensor, count: int) -> Tensor:
    """Fewer tokens, or twice as many."""
    return one[:count] if count <= one.shape[0] else torch.cat([one, one])
