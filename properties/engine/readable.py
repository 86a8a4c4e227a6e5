"""How readable a counterexample is, and its few lines for somebody who looks at one of many."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator

from torch import Tensor

from properties.core.case import Case, Value, describe, map_tensors
from properties.core.judging import LawBroken

_WIDTH = 74
"""Characters in a line: 80 less the indent of a paragraph."""
_INPUTS = 5
"""How many lines the inputs may take."""
_MANY = 64
"""Numbers whose digits are counted; more of them nobody reads."""


def readable(case: Case, broken: LawBroken) -> float:
    """How hard a counterexample is to read: the smaller, the more readable.

    The entries that are not 0 count one each, all entries by the logarithm of their number, every digit of a number
    beyond the first a half. What the output is and what it should be add their digits, and ten for every decimal place
    in which they agree: 2 where 1 belongs is seen at once, 1.17328817109 where 1.17328821754 belongs is not.
    """
    tensors = [one for _, value in case.items() for one in _tensors(value)]
    entries = sum(one.numel() for one in tensors)
    nonzero = sum(int(one.count_nonzero()) for one in tensors)
    plain = [value for _, value in case.items() if isinstance(value, (int, float)) and not isinstance(value, bool)]
    numbers = [number for one in tensors for number in one.detach().flatten()[:_MANY].tolist()][:_MANY]
    digits = sum(max(0, _digits(f"{number:.9g}") - 1) for number in [*numbers, *plain])
    return nonzero + math.log2(1 + entries) + 0.5 * digits + _alike(broken.got, broken.exact)


def _tensors(value: Value) -> list[Tensor]:
    found: list[Tensor] = []

    def keep(one: Tensor) -> Tensor:
        found.append(one)
        return one

    map_tensors(value, keep)
    return found


def _digits(number: str) -> int:
    """How many digits of a printed number carry it: those before an exponent, without leading and trailing zeros."""
    return len("".join(one for one in number.partition("e")[0] if one.isdigit()).strip("0"))


def _alike(got: str, exact: str) -> float:
    """How hard it is to see that two printed numbers, or facts, differ."""
    try:
        one, other = float(got), float(exact)
    except ValueError:
        return 0.1 * len(got + exact)
    if not (math.isfinite(one) and math.isfinite(other)):
        return 0.0
    size = max(abs(one), abs(other))
    places = -math.log10(abs(one - other) / size) if one != other else 12.0
    return 10 * max(0.0, places - 0.5) + max(0, _digits(got) - 1) + max(0, _digits(exact) - 1)


def example(case: Case, broken: LawBroken) -> tuple[str, ...]:
    """The counterexample in few lines: what came where, what belongs there, and the inputs."""
    found = broken.what + (f" at {broken.where}" if broken.where else "")
    belongs = _BELONGS.get(broken.against, "{got} where {exact} belongs")
    numbers = belongs.format(got=broken.got, exact=broken.exact) if broken.got and broken.exact else broken.got
    told = textwrap.wrap(f"{found}: {numbers}" if numbers else found, _WIDTH, max_lines=4, placeholder=" ...")
    return (*told, *_inputs(case))


_BELONGS = {
    "other": "{got}, and by another of its outputs {exact}",
    "limit": "{got}, and at most {exact} is allowed",
    "wanted": "{got}; expected {exact}",
}


def _inputs(case: Case) -> Iterator[str]:
    lines = [line for name, value in case.items() for line in _input(name, value)]
    yield from lines[:_INPUTS]
    if len(lines) > _INPUTS:
        yield f"... and {len(lines) - _INPUTS} more lines of input in the file"


def _input(name: str, value: Value) -> list[str]:
    text = f"{name} = {describe(value, 2 * _WIDTH)}"
    return textwrap.wrap(
        text, _WIDTH, subsequent_indent="    ", max_lines=3, placeholder=" ...", break_on_hyphens=False
    )
