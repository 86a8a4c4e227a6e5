"""The title of a dialect that differs from a named one in some fields, as messages say it and `--dialect` takes it.

PAPER with rms_eps=1e-06, post='linear'
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

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
    try:
        call = ast.parse(f"changed({changes})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or not call.keywords:
            raise SyntaxError("nothing is changed")
        fields = {str(one.arg): _value(one.value) for one in call.keywords}
    except (SyntaxError, MemoryError, RecursionError):
        raise ValueError(f"{changes!r} are no changes; expected some such as rms_eps=1e-6, post='linear'") from None
    try:
        return dialect.with_(**fields)
    except TypeError as error:  # a field that there is not
        raise ValueError(str(error)) from None


def _value(written: ast.expr) -> Any:
    try:
        return ast.literal_eval(written)
    except ValueError:
        raise ValueError(
            f"{ast.unparse(written)} is no value; expected a number, a name in quotes, True or False"
        ) from None
