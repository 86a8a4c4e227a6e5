"""Nested lists of numbers: their rows, columns and entries."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias, cast

from mhc_ref.dialect import Axis

# An mpf, inside this folder also a Dual or a Node. Any, because mpmath ships no type stubs.
Real: TypeAlias = Any
Vector: TypeAlias = list[Real]
Matrix: TypeAlias = list[list[Real]]


def along(axis: Axis, m: Matrix, of_line: Callable[..., Vector], *more: Matrix) -> Matrix:
    """`of_line` of every row, or of every column, of one or more matrices."""
    if axis == "row":
        return [of_line(*lines) for lines in zip(m, *more, strict=True)]
    return transpose([of_line(*lines) for lines in zip(*map(transpose, (m, *more)), strict=True)])


def transpose(m: Matrix) -> Matrix:
    """Rows become columns."""
    return [list(line) for line in zip(*m, strict=True)]


def by_channel(weights: Any, channels: int) -> Matrix:
    """The weights of the streams in every channel, of weights [n][C], or [n] for all channels alike."""
    return transpose(weights) if isinstance(weights[0], list) else [weights] * channels


def flat(m: Matrix) -> Vector:
    """All entries in one row-major list."""
    return [entry for row in m for entry in row]


def rows(numbers: Vector, n: int) -> Matrix:
    """One row-major list -> n rows."""
    width = len(numbers) // n
    return [numbers[i * width : (i + 1) * width] for i in range(n)]


def shaped(numbers: Vector, shape: tuple[int, ...]) -> list[Any]:
    """One row-major list -> nested lists of a shape."""
    if len(shape) == 1:
        return numbers
    return [shaped(part, shape[1:]) for part in rows(numbers, shape[0])]


def items(given: Any, name: str) -> list[Any]:
    """A sequence as a list.

    Raises:
        ValueError: it is none.
    """
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ValueError(f"{name} is {given!r}; expected a sequence (for tensors: .tolist())")
    return list(cast(Iterable[Any], given))


def sizes(given: Any, name: str) -> tuple[int, ...]:
    """The lengths of nested sequences, by the first of each.

    Raises:
        ValueError: what is given is no sequence.
    """
    lines = items(given, name)
    nested = bool(lines) and isinstance(lines[0], Iterable) and not isinstance(lines[0], str)
    return (len(lines), *(sizes(lines[0], name) if nested else ()))


def numbers(given: Any) -> list[Any]:
    """All numbers of nested sequences, in order; None has none."""
    if given is None:
        return []
    if isinstance(given, Iterable) and not isinstance(given, str):
        return [number for part in cast(Iterable[Any], given) for number in numbers(part)]
    return [given]
