"""Values for the fields that a family brings, from what a target shows: numbers are fitted, the rest is tried.

Nothing is known of such a field but its default and whether a value is admitted. A number is looked for on a grid
around what is declared and what is the default, and from there by least squares; then its bar is widened until it would
show.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from mhc_ref import Dialect
from mhc_ref.registry import Field
from properties.core.estimate import Candidate, Estimate

Values = dict[str, Any]
Residual = Callable[[Values], Tensor | None]
MOST_TRIED = 64
"""Combinations of values that are no real numbers."""


def fitted(
    fields: Mapping[str, Field],
    declared: Mapping[str, Any],
    residual: Residual,
    ratio: Callable[[Values], float],
) -> list[Candidate]:
    """Values of a family's own fields that reproduce what was observed, each number with its bar.

    Arguments:
        fields, declared: the fields, and the values that they have where they are declared.
        residual: what is seen less what values would show, None for values that make no dialect; cheap.
        ratio: error / bound; at most 1 where they reproduce everything. Infinite for values that make no dialect.
    """
    begun = {name: declared.get(name, field.default) for name, field in fields.items()}
    numbers = [name for name, value in begun.items() if isinstance(value, float)]
    found: list[Candidate] = []
    for rest in _combinations({name: field for name, field in fields.items() if name not in numbers}, begun):
        start = begun | rest
        for values in (start, _searched(fields, numbers, start, residual)):
            plain = _shortened(fields, numbers, values, ratio)
            if (worst := ratio(plain)) <= 1:
                bars = {name: _bar(fields[name], name, plain, ratio) for name in numbers}
                found.append(Candidate(plain, bars, worst))
                break
    return found


def in_question(fields: Mapping[str, Field], name: str) -> bool:
    """Whether values of a field were left untried: all that have no bar and are not one of two."""
    return not isinstance(fields[name].default, float | bool)


def declared_values(fields: Mapping[str, Field], base: Dialect) -> Values:
    """The values that a dialect has for fields that a family brings, of those that it has."""
    known = base.fields()
    return {name: known[name] for name in fields if name in known}


def _combinations(rest: Mapping[str, Field], begun: Values) -> Iterator[Values]:
    choices = {name: _tried(field, begun[name]) for name, field in rest.items()}
    every = itertools.product(*choices.values())
    for values in itertools.islice(every, MOST_TRIED):
        yield dict(zip(choices, values, strict=True))


def _tried(field: Field, declared: Any) -> list[Any]:
    """What is declared, the default, and of whole numbers the next ones."""
    near: list[Any] = [declared, field.default]
    if isinstance(declared, bool):
        near += [not declared]
    elif isinstance(declared, int):
        near += [declared + step for k in range(1, 9) for step in (k, -k)]
    return list(dict.fromkeys(value for value in near if _admitted(field, value)))


def _admitted(field: Field, value: Any) -> bool:
    try:
        field.read(value)
    except ValueError:
        return False
    return True


def _searched(fields: Mapping[str, Field], numbers: list[str], start: Values, residual: Residual) -> Values:
    """From the best of a grid for each number, by steps of Gauss and Newton for all of them."""
    values, least = dict(start), _size(residual(start))
    for name in numbers * (2 if len(numbers) > 1 else 1):
        for value in _grid(fields[name], values[name]):
            tried = values | {name: value}
            if (reached := _size(residual(tried))) < least:
                values, least = tried, reached
    for _ in range(40):
        step = _step(fields, numbers, values, residual)
        for k in range(12):
            tried = {**values, **{name: values[name] + step[name] / 2**k for name in step}}
            if all(_admitted(fields[name], tried[name]) for name in step) and _size(residual(tried)) < least:
                break
        else:
            break
        values, least = tried, _size(residual(tried))
    return values


def _size(difference: Tensor | None) -> float:
    return math.inf if difference is None else float(difference.double().abs().mean().nan_to_num(math.inf))


def _grid(field: Field, begun: float) -> list[float]:
    """Numbers of both signs and many sizes around what is declared and the default, as far as they are admitted."""
    scales = sorted({abs(value) for value in (begun, field.default) if value} or {1.0})
    sizes = sorted({0.0, *(scale * 10 ** (k / 8) for scale in scales for k in range(-32, 33))})
    return [value for size in sizes for value in dict.fromkeys((size, -size)) if _admitted(field, value)]


def _step(fields: Mapping[str, Field], numbers: list[str], values: Values, residual: Residual) -> Values:
    """What least squares add to each number, by differences to values next to them."""
    here = residual(values)
    columns: dict[str, Tensor] = {}
    for name in numbers:
        size = 1e-7 * max(abs(values[name]), 1e-2 * (abs(fields[name].default) or 1.0))  # of a value near 0, too
        for near in (values[name] + size, values[name] - size):
            there = residual(values | {name: near}) if _admitted(fields[name], near) else None
            if here is None or there is None:
                continue
            slope = (there - here).flatten() / (near - values[name])
            if slope.isfinite().all():
                columns[name] = slope
                break
    if here is None or not columns:
        return {}
    found = torch.linalg.lstsq(torch.stack(list(columns.values()), -1), -here.flatten().unsqueeze(-1), driver="gelsd")
    moves = found.solution.flatten().tolist()
    return {name: move for name, move in zip(columns, moves, strict=True) if math.isfinite(move)}


def _shortened(
    fields: Mapping[str, Field], numbers: list[str], values: Values, ratio: Callable[[Values], float]
) -> Values:
    """The same with as few digits as reproduce everything."""
    for name in numbers:
        for digits in range(8):
            tried = values | {name: float(f"{values[name]:.{digits}e}")}
            if tried == values or (_admitted(fields[name], tried[name]) and ratio(tried) <= 1):
                values = tried
                break
    return values


def _bar(field: Field, name: str, values: Values, ratio: Callable[[Values], float]) -> Estimate:
    """Everything around a value that reproduces what was observed, as far as one step of a thousandth of an octave is
    apart from the next where the bar ends."""
    value = values[name]

    def end(sign: float) -> float:
        inside, step = 0.0, 1e-16 * (abs(value) or 1.0)
        while step < 1e6 * (abs(value) or 1.0):
            if not _admitted(field, value + sign * step) or ratio(values | {name: value + sign * step}) > 1:
                break
            inside, step = step, 4 * step
        for _ in range(6):
            middle = (inside + step) / 2
            fits = _admitted(field, value + sign * middle) and ratio(values | {name: value + sign * middle}) <= 1
            inside, step = (middle, step) if fits else (inside, middle)
        return value + sign * step  # refused, so the bar ends before it

    return Estimate(value, end(-1.0), end(1.0))
