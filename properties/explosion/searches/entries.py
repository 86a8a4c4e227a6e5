"""The last two criteria of minimality at a fixed architecture: few non-trivial entries, then simple ones.

An entry is trivial where it equals that of I0, the zero matrix or the identity. Entries are dropped one after the
other while the threshold is still reached, until none can be dropped; what is left then depends on the order alone.
So Hypothesis searches orders, a handful of small numbers, instead of hundreds of entries, and each is judged by what it
leaves.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import TypeVar

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from properties.explosion.composite import Integers, Matrix, identity, multiply, reaches, scaled
from properties.explosion.searches.hypothesise import Clock, smallest

T = TypeVar("T")

_ENTRIES_VISITED = 4_000
"""Entries that the search over orders may visit in a round: effort, and not time, ends it, so that seeds decide."""


@dataclass(frozen=True)
class Order:
    """How entries are visited: layers from the output or from the input, rows and columns permuted.

    At most `quota` entries of a layer are dropped before the next layer has its turn.
    """

    from_output: bool
    quota: int
    rows: tuple[int, ...]
    columns: tuple[int, ...]


def orders(rows: int, columns: int) -> SearchStrategy[Order]:
    """The orders of matrices of so many rows and columns."""
    down, across = (st.permutations(range(lines)).map(tuple) for lines in (rows, columns))
    quota = st.sampled_from([rows * columns, columns, 2, 1])
    return st.builds(Order, from_output=st.booleans(), quota=quota, rows=down, columns=across)


def simplest_entries(
    operators: Sequence[Matrix], origin: int, gain: str, threshold: Fraction, direction: str, *, seed: int, clock: Clock
) -> Iterator[list[Matrix]]:
    """Operators that still reach the threshold with few non-trivial entries, none of which can be dropped.

    Yields them as they get better; the last ones are the answer.
    """
    depth, n = len(operators), len(operators[0])

    def judged(order: Order) -> tuple[tuple[int, int], list[Matrix]]:
        reduction = _Reduction(operators, origin, gain, threshold, direction, clock)
        reduction.drop(order)
        reduction.simplify(order)
        result = reduction.operators()
        return complexity(result, origin), result

    examples = max(8, min(50, _ENTRIES_VISITED // (2 * depth * n * n)))
    return by_order((n, n), judged, seed=seed, clock=clock, examples=examples)


def by_order(
    size: tuple[int, int],
    judged: Callable[[Order], tuple[tuple[float, ...], T]],
    *,
    seed: int,
    clock: Clock,
    examples: int,
) -> Iterator[T]:
    """Ever better results over the orders that Hypothesis tries; `judged` gives (score, result), the less the better.

    Ends after `examples` orders none of which is better; with 0, after the plain order. Shrinking an order may try as
    many again.
    """
    cache: dict[Order, tuple[tuple[float, ...], T]] = {}
    rows, columns = size
    order: Order | None = Order(True, rows * columns, tuple(range(rows)), tuple(range(columns)))
    while order is not None:
        score, best = cache[order] if order in cache else judged(order)
        clock.best = f"{score[0]:g} non-trivial entries"
        yield best
        if rows * columns == 1 or not examples:  # a product of numbers, in any order
            return
        better = partial(_better, judged, score, cache, len(cache) + 2 * examples)
        order = smallest(orders(rows, columns), better, seed=seed, clock=clock, examples=examples)


def _better(
    judged: Callable[[Order], tuple[tuple[float, ...], T]],
    score: tuple[float, ...],
    cache: dict[Order, tuple[tuple[float, ...], T]],
    most: int,
    order: Order,
) -> bool:
    if order not in cache:
        if len(cache) >= most:
            return False
        cache[order] = judged(order)
    return cache[order][0] < score


def complexity(operators: Sequence[Matrix], origin: int) -> tuple[int, int]:
    """(non-trivial entries, sum of their `intricacy`)."""
    entries = [
        entry
        for operator in operators
        for i, row in enumerate(operator)
        for j, entry in enumerate(row)
        if entry != origin * (i == j)
    ]
    return len(entries), sum(map(intricacy, entries))


def intricacy(number: Fraction) -> int:
    """0 for an integer, 1 for a half, then 1 + decimal places; 100 for what has no short decimal expansion."""
    if number.denominator <= 2:
        return number.denominator - 1
    places = next((k for k in range(1, 30) if 10**k % number.denominator == 0), 99)
    return 1 + places


def simpler(deviation: Fraction) -> list[Fraction]:
    """Simpler numbers of the same sign and no larger, simplest first; of equally simple ones the strongest."""
    sign, size = (-1 if deviation < 0 else 1), abs(deviation)
    steps = [Fraction(1), Fraction(1, 2), *(Fraction(1, 10**k) for k in range(1, intricacy(size) - 1) if k < 20)]
    rounded = [math.floor(size / step) * step for step in steps]
    return [sign * number for number in dict.fromkeys(rounded) if number and number != size]


class _Reduction:
    """Operators as integers over one denominator, reduced entry by entry; a change is a rank-one update."""

    def __init__(
        self, operators: Sequence[Matrix], origin: int, gain: str, threshold: Fraction, direction: str, clock: Clock
    ) -> None:
        deviations = {
            entry - origin * (i == j)
            for operator in set(operators)
            for i, row in enumerate(operator)
            for j, entry in enumerate(row)
        }
        self._simpler = {deviation: simpler(deviation) for deviation in deviations if deviation}
        values = [*deviations, *(number for numbers in self._simpler.values() for number in numbers)]
        self._scale = math.lcm(threshold.denominator, *(value.denominator for value in values))
        self._layers = [scaled(operator, self._scale) for operator in operators]
        self._origin = origin
        self._gain = gain
        self._direction = direction
        self._limit = int(threshold * self._scale ** len(operators))  # an integer, by the choice of the scale
        self._clock = clock

    def operators(self) -> list[Matrix]:
        return [tuple(tuple(Fraction(entry, self._scale) for entry in row) for row in layer) for layer in self._layers]

    def drop(self, order: Order) -> None:
        """Make entries trivial in that order until none can be."""
        while self._visit(order, order.quota, lambda deviation: [0]):
            pass

    def simplify(self, order: Order) -> None:
        """Give each non-trivial entry the simplest value that still will do."""
        self._visit(order, len(self._layers[0]) ** 2, self._simpler_scaled)

    def _simpler_scaled(self, deviation: int) -> list[int]:
        return [int(number * self._scale) for number in self._simpler.get(Fraction(deviation, self._scale), [])]

    def _visit(self, order: Order, quota: int, values: Callable[[int], list[int]]) -> bool:
        """Replace deviations by the first of `values` that keeps the threshold; whether anything changed."""
        layers, n, changed = self._layers, len(self._layers[0]), False
        rest = self._rest(order.from_output)
        done = identity(n)
        for depth in reversed(range(len(layers))) if order.from_output else range(len(layers)):
            self._clock.tick()
            layer = layers[depth]
            above, below = (done, rest[depth]) if order.from_output else (rest[depth], done)
            product = multiply(multiply(above, layer), below)
            left = quota
            for i, j in itertools.product(order.rows, order.columns):
                deviation = layer[i][j] - self._origin * self._scale * (i == j)
                for value in values(deviation) if deviation and left else []:
                    candidate = _updated(product, value - deviation, [row[i] for row in above], below[j])
                    if reaches(candidate, self._gain, self._limit, self._direction):
                        layer[i][j] += value - deviation
                        product, changed, left = candidate, True, left - 1
                        break
            done = multiply(done, layer) if order.from_output else multiply(layer, done)
        return changed

    def _rest(self, from_output: bool) -> list[Integers]:
        """For each layer the product of those that are visited after it: below it from the output, else above it."""
        layers = self._layers
        products = [identity(len(layers[0]))]
        for layer in layers[:-1] if from_output else reversed(layers[1:]):
            products.append(multiply(layer, products[-1]) if from_output else multiply(products[-1], layer))
        return products if from_output else products[::-1]


def _updated(product: Integers, change: int, column: list[int], row: list[int]) -> Integers:
    """product + change * column row^T."""
    return [
        [entry + change * factor * other for entry, other in zip(line, row, strict=True)]
        for line, factor in zip(product, column, strict=True)
    ]
