"""Numbers that carry derivatives, forwards (`Dual`) and backwards (`Node`), and the functions of them (`Reals`)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mhc_ref.exact.lists import Real, Vector


class Dual:
    """value + tangent e with e^2 = 0: a number and its derivative in one direction. Real numbers are constants."""

    __slots__ = ("tangent", "value")

    def __init__(self, value: Real, tangent: Real) -> None:
        self.value = value
        self.tangent = tangent

    def __neg__(self) -> Dual:
        return Dual(-self.value, -self.tangent)

    def __add__(self, other: Real) -> Dual:
        if isinstance(other, Dual):
            return Dual(self.value + other.value, self.tangent + other.tangent)
        return Dual(self.value + other, self.tangent)

    def __sub__(self, other: Real) -> Dual:
        return self + -other

    def __rsub__(self, other: Real) -> Dual:
        return -self + other

    def __mul__(self, other: Real) -> Dual:
        if isinstance(other, Dual):
            return Dual(self.value * other.value, self.tangent * other.value + self.value * other.tangent)
        return Dual(self.value * other, self.tangent * other)

    def __truediv__(self, other: Real) -> Dual:
        if isinstance(other, Dual):
            ratio = self.value / other.value
            return Dual(ratio, (self.tangent - ratio * other.tangent) / other.value)
        return Dual(self.value / other, self.tangent / other)

    __radd__ = __add__
    __rmul__ = __mul__

    def __rtruediv__(self, other: Real) -> Dual:
        ratio = other / self.value
        return Dual(ratio, -ratio * self.tangent / self.value)

    def __pow__(self, power: int) -> Dual:
        return Dual(self.value**power, power * self.value ** (power - 1) * self.tangent if power else 0 * self.tangent)


class Node:
    """A number that knows what it was made of: `sources` are pairs of a node and the derivative by it.

    `bar` becomes the derivative of the result by this number. Nodes are on `tape` in the order in which they were made.
    """

    __slots__ = ("bar", "sources", "tape", "value")

    def __init__(self, value: Real, sources: Sequence[tuple[Node, Real]], tape: list[Node]) -> None:
        self.value = value
        self.sources = sources
        self.tape = tape
        self.bar: Real = 0
        tape.append(self)

    def __neg__(self) -> Node:
        return Node(-self.value, ((self, -1),), self.tape)

    def __add__(self, other: Real) -> Node:
        if isinstance(other, Node):
            return Node(self.value + other.value, ((self, 1), (other, 1)), self.tape)
        return Node(self.value + other, ((self, 1),), self.tape)

    def __sub__(self, other: Real) -> Node:
        return self + -other

    def __rsub__(self, other: Real) -> Node:
        return -self + other

    def __mul__(self, other: Real) -> Node:
        if isinstance(other, Node):
            return Node(self.value * other.value, ((self, other.value), (other, self.value)), self.tape)
        return Node(self.value * other, ((self, other),), self.tape)

    def __truediv__(self, other: Real) -> Node:
        if isinstance(other, Node):
            ratio = self.value / other.value
            return Node(ratio, ((self, 1 / other.value), (other, -ratio / other.value)), self.tape)
        one = self.value * 0 + 1  # 1 / 3 of whole numbers would be a double
        return Node(self.value / other, ((self, one / other),), self.tape)

    __radd__ = __add__
    __rmul__ = __mul__

    def __rtruediv__(self, other: Real) -> Node:
        ratio = other / self.value
        return Node(ratio, ((self, -ratio / self.value),), self.tape)

    def __pow__(self, power: int) -> Node:
        return Node(self.value**power, ((self, power * self.value ** (power - 1)),) if power else (), self.tape)


class Reals:
    """Sums and elementary functions of real numbers, duals and nodes; + - * / work on these by themselves.

    Attributes:
        mp: the mpmath context of the real numbers; a formula that loses digits takes more by `mp.extraprec(bits)`.
    """

    def __init__(self, mp: Any) -> None:
        self.mp = mp

    def value(self, a: Real) -> Real:
        """The real number itself, to decide by: nothing is differentiated through it."""
        return value(a)

    def of(self, a: Real, function: Callable[[Real], Real], slope: Callable[[Real], Real]) -> Real:
        """function(a) with derivative slope(a), both given as functions of real numbers: any smooth function."""
        if isinstance(a, Dual):
            return Dual(function(a.value), slope(a.value) * a.tangent)
        if isinstance(a, Node):
            return Node(function(a.value), ((a, slope(a.value)),), a.tape)
        return function(a)

    def sum(self, terms: Iterable[Real]) -> Real:
        """The sum of the terms, rounded once."""
        terms = list(terms)
        total = self.mp.fsum(value(term) for term in terms)
        if nodes := [(term, 1) for term in terms if isinstance(term, Node)]:
            return Node(total, nodes, nodes[0][0].tape)
        tangents = [term.tangent for term in terms if isinstance(term, Dual)]
        return Dual(total, self.mp.fsum(tangents)) if tangents else total

    def dot(self, a: Vector, b: Vector) -> Real:
        """sum_i a_i b_i, rounded once."""
        pairs = list(zip(a, b, strict=True))
        if not any(isinstance(number, (Dual, Node)) for number in itertools.chain(a, b)):
            return self.mp.fdot(pairs)
        total = self.mp.fdot([(value(x), value(y)) for x, y in pairs])
        nodes = [(x, value(y)) for x, y in pairs if isinstance(x, Node)]
        if nodes := nodes + [(y, value(x)) for x, y in pairs if isinstance(y, Node)]:
            return Node(total, nodes, nodes[0][0].tape)
        tangents = [(x.tangent, value(y)) for x, y in pairs if isinstance(x, Dual)]
        tangents += [(value(x), y.tangent) for x, y in pairs if isinstance(y, Dual)]
        return Dual(total, self.mp.fdot(tangents)) if tangents else total

    def exp(self, a: Real) -> Real:
        """e^a."""
        power = self.mp.exp(value(a))
        return self.of(a, lambda _: power, lambda _: power)

    def log(self, a: Real) -> Real:
        """The natural logarithm."""
        return self.of(a, self.mp.log, lambda number: 1 / number)

    def sqrt(self, a: Real) -> Real:
        """The square root; its derivative at 0 is taken to be 0.

        sqrt(mean(x^2)) is 0 only where x is 0; whatever stands there is then multiplied by x.
        """
        root = self.mp.sqrt(value(a))
        return self.of(a, lambda _: root, lambda _: 1 / (2 * root) if root else root)

    def tanh(self, a: Real) -> Real:
        """The hyperbolic tangent."""
        return self.of(a, self.mp.tanh, lambda number: self.mp.sech(number) ** 2)

    def softmax(self, logits: Vector) -> Vector:
        """exp(z_i) / sum_j exp(z_j); not shifted, because no exponential of a finite number is too large here."""
        weights = [self.exp(logit) for logit in logits]
        total = self.sum(weights)
        return [weight / total for weight in weights]


def value(a: Real) -> Real:
    """The real number of a dual or a node; a real number itself."""
    return a.value if isinstance(a, (Dual, Node)) else a


def lift(values: list[Any], tangents: list[Any]) -> list[Any]:
    """Numbers and tangents of one shape -> duals of that shape."""
    if values and isinstance(values[0], list):
        return [lift(*rows) for rows in zip(values, tangents, strict=True)]
    return [Dual(*pair) for pair in zip(values, tangents, strict=True)]


def split(numbers: list[Any]) -> tuple[list[Any], list[Any]]:
    """Duals of any shape -> values and tangents of that shape; what is not dual is constant."""
    if numbers and isinstance(numbers[0], list):
        pairs = [split(row) for row in numbers]
    else:
        pairs = [(a.value, a.tangent) if isinstance(a, Dual) else (a, 0 * a) for a in numbers]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]
