"""What stands in the header of a file, entry by entry: each is of its kind and its size, or refused.

A header is somebody's text. What is made of it must neither end in a fault of ours, nor take hours or all memory.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any, cast

_NUMBER = re.compile(r"-?[0-9]{1,4000}(/[0-9]{1,4000})?")


def object_of(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{name} is {repr(value)[:80]}; expected an object")
    return cast("dict[str, Any]", value)


def list_of(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{name} is {repr(value)[:80]}; expected a list")
    return cast("list[Any]", value)


def fraction_of(value: Any) -> Fraction:
    # Fraction itself reads exponents, and 1e999999999 would fill the memory.
    if not isinstance(value, str) or not _NUMBER.fullmatch(value):
        raise ValueError(f"{repr(value)[:80]} is no exact number")
    return Fraction(value)


def integer_of(value: Any, name: str, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{name} is {repr(value)[:80]}; expected an integer from {least} to {most}")
    return value
