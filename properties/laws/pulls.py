"""Pullbacks of a method as values: a call, a cotangent of each output, and the bounds of the gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from mhc_ref import Params
from properties import bounds
from properties.bounds import Approx
from properties.core.case import Case, map_tensors
from properties.core.family import end_of
from properties.core.implementation import Implementation
from properties.core.trial import Trial, outputs_of
from properties.laws import calls, errors
from properties.laws.calls import Call


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
