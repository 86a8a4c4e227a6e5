"""Few and simple logits at a fixed architecture.

The search runs in float64 with a margin; what is answered is decided by `Mixing.exact`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from properties.explosion.composite import composite_reaches
from properties.explosion.float_gain import float_gain
from properties.explosion.mixing import Mixing
from properties.explosion.searches.entries import Order, by_order, intricacy
from properties.explosion.searches.hypothesise import Clock

if TYPE_CHECKING:
    from properties.explosion.questions.constrained import LogitsQuestion

_MARGIN = 1e-12
_DOUBT = Fraction(1, 10**45)
_ROUND = (*range(1, 17), 18, 20, 25, 30, 40, 50, 60, 80, 100, 150, 200, 300, 400, 500, 750, 1000)
_LOGITS_VISITED = 200


def reached(composed: Tensor, question: LogitsQuestion, margin: float = _MARGIN) -> Tensor:
    """Whether the gain is reached with a margin for float64, elementwise; a negative margin: whether it may be."""
    value, goal = float_gain(composed, question.gain), float(question.threshold)
    return value >= goal * (1 + margin) if question.direction == "explode" else value <= goal * (1 - margin)


def may_reach(logits: Tensor, question: LogitsQuestion, mixing: Mixing) -> bool:
    """Whether exact arithmetic could find the threshold reached."""
    return bool(reached(product(mixing.operators(logits)), question, -_MARGIN))


def confirmed(logits: Tensor, question: LogitsQuestion, mixing: Mixing) -> bool:
    """Whether the threshold is reached.

    Operators from mpmath are right to 50 digits, so with several streams a gain within 1e-45 of the threshold does not
    count: at the limit of infinite logits it would be rounding that decides.
    """
    goal, operators = question.threshold, mixing.exact(logits)
    if mixing.irrational and len(operators[0]) > 1:
        goal *= 1 + _DOUBT if question.direction == "explode" else 1 - _DOUBT
    return composite_reaches(operators, question.gain, goal, question.direction)


def product(stack: Tensor) -> Tensor:
    """A_L ... A_1 of [L, n, n]."""
    composed = stack[0]
    for one in stack[1:]:
        composed = one @ composed
    return composed


def simplest_logits(start: Tensor, question: LogitsQuestion, mixing: Mixing, clock: Clock) -> Iterator[Tensor]:
    """Logits [L, *shape] that still reach the threshold with few that are not 0, and those simple; ever better ones."""
    rows, columns = _table(start).shape[1:]

    def judged(order: Order) -> tuple[tuple[float, ...], Tensor]:
        reduction = _Reduction(start, question, mixing, clock)
        while reduction.visit(order, lambda number: [0.0]):
            pass
        reduction.visit(order, simpler_logits)
        return complexity(reduction.logits), reduction.logits

    examples = min(10, _LOGITS_VISITED // start.numel())
    return by_order((rows, columns), judged, seed=question.seed, clock=clock, examples=examples if examples >= 5 else 0)


def _table(logits: Tensor) -> Tensor:
    """Logits [L, *shape] as L tables; those of one axis are one row."""
    return logits.view(len(logits), -1, logits.shape[-1])


def complexity(logits: Tensor) -> tuple[float, ...]:
    """(logits that are not 0, their intricacy, how many different ones, their size)."""
    numbers = [number for number in logits.flatten().tolist() if number]
    return (
        len(numbers),
        sum(intricacy(Fraction(str(number))) for number in numbers),
        len(set(numbers)),
        sum(map(abs, numbers)),
    )


def simpler_logits(number: float) -> list[float]:
    """Simpler numbers of the same sign, simplest first: small integers, larger ones, halves, few decimals."""
    sign, size = (-1.0 if number < 0 else 1.0), abs(number)
    whole = [float(k) for k in _ROUND if k <= size + 1]
    halves = [k - 0.5 for k in whole[:12] if k - 0.5 < size + 1]
    near = [round(size, places) for places in range(4)]
    candidates = sorted({*whole, *halves, *near} - {0.0}, key=lambda k: (intricacy(Fraction(str(k))), k))
    best = intricacy(Fraction(str(size)))
    return [sign * k for k in candidates if (intricacy(Fraction(str(k))), k) < (best, size)]


class _Reduction:
    """Logits reduced one by one; the candidates for one logit are projected together."""

    def __init__(self, logits: Tensor, question: LogitsQuestion, mixing: Mixing, clock: Clock) -> None:
        self.logits = logits.clone()
        self._question = question
        self._mixing = mixing
        self._clock = clock

    def visit(self, order: Order, values: Callable[[float], list[float]]) -> bool:
        """Replace logits by the first of `values` that keeps the threshold; whether anything changed."""
        changed = False
        stack, tables = self._mixing.operators(self.logits), _table(self.logits)
        depth = len(stack)
        for layer in reversed(range(depth)) if order.from_output else range(depth):
            above = product(torch.cat([torch.eye(stack.shape[-1], dtype=stack.dtype)[None], stack[layer + 1 :]]))
            below = product(torch.cat([torch.eye(stack.shape[-1], dtype=stack.dtype)[None], stack[:layer]]))
            left = order.quota
            for i, j in itertools.product(order.rows, order.columns):
                self._clock.tick()
                number = tables[layer, i, j].item()
                candidates = values(number) if number and left else []
                if not candidates:
                    continue
                trial = tables[layer].repeat(len(candidates), 1, 1)
                trial[:, i, j] = torch.tensor(candidates, dtype=trial.dtype)
                tried = trial.view(-1, *self.logits.shape[1:])
                enough = reached(above @ self._mixing.operators(tried) @ below, self._question)
                if enough.any():
                    self.logits[layer] = tried[int(enough.int().argmax())]
                    changed, left = True, left - 1
            stack[layer] = self._mixing.operators(self.logits[layer : layer + 1])[0]
        return changed
