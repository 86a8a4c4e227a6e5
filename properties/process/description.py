"""What an implementation declares, as plain data that crosses a process, and back."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

from mhc_ref import PRESETS, Dialect
from properties.implementation import METHODS, Implementation, dtype_names, offers
from properties.process.protocol import BadAnswer, shortened


def declared(implementation: Implementation) -> dict[str, Any]:
    """Every attribute that `Implementation` has, and `methods`: those that are its own."""
    found: dict[str, Any] = {}
    for name in Implementation.__annotations__:
        value = getattr(implementation, name)
        found[name] = sorted(value) if isinstance(value, (set, frozenset)) else value  # pyright: ignore[reportUnknownArgumentType]
        if isinstance(value, (tuple, range)):
            found[name] = list(value)  # pyright: ignore[reportUnknownArgumentType]
    found["dialect"] = dataclasses.asdict(implementation.dialect)
    found["dtypes"] = list(dtype_names(implementation))
    found["methods"] = [method for method in METHODS if offers(implementation).get(method) == "own"]
    return found


def declare(implementation: Implementation, description: dict[str, Any]) -> None:
    """Set the attributes of `declared` on an implementation.

    Raises:
        BadAnswer: a dialect or another attribute that is none.
    """
    for name, value in description.items():
        if name not in Implementation.__annotations__:
            continue
        if name == "dialect":
            value = dialect_of(value)
        elif name == "tunable":
            value = frozenset(value)
        elif isinstance(value, list):
            value = tuple(cast("list[Any]", value))
        setattr(implementation, name, value)


def dialect_of(value: Any) -> Dialect:
    """The dialect that is named, {"preset": name, fields that differ}, or given by its fields.

    Raises:
        BadAnswer: no such preset, field or value.
    """
    if isinstance(value, Dialect):
        return value
    if isinstance(value, str):
        value = {"preset": value}
    if not isinstance(value, dict):
        raise BadAnswer(f"dialect is {shortened(value)}; expected the name of a preset, or an object of fields")
    fields = dict(cast("dict[str, Any]", value))
    preset = fields.pop("preset", None)
    if preset is not None and preset not in PRESETS:
        raise BadAnswer(f"dialect is preset {shortened(preset)}; the presets are {', '.join(PRESETS)}")
    try:
        return PRESETS[preset].with_(**fields) if preset is not None else Dialect(**fields)
    except (TypeError, ValueError) as error:
        raise BadAnswer(f"dialect: {error}") from error
