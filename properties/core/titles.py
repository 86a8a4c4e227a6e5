"""The title of a dialect that differs from a named one in some fields, as messages say it and `--dialect` takes it.

PAPER with rms_eps=1e-06, post='linear'
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from properties.guards.printable import printable

if TYPE_CHECKING:
    from mhc_ref import Dialect

WITH = " with "
"""Between the name of a dialect and what is changed of it."""


def title(name: str, fields: Mapping[str, Any]) -> str:
    """The title of the dialect of that name with these values in its fields."""
    return f"{name}{WITH}{', '.join(f'{field}={value!r}' for field, value in fields.items())}" if fields else name


def changed(dialect: Dialect, changes: str) -> Dialect:
    """The dialect with the changes of a title.

    Raises:
        ValueError: they cannot be read, name no field, or contradict each other or the rest.
    """
    fields = _keywords(changes)
    try:
        return dialect.with_(**fields)
    except TypeError as error:  # a field that there is not
        raise ValueError(str(error)) from None


def _keywords(changes: str) -> dict[str, Any]:
    """What is written as keywords of a call, each once and with a value of its own; nothing in it is called."""
    try:
        call = ast.parse(f"changed({changes})", mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        call = None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args or not call.keywords:
        raise ValueError(f"{changes!r} are no changes; expected some such as rms_eps=1e-6, post='linear'")
    found: dict[str, Any] = {}
    for one in call.keywords:
        if one.arg is None:
            raise ValueError(f"{_text(one.value)} names no field; expected some such as rms_eps=1e-6, post='linear'")
        if one.arg in found:
            raise ValueError(f"{one.arg} is given twice")
        found[one.arg] = _value(one.value)
    return found


def _value(written: ast.expr) -> Any:
    try:
        return ast.literal_eval(written)
    except (TypeError, ValueError, MemoryError, RecursionError):
        raise ValueError(f"{_text(written)} is no value; expected a number, a name in quotes, True or False") from None


def _text(written: ast.expr) -> str:
    try:
        return printable(ast.unparse(written), 100)
    except RecursionError:
        return "what is nested so deeply"
