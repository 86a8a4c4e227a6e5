"""Dynamic hyper-connections (family hc:dynamic): weights *and input* are searched, for certain inputs trigger it.

Searched: x' = A(x) x as the HC paper has it (arXiv 2409.19606 eq. (10)-(13), dialect HYPER_CONNECTIONS, no branch):
stream s is normalised by itself and gives row s of h_res = I + d tanh(x^_s w), whose transpose is applied; d is the
identity bound, the weights w are finite and of any size, inputs are within 1. With one channel x^_s is the sign of x_s,
and the streams get

    x'_j = x_j + d tanh(w_j) (|x_1| + ... + |x_n|).

Depth and streams: tanh is below 1, so |A - I| < d whatever weights and input are, and the largest activation grows by
less than 1 + n d a sub-layer. Positive inputs approach that as w grows. The same weights on the negated input move the
activations towards 0: an explosion that depends on the input alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch

import mhc_ref
from mhc_ref import PRESETS, Params
from properties.explosion.answer import Answer
from properties.explosion.composite import Matrix, context, decimal, fraction, number, powered, shown
from properties.explosion.configurations import Dynamic
from properties.explosion.proofs.closed_form import smallest_exponent
from properties.explosion.searches.hunt import Hunt
from properties.explosion.searches.hypothesise import Clock

if TYPE_CHECKING:
    from properties.explosion.questions.dynamic import DynamicMixing

_FAR = 60
"""A weight whose tanh is 1 in float64, and in 50 digits falls short of it by 1e-52."""


def solve(question: DynamicMixing, hunt: Hunt[Dynamic]) -> Answer:
    """What is known in the end; weights and an input that reach the threshold are kept, ever simpler ones."""
    clock = hunt.clock
    clock.stage = "depth"
    d, most, goal = question.bound, question.max_streams, question.threshold
    limit = f"1 + n * {decimal(d)}"

    def rate(n: int) -> Fraction:
        return 1 + n * d

    why = f"tanh is below 1, so a sub-layer of n streams multiplies the largest activation by less than {limit}"
    depth = _least(rate(most), goal, question.max_depth)
    if depth is None:
        end = powered(rate(most), question.max_depth)
        return Answer(
            None,
            None,
            True,
            f"{why}: {question.max_depth} sub-layers stay below {end}, {decimal(goal)} is not below that.",
        )
    n = next(n for n in range(1, most + 1) if rate(n) ** depth > goal)
    found = Dynamic((_FAR,) * n, (Fraction(1),) * n, depth)
    if value(question, found) < number(goal):  # within 1e-50 of the limit
        return Answer(None, None, False, f"{why}; the threshold is too near to that to be decided.")
    sentences = [why]
    if depth > 1:
        sentences.append(f"{depth - 1} of {most} streams stay below {powered(rate(most), depth - 1)}")
    if n > 1:
        sentences.append(f"{depth} of {n - 1} stay below {powered(rate(n - 1), depth)}")
    clock.stage = "weights and input"
    known = Answer(depth, n, True, f"{'; '.join(sentences)}.")
    for one in _simpler(question, found, clock):
        other = shown(value(question, one.negated()), context(), 6)
        known = Answer(depth, n, True, f"{'; '.join(sentences)}. The same weights on the negated input end at {other}.")
        clock.best = f"{one.entries} non-trivial entries"
        hunt.keep(known, one)
    return known


def _least(r: Fraction, goal: Fraction, limit: int) -> int | None:
    """The smallest L with r^L > goal: the limit itself is not reached."""
    depth = smallest_exponent(r, goal, limit)
    if depth is not None and r**depth == goal:
        return depth + 1 if depth < limit else None
    return depth


def _simpler(question: DynamicMixing, one: Dynamic, clock: Clock) -> Iterator[Dynamic]:
    """Ever simpler ones: inputs and weights of 0 first, then small whole weights."""
    yield one
    n = len(one.weights)

    for place in range(n):
        clock.tick()
        change = replace(one, input=_with(one.input, place, Fraction(0)))
        if value(question, change) >= number(question.threshold):
            one = change
            yield one
    for smaller in (0, *range(1, _FAR)):
        for place in range(n):
            if smaller >= one.weights[place]:
                continue
            clock.tick()
            change = replace(one, weights=_with(one.weights, place, smaller))
            if value(question, change) >= number(question.threshold):
                one = change
                yield one


def _with(line: Sequence[Any], place: int, number: Any) -> tuple[Any, ...]:
    return (*line[:place], number, *line[place + 1 :])


def states(question: DynamicMixing, one: Dynamic) -> list[list[Any]]:
    """The streams before the first sub-layer and after each, in mpmath."""
    mp = context()
    d = number(question.bound)
    x = [number(entry) for entry in one.input]
    grown = [d * mp.tanh(w) for w in one.weights]
    found = [x]
    for _ in range(one.depth):
        size = mp.fsum(map(abs, x))
        x = [entry + step * size for entry, step in zip(x, grown, strict=True)]
        found.append(x)
    return found


def value(question: DynamicMixing, one: Dynamic) -> Any:
    """The largest activation after the last sub-layer, in mpmath."""
    return max(map(abs, states(question, one)[-1]))


def operators(question: DynamicMixing, one: Dynamic) -> tuple[Matrix, ...]:
    """A(x) of each sub-layer along the way of this input: A_js = (j = s) + d tanh(sign(x_s) w_j)."""
    mp = context()
    d = number(question.bound)
    n = len(one.weights)
    return tuple(
        tuple(
            tuple(fraction((j == s) + d * mp.tanh(int(mp.sign(x[s])) * one.weights[j])) for s in range(n))
            for j in range(n)
        )
        for x in states(question, one)[:-1]
    )


def measured(question: DynamicMixing, one: Dynamic) -> float:
    """The largest activation as the reference's block computes it in the dtype that was asked for, without a branch."""
    storage: torch.dtype = getattr(torch, question.dtype)
    of = torch.float64 if storage == torch.float64 else torch.float32
    n = len(one.weights)
    phi = torch.tensor([[0.0, 0.0, *map(float, one.weights)]], dtype=of)
    bias = torch.cat([torch.zeros(2 * n, dtype=of), torch.eye(n, dtype=of).flatten()])
    alpha = torch.tensor([0.0, 0.0, float(question.bound)], dtype=of)
    x = torch.tensor([[float(entry)] for entry in one.input], dtype=storage)
    dialect = PRESETS["HYPER_CONNECTIONS"]
    for _ in range(one.depth):
        x = mhc_ref.block(x, Params(phi, bias, alpha), torch.zeros_like, dialect)
    largest = x.double().abs().max().item()
    return largest if math.isfinite(largest) else math.inf
