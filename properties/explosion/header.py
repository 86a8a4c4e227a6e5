"""What the header of an explosion file says, read field by field: each is of its kind and its size, or refused.

A header is somebody's text. What is made of it must neither end in a fault of ours, nor take hours or all memory.
"""

from __future__ import annotations

import dataclasses
import re
from fractions import Fraction
from typing import Any, cast

import torch

from mhc_ref import Dialect
from properties.explosion.composite import Matrix
from properties.explosion.request import (
    BRANCHES,
    DEEPEST,
    DIRECTIONS,
    DTYPES,
    FAMILIES,
    GAINS,
    LARGEST,
    NORMS,
    Request,
    consistent,
)
from properties.explosion.searches.blocks import Block
from properties.explosion.searches.dynamic import Dynamic

_MOST_STREAMS = 64
"""Of what is searched a few are large; a composite of more would take hours to compute exactly."""
_MOST_NUMBERS = 10**8
"""Numbers of parameters in one block."""
_NUMBER = re.compile(r"-?[0-9]{1,4000}(/[0-9]{1,4000})?")
_LOGIT_LIMIT = 10**6
"""Of integers that go into an exponential."""


def object_of(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{name} is {repr(value)[:80]}; expected an object")
    return cast("dict[str, Any]", value)


def _fraction(value: Any) -> Fraction:
    # Fraction itself reads exponents, and 1e999999999 would fill the memory.
    if not isinstance(value, str) or not _NUMBER.fullmatch(value):
        raise ValueError(f"{repr(value)[:80]} is no exact number")
    return Fraction(value)


def _integer(value: Any, name: str, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name} is {repr(value)[:80]}; expected an integer from {least} to {most}")
    return value


def matrices(value: Any, name: str) -> tuple[Matrix, ...]:
    """L matrices n x n of exact numbers."""
    listed: list[Any] = cast("list[Any]", value) if isinstance(value, list) else []
    first: Any = listed[0] if listed else None
    n = len(cast("list[Any]", first)) if isinstance(first, list) else 0
    square = 1 <= n <= _MOST_STREAMS and len(listed) <= DEEPEST
    for one in listed:
        rows: list[Any] = cast("list[Any]", one) if isinstance(one, list) else []
        square &= len(rows) == n and all(isinstance(row, list) and len(cast("list[Any]", row)) == n for row in rows)
    if not square:
        raise ValueError(f"{name} are not 1 to {DEEPEST} square matrices of 1 to {_MOST_STREAMS} rows")
    return tuple(tuple(tuple(map(_fraction, row)) for row in one) for one in listed)


def of_tensor(stored: torch.Tensor | None, depth: int, n: int) -> tuple[Matrix, ...]:
    """The operators that a target gave, which are float64 and so exact."""
    if stored is None or stored.dtype != torch.float64 or tuple(stored.shape) != (depth, n, n):
        raise ValueError(f"its tensor `operators` is not float64 of shape {(depth, n, n)}")
    if not stored.isfinite().all():
        raise ValueError("its tensor `operators` is not finite")
    return tuple(tuple(tuple(map(Fraction, row)) for row in one) for one in stored.tolist())


def block_of(fields: dict[str, Any], asked: Request) -> Block:
    limits = {name: (-_LOGIT_LIMIT, _LOGIT_LIMIT) for name in ("pre", "post")}
    limits |= {"depth": (1, DEEPEST), "streams": (1, _MOST_STREAMS), "width": (1, 2**20)}
    whole = {name: _integer(fields[name], name, *limit) for name, limit in limits.items()}
    made = Block(weight=_fraction(fields["weight"]), **whole)
    if asked.dialect.residual == "permutations" and made.streams > 5:
        raise ValueError(f"streams is {made.streams}; the permutation mixture has 5 at most")
    if made.streams * made.width * (2 + made.streams) * made.streams > _MOST_NUMBERS:
        raise ValueError(
            f"a block of {made.streams} streams of {made.width} channels is larger than any that is searched"
        )
    return made


def dynamic_of(fields: dict[str, Any], n: int) -> Dynamic:
    weights, given = fields["weights"], fields["input"]
    if not isinstance(weights, list) or not isinstance(given, list):
        raise TypeError("its weights or its input are no list")
    found = tuple(_integer(one, "a weight", -_LOGIT_LIMIT, _LOGIT_LIMIT) for one in cast("list[Any]", weights))
    made = Dynamic(
        found, tuple(map(_fraction, cast("list[Any]", given))), _integer(fields["depth"], "depth", 1, DEEPEST)
    )
    if len(made.weights) != n or len(made.input) != n:
        raise ValueError(f"it has {len(made.weights)} weights and an input of {len(made.input)} for {n} streams")
    return made


_ANSWER: dict[str, tuple[type, ...]] = {
    "found": (bool,),
    "depth": (int,),
    "streams": (int,),
    "width": (int,),
    "entries": (int, type(None)),
    "value": (float, int, str),
    "exact_value": (str, type(None)),
    "minimality": (str,),
    "proof": (str,),
    "impossible": (bool,),
    "seconds": (float, int),
    "stopped": (str,),
}


def answer_of(fields: dict[str, Any]) -> dict[str, Any]:
    """What the search answered, each field of its kind."""
    if strange := sorted(set(fields) - set(_ANSWER)):
        raise ValueError(f"answer has {', '.join(strange)[:80]}, which no answer of this version has")
    for name, kinds in _ANSWER.items():
        value = fields[name]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise TypeError(f"{name} is {repr(value)[:80]}; expected {' or '.join(kind.__name__ for kind in kinds)}")
    if not fields["found"]:
        raise ValueError("nothing was found, so there is no configuration")
    return {**fields, "value": float(fields["value"])}


_CHOICES = {
    "family": FAMILIES,
    "gain": GAINS,
    "direction": DIRECTIONS,
    "dtype": DTYPES,
    "branch": BRANCHES,
    "norm": NORMS,
}


def _quantity(value: Any, name: str) -> Fraction:
    """A threshold or a bound, of a size that may be asked for."""
    number = _fraction(object_of(value, name)["exact"])
    if number < 0 or (number and not Fraction(1, 10**LARGEST) <= number <= 10**LARGEST):
        raise ValueError(f"{name} is {str(number)[:80]}; expected a size between 1e-{LARGEST} and 1e{LARGEST}")
    return number


def request_of(fields: dict[str, Any]) -> Request:
    """What was asked, checked as the question was."""

    def read(name: str, value: Any) -> Any:
        if name in ("threshold", "entry_bound", "identity_bound", "branch_bound"):
            return value if value is None and name.endswith("y_bound") else _quantity(value, name)
        if name == "dialect":
            return Dialect(**object_of(object_of(value, name)["dialect"], name))
        if name in ("max_depth", "max_streams", "max_width"):
            return _integer(value, name, 1, 2**63)
        if name in _CHOICES and value not in _CHOICES[name]:
            raise ValueError(f"{name} is {repr(value)[:80]}; expected one of {', '.join(_CHOICES[name])}")
        kind = {"seed": int, "dynamic": bool, "claimed": bool, "budget": (float, int)}.get(name, str)
        if not isinstance(value, kind):
            raise TypeError(f"{name} is {repr(value)[:80]}, which is not of its kind")
        return value

    known = {field.name for field in dataclasses.fields(Request)}
    if strange := sorted(set(fields) - known):
        raise ValueError(f"request has {', '.join(strange)[:80]}, which no request of this version has")
    made = Request(**{name: read(name, value) for name, value in fields.items()})
    consistent(made)
    return made
