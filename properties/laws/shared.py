"""Layers, and a head, that share parameters: one tensor under several names.

Weights are tied to save memory, or a model is looped over its layers. What is folded, packed or added up for a tensor
is then that of several layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mhc_ref import Params
from properties.core.case import Case, map_tensors
from properties.core.implementation import Implementation
from properties.core.pulling import pulled_back
from properties.core.trial import Trial, magnitude, wide
from properties.laws.calls import QUIET, RECORDED, Call, Place, every_mode, of_a_model
from properties.laws.pulls import Pulled

EVERY, IN_TURN = "all parameters", "every second set of parameters"
"""Those of the first layer are the others', or those of every second one from it on."""


def fields_of(case: Case) -> list[str]:
    """What layers can share: each of their parameters alone, and all; in a crowd, whose bounds take long, phi, and
    all, of each or of every second layer."""
    if "axes" in case and case.axes:
        return ["phi", *([IN_TURN] if len(case.params) > 2 else []), EVERY]
    return [*(name for name, one in case.params[0]._asdict().items() if one is not None), EVERY]


def tied(every: Sequence[Params], field: str) -> tuple[Params, ...]:
    """Parameters of which that field, or all, is the very tensor of the first layer, wherever it has that shape, or in
    every second layer."""
    first = every[0]._asdict()

    def own(k: int, one: Params) -> Params:
        if field == IN_TURN and k % 2:
            return one
        shared = {
            name: part
            for name, part in first.items()
            if field in (name, EVERY, IN_TURN) and part is not None and _shape(getattr(one, name)) == part.shape
        }
        return one._replace(**shared)

    return tuple(own(k, one) for k, one in enumerate(every))


def _shape(one: Tensor | None) -> torch.Size | None:
    return None if one is None else one.shape


def sharing(case: Case, field: str) -> Case:
    """The same layers, and head where there is one, that share that field, or all."""
    every = tied((*case.params, *(case.head if "head" in case else ())), field)
    depth = len(case.params)
    own = case.with_(params=every[:depth])
    return own.with_(head=every[depth:]) if "head" in case else own


def may_share_parameters(trial: Trial, case: Case, call: Callable[[Case], Call]) -> None:
    """`call` of layers that share one tensor gives what it gives of layers that each have a copy of it."""
    modes = [(name, mode) for name, mode in every_mode(trial) if name in (QUIET[1][0], RECORDED)]
    made = {field: call(sharing(case, field)) for field in fields_of(case)}

    def run(target: Implementation, place: Place) -> Any:
        found: list[tuple[Tensor, Tensor]] = []
        for field, one in made.items():
            given = map_tensors(one.given, place)
            for name, mode in modes:
                with mode():
                    apart = of_a_model(given, name, trial)
                    together = (apart[0], tied(of_a_model(given, name, trial)[1], field), *apart[2:])
                    (first,), (other,) = one.on(target, apart), one.on(target, together)
                    found.append((first.detach().clone(), other.detach().clone()))
        return tuple(found)

    got = iter(trial.observe(next(iter(made.values())).method, run))
    for field, one in made.items():
        (error,) = one.errors()
        for mode, _ in modes:
            apart, together = next(got)
            what = f"{one.gives[0]} of layers that share {field}{mode}"
            trial.near(what, together, wide(apart), 2 * error, kind="memory")


def adds_up_over_layers(trial: Trial, case: Case, pull: Callable[[Case], Pulled]) -> None:
    """The gradient by a tensor that several layers share is the sum of those by the copies that each has."""
    for field in fields_of(case):
        pulled = pull(sharing(case, field))
        kinds = [name.partition(" of layer")[0] for name in pulled.names]
        groups = [
            [j for j, one in enumerate(kinds) if one == kind and pulled.inputs[j] is pulled.inputs[first]]
            for first, kind in enumerate(kinds)
            if kind in Params._fields and field in (kind, EVERY, IN_TURN) and kinds.index(kind) == first
        ]
        first_of = {j: those[0] for those in groups for j in those}

        def run(
            target: Implementation, place: Place, pulled: Pulled = pulled, first_of: dict[int, int] = first_of
        ) -> Any:
            def back(leaves: list[Tensor], given: list[Tensor]) -> tuple[Tensor, ...]:
                outputs = pulled.function(target, given)
                bars = [place(bar).to(o.dtype) for bar, o in zip(pulled.cotangents, outputs, strict=True)]
                return tuple(pulled_back(outputs, leaves, bars))

            apart, own = ([place(one).clone().requires_grad_() for one in pulled.inputs] for _ in range(2))
            leaves = [one for j, one in enumerate(own) if first_of.get(j, j) == j]
            return back(apart, apart), back(leaves, [own[first_of.get(j, j)] for j in range(len(own))])

        apart, together = trial.observe(pulled.method, run)
        bounds, got = pulled.errors(pulled.cotangents), iter(together)
        for j, name in enumerate(pulled.names):
            if first_of.get(j, j) != j:
                continue
            those = [k for k in range(len(apart)) if first_of.get(k, k) == j]
            exact, error = (torch.stack([wide(part[k]) for k in those]) for part in (apart, bounds))
            slack = 2 * error.sum(0)
            if len(those) > 1:
                added = len(those) * trial.rounding.state_unit * (magnitude(exact) + 2 * error).sum(0)
                slack = torch.where(
                    slack.isinf(), slack, slack + added
                )  # where nothing is claimed, nothing is a number
            what = f"the gradient by {name} where layers share {field}"
            trial.near(what, next(got), exact.sum(0), slack)
