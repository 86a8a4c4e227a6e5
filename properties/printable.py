"""Text of strangers (exception messages, names, a peer's last words) as a terminal may show it."""

from __future__ import annotations

import unicodedata

_KEPT = "\n\t"
_HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Unicode categories that a terminal interprets or does not show: controls, directions, surrogates, line separators."""


def printable(text: str, most: int = 2000) -> str:
    """The text with every character that could steer a terminal written as an escape, such as ``\\x1b``.

    Line feeds and tabs stay. What is longer than `most` characters is cut in the middle, and the cut says how much is
    missing: both ends of a message carry its meaning.
    """
    if len(text) > most:
        half = most // 2
        text = f"{text[:half]} ... ({len(text) - 2 * half} characters more) ... {text[-half:]}"
    return "".join(one if one in _KEPT or unicodedata.category(one) not in _HIDDEN else _escaped(one) for one in text)


def message_of(error: BaseException, most: int = 2000) -> str:
    """`str(error)` for a terminal, also where the `__str__` of a stranger's exception raises."""
    try:
        text = str(error)
    except BaseException as second:  # a stranger's __str__ may raise anything
        if isinstance(second, KeyboardInterrupt):
            raise
        return f"(its message cannot be read: __str__ raised {type(second).__name__})"
    return printable(text, most)


def _escaped(character: str) -> str:
    number = ord(character)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
