"""What may be found: the members of the families, and how each stands in the header of a file."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any, Protocol

import torch
from torch import Tensor

from properties.explosion.composite import Matrix
from properties.explosion.options import DEEPEST, MOST_STREAMS
from properties.explosion.stored import fraction_of, integer_of, list_of, object_of

_MOST_NUMBERS = 10**8
"""Numbers of parameters in one block."""
_LOGIT_LIMIT = 10**6
"""Of integers that go into an exponential."""


class Configuration(Protocol):
    """A member of a family: so many applications of a residual map, streams, and channels a stream."""

    @property
    def depth(self) -> int: ...
    @property
    def streams(self) -> int: ...
    @property
    def width(self) -> int: ...


@dataclass(frozen=True)
class Chain:
    """Mixing matrices [n, n], the first to be applied first, exact."""

    operators: tuple[Matrix, ...]
    width = 1

    @property
    def depth(self) -> int:
        return len(self.operators)

    @property
    def streams(self) -> int:
        return len(self.operators[0])


@dataclass(frozen=True)
class Projected(Chain):
    """Mixing matrices, and the logits that they were projected from: exact doubles, one axis of them as one row."""

    logits: tuple[Matrix, ...]


@dataclass(frozen=True)
class Dynamic:
    """A stack of equal sub-layers, the weight of every stream, and the input x of every stream."""

    weights: tuple[int, ...]
    input: tuple[Fraction, ...]
    depth: int
    width = 1

    @property
    def streams(self) -> int:
        return len(self.weights)

    @property
    def entries(self) -> int:
        """Numbers that are not 0: the weights of every sub-layer, and the input."""
        return self.depth * sum(map(bool, self.weights)) + sum(map(bool, self.input))

    def negated(self) -> Dynamic:
        return replace(self, input=tuple(-x for x in self.input))

    def written(self) -> dict[str, Any]:
        return {"weights": list(self.weights), "input": list(map(str, self.input)), "depth": self.depth}

    @classmethod
    def read(cls, value: Any) -> Dynamic:
        fields = object_of(value, "dynamic")
        weights = [
            integer_of(one, "a weight", -_LOGIT_LIMIT, _LOGIT_LIMIT) for one in list_of(fields["weights"], "weights")
        ]
        given = [fraction_of(one) for one in list_of(fields["input"], "input")]
        if len(weights) != len(given):
            raise ValueError(f"it has {len(weights)} weights and an input of {len(given)} streams")
        return cls(tuple(weights), tuple(given), integer_of(fields["depth"], "depth", 1, DEEPEST))


@dataclass(frozen=True)
class Block:
    """A stack of equal blocks: gate logits of every stream, and the one weight of the branch that is not trivial.

    Of two tokens the weights of queries and keys are not trivial either (`searches.steep`).
    """

    pre: int
    post: int
    weight: Fraction
    depth: int
    streams: int
    width: int
    tokens: int = 1

    @property
    def entries(self) -> int:
        """Numbers that are not 0: in each sub-layer the weight and the gates of every stream."""
        return self.depth * (self.tokens + self.streams * (bool(self.pre) + bool(self.post)))

    def written(self) -> dict[str, Any]:
        return {**asdict(self), "weight": str(self.weight)}

    @classmethod
    def read(cls, value: Any) -> Block:
        fields = object_of(value, "block")
        limits = {name: (-_LOGIT_LIMIT, _LOGIT_LIMIT) for name in ("pre", "post")}
        limits |= {"depth": (1, DEEPEST), "streams": (1, MOST_STREAMS), "width": (1, 2**20)}
        whole = {name: integer_of(fields[name], name, *limit) for name, limit in limits.items()}
        whole["tokens"] = integer_of(fields.get("tokens", 1), "tokens", 1, 2)
        made = cls(weight=fraction_of(fields["weight"]), **whole)
        if made.streams * made.width * (2 + made.streams) * made.streams > _MOST_NUMBERS:
            raise ValueError(
                f"a block of {made.streams} streams of {made.width} channels is larger than any that is searched"
            )
        return made


def exactly(doubles: Tensor) -> tuple[Matrix, ...]:
    """L tables of doubles as the fractions that they are; what has one axis is one row."""
    listed = doubles.reshape(len(doubles), -1, doubles.shape[-1]).tolist()
    return tuple(tuple(tuple(map(Fraction, row)) for row in one) for one in listed)


def tensor(operators: tuple[Matrix, ...]) -> Tensor:
    """Tables of exact numbers rounded to float64, [L, rows, columns]."""
    return torch.tensor([[[float(entry) for entry in row] for row in one] for one in operators], dtype=torch.float64)


def tables(value: Any, name: str) -> tuple[Matrix, ...]:
    """L tables of exact numbers, all of one size, from a header."""
    listed: list[Any] = list_of(value, name)
    rows = len(list_of(listed[0], name)) if listed else 0
    columns = len(list_of(listed[0][0], name)) if rows else 0
    fits = 1 <= len(listed) <= DEEPEST and 1 <= rows * columns <= MOST_STREAMS**2
    fits = fits and all(len(list_of(one, name)) == rows for one in listed)
    fits = fits and all(len(list_of(row, name)) == columns for one in listed for row in one)
    if not fits:
        raise ValueError(f"{name} are not 1 to {DEEPEST} tables of one size, of 1 to {MOST_STREAMS**2} numbers")
    return tuple(tuple(tuple(map(fraction_of, row)) for row in one) for one in listed)


def matrices(value: Any, name: str) -> tuple[Matrix, ...]:
    """L matrices n x n of exact numbers, from a header."""
    found = tables(value, name)
    if len(found[0]) != len(found[0][0]):
        raise ValueError(f"{name} are not 1 to {DEEPEST} square matrices of 1 to {MOST_STREAMS} rows")
    return found


def operators_in(stored: Tensor | None, depth: int, n: int) -> tuple[Matrix, ...]:
    """The operators that a target gave, from a file's tensor: they are float64 and so exact."""
    if stored is None or stored.dtype != torch.float64 or tuple(stored.shape) != (depth, n, n):
        raise ValueError(f"its tensor `operators` is not float64 of shape {(depth, n, n)}")
    if not stored.isfinite().all():
        raise ValueError("its tensor `operators` is not finite")
    return exactly(stored)
