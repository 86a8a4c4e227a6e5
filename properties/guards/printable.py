"""Text of strangers (exception messages, names, a peer's last words) as a terminal may show it."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from properties.guards.interruption import Interrupted, watching

_CUT = re.compile(r" \.\.\. \((\d{1,18}) characters more\) \.\.\. ")
"""A cut of `printable`, with the count of what is missing."""

_KEPT = "\n\t"
_HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Unicode categories that a terminal interprets or does not show: controls, directions, surrogates, line separators."""


def printable(text: str, most: int = 2000) -> str:
    """The text with every character that could steer a terminal written as an escape, such as ``\\x1b``.

    Line feeds and tabs stay. What is longer than `most` characters is cut in the middle, and the cut says how much is
    missing, also of what had been cut before: both ends of a message carry its meaning.
    """
    if len(text) > most:
        half = most // 2
        before = _CUT.finditer(text, half, len(text) - half)
        missing = len(text) - 2 * half + sum(int(one[1]) - len(one[0]) for one in before)
        text = f"{text[:half]} ... ({missing} characters more) ... {text[-half:]}"
    return "".join(one if one in _KEPT or unicodedata.category(one) not in _HIDDEN else _escaped(one) for one in text)


def message_of(error: BaseException, most: int = 2000) -> str:
    """`str(error)` for a terminal, also where the `__str__` of a stranger's exception raises; of a group of exceptions
    the first few as well."""
    try:
        text = str.__getitem__(str(error), slice(None))  # a plain str: __str__ may give one with methods of its own
    except BaseException as second:  # a stranger's __str__ may raise anything
        if issubclass(type(second), Interrupted) or (issubclass(type(second), KeyboardInterrupt) and not watching()):
            raise
        return f"(its message cannot be read: __str__ raised {name_of(second)})"
    if issubclass(type(error), BaseExceptionGroup):
        text += f": {'; '.join(_members(error))}"
    return printable(text, most)


def name_of(error: BaseException) -> str:
    """The name of an exception's class, for a terminal, whatever its metaclass does."""
    name: Any = type.__dict__["__name__"]
    return printable(name.__get__(type(error)))


_NAMED = 3
"""How many members of a group of exceptions are told."""


def _members(group: BaseException) -> list[str]:
    inside: Any = vars(BaseExceptionGroup)["exceptions"]  # not a stranger's property of that name
    found = inside.__get__(group)
    told = [": ".join(filter(None, (name_of(one), message_of(one, 300)))) for one in found[:_NAMED]]
    return told + [f"and {len(found) - _NAMED} more"] * (len(found) > _NAMED)


def shown(value: object, most: int = 200) -> str:
    """`repr(value)` for a terminal, also where the `__repr__` of a stranger raises."""
    try:
        text = repr(value)
        text = str.__getitem__(text, slice(None))
    except BaseException as error:  # a stranger's __repr__ may raise anything
        if issubclass(type(error), Interrupted) or (issubclass(type(error), KeyboardInterrupt) and not watching()):
            raise
        text = f"<{type(value).__name__}, whose __repr__ raised {name_of(error)}>"
    return printable(text, most)


def _escaped(character: str) -> str:
    number = ord(character)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
