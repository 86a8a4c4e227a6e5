"""Pullbacks of a batch against those of its tokens on two axes, and in parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from properties.core.implementation import Implementation
from properties.core.pulling import pulled_back
from properties.core.trial import Trial, wide
from properties.laws.calls import Place
from properties.laws.pulls import Pulled


def is_that_of_its_parts(trial: Trial, pulled: Pulled) -> None:
    """Compare the gradients of a batch with those of the same tokens on two axes, which lie in memory in either order,
    and in parts; and whether a backward pass of so many writes to its cotangents, which are those of others as well."""
    count = pulled.inputs[0].shape[0]
    middle = (count + 1) // 2
    spans = [(0, middle), *([(middle, count)] if middle < count else [])]
    spans += [(0, 0)] if trial.implementation.zero_tokens else []
    pair = (2, count // 2) if count % 2 == 0 else (1, count)  # odd where a call takes few tokens

    def run(target: Implementation, place: Place) -> Any:
        def gradients(
            arrange: Callable[[Tensor], Tensor], asked: Callable[[int], bool] = lambda k: True
        ) -> list[Tensor]:
            tokens = [arrange(place(one)) for one in pulled.inputs[: pulled.by_token]]
            every = (*tokens, *map(place, pulled.inputs[pulled.by_token :]))
            given = [one.clone().requires_grad_(asked(k)) for k, one in enumerate(every)]
            outputs = pulled.function(target, given)
            bars = [arrange(place(bar).clone()) for bar in pulled.cotangents]
            before = [bar.clone() for bar in bars]
            found = pulled_back(outputs, given, [*bars])
            unwritten.extend(torch.equal(bar, as_before) for bar, as_before in zip(bars, before, strict=True))
            return found

        unwritten: list[bool] = []

        whole = gradients(lambda one: one)
        paired = gradients(lambda one: one.reshape(*pair, *one.shape[1:]))
        turned = gradients(lambda one: in_the_other_order(one, pair)) if trial.implementation.strided else []
        parts = [gradients(lambda one, a=a, b=b: one[a:b]) for a, b in spans]
        alone: list[Tensor] = []
        if pulled.by_token < len(whole):  # of tokens with frozen parameters, and of parameters over a frozen state
            alone += gradients(lambda one: one, lambda k: k < pulled.by_token)
            alone += gradients(lambda one: one, lambda k: k >= pulled.by_token)
        joined = [
            torch.cat(each) if k < pulled.by_token else torch.stack([one.double() for one in each]).sum(0)
            for k, each in enumerate(zip(*parts, strict=True))
        ]
        shaped, other = (
            tuple(one.reshape(before.shape) for one, before in zip(found, whole, strict=False))
            for found in (paired, turned)
        )
        return tuple(whole), shaped, other, tuple(joined), tuple(alone), all(unwritten)

    whole, paired, turned, joined, alone, unwritten = trial.observe(pulled.method, run)
    of = f"the cotangents of {pulled.method} for {count} tokens after its backward pass"
    trial.holds(of, unwritten, "changed", "as before", kind="memory")
    whole_errors = pulled.errors(pulled.cotangents)
    part_errors = _of_parts(pulled, spans) if trial.rounding.stores_in_state else whole_errors
    for k, (name, error, of_parts) in enumerate(zip(pulled.names, whole_errors, part_errors, strict=True)):
        what = f"the gradient of {pulled.method} by {name} for {count} tokens"
        trial.near(f"{what}, against its parts", whole[k], wide(joined[k]), error + of_parts)
        trial.near(f"{what} on two axes", paired[k], wide(whole[k]), 2 * error)
        if turned:
            trial.near(f"{what} on two axes in the other order", turned[k], wide(whole[k]), 2 * error)
        if alone:
            rest = "the parameters" if k < pulled.by_token else "the state"
            trial.near(f"{what} with {rest} asking for none", alone[k], wide(whole[k]), 2 * error)


def in_the_other_order(one: Tensor, pair: tuple[int, int]) -> Tensor:
    """Tokens on two axes, [B, S, ...], that lie in memory as [S, B, ...] do."""
    return one.reshape(*pair, *one.shape[1:]).transpose(0, 1).contiguous().transpose(0, 1)


def _of_parts(pulled: Pulled, spans: Sequence[tuple[int, int]]) -> list[Tensor]:
    """The bounds of the gradients of some spans of tokens together.

    What rounding does to a sum over tokens is in the bound of the sum of more of them, whatever their order. Where a
    sum is stored in a short dtype it is not: parts may be large that cancel.
    """
    found: list[list[Tensor]] = []
    for start, end in spans:
        alone = [torch.zeros_like(bar) for bar in pulled.cotangents]
        for one, bar in zip(alone, pulled.cotangents, strict=True):
            one[start:end] = bar[start:end]
        found.append(pulled.errors(tuple(alone)))
    return [torch.stack(each).sum(0) for each in zip(*found, strict=True)]
