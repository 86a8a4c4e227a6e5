"""The search on somebody's implementation (family target): the gain of what it returns, whatever it should be.

Nothing is proved about an implementation, so every depth and every number of streams is tried, and the answer is
`searched`. Its gradient is not used: the logits are those with which the declared dialect concentrates best, the
patterns and random ones, and a stack grows at the end where that helps most.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from properties.explosion.answer import Answer
from properties.explosion.float_gain import float_gain
from properties.explosion.mixing import Mixing
from properties.explosion.searches.hypothesise import Clock
from properties.explosion.searches.logits import reached
from properties.explosion.searches.projected import way_of

if TYPE_CHECKING:
    from properties.explosion.questions.constrained import OfTarget


class Stack:
    """A stack of n streams, one sub-layer longer at each `extend`: the best of a pool, before or after the others."""

    def __init__(self, question: OfTarget, mixing: Mixing, n: int, clock: Clock) -> None:
        self._question = question
        self._pool = way_of(mixing.dialect).pool(mixing, n, question.seed, clock)
        if mixing.bound is not None:
            self._pool = _within(self._pool, mixing.bound)
        self._operators = mixing.operators(self._pool)
        self._logits: list[Tensor] = []
        self._product = torch.eye(n, dtype=torch.float64)

    @property
    def depth(self) -> int:
        return len(self._logits)

    def extend(self) -> None:
        after, before = self._operators @ self._product, self._product @ self._operators
        gains = float_gain(torch.cat([after, before]), self._question.gain)
        best = int((gains if self._question.direction == "explode" else -gains).argmax())
        place = best % len(self._pool)
        if best < len(self._pool):
            self._logits.append(self._pool[place])
            self._product = after[place]
        else:
            self._logits.insert(0, self._pool[place])
            self._product = before[place]

    def logits(self) -> Tensor:
        return torch.stack(self._logits)


def _within(pool: Tensor, bound: float) -> Tensor:
    """Logits within a bound: all of them as large as they may be, alike or of the signs of others, and smaller ones."""
    signs = bound * pool.sign()
    return torch.cat([torch.full_like(pool[:1], bound), signs, pool.clamp(-bound, bound)])


def smallest_stack(question: OfTarget, mixing: Mixing, clock: Clock) -> tuple[Answer, Tensor | None]:
    """The first (depth, streams) in lexicographic order at which the threshold was reached.

    Raises:
        properties.targets.target.TargetError: the implementation raised, or returned no matrices.
        ValueError: the implementation accepts no number of streams that may be used.
    """
    stacks: dict[int, Stack] = {}
    best: dict[int, float] = {}
    clock.stage = "depth"
    accepted = mixing.accepted(question.max_streams)
    if not accepted:
        raise ValueError(
            f"{question.target} accepts {mixing.streams} streams; expected some up to {question.max_streams}"
        )
    also = f"; {mixing.words}" if mixing.words else ""
    mixing.operators(mixing.zeros(1, accepted[0]))  # what cannot be called ends here
    for depth, n in itertools.product(range(1, question.max_depth + 1), accepted):
        clock.tick()
        if n not in stacks:
            stacks[n] = Stack(question, mixing, n, clock)
        stacks[n].extend()
        logits = stacks[n].logits()
        composed = torch.eye(n, dtype=torch.float64)
        for one in mixing.operators(logits):
            composed = one @ composed
        best[n] = float_gain(composed, question.gain).item()
        clock.best = f"{best[n]:.6g} at depth {depth}, {n} streams"
        if reached(composed, question, 0):
            return Answer(depth, n, False, f"Every smaller architecture was tried; {_summary(best)}{also}."), logits
    return Answer(None, None, False, f"Not found, which is no proof; {_summary(best)}{also}."), None


def _summary(best: dict[int, float]) -> str:
    reached_by = (f"{value:.6g} with {n} stream{'s' * (n > 1)}" for n, value in sorted(best.items()))
    return "the last stacks tried had gains of " + ", ".join(reached_by)
