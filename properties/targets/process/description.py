"""What an implementation declares, as plain data that crosses a process, and back."""

from __future__ import annotations

from typing import Any, cast

from mhc_ref import PRESETS, Dialect, Mappings
from mhc_ref.dialect import FIELDS
from mhc_ref.projection import most_streams
from properties.core.implementation import METHODS, Implementation, dtype_names, offers
from properties.targets.process.protocol import (
    DTYPES,
    LONGEST_NAME,
    MOST_CHANNEL_MULTIPLE,
    MOST_ITERATIONS,
    MOST_STREAMS,
    MOST_TOKENS,
    OLDEST,
    SIGNATURES,
    VERSION,
    BadAnswer,
    shortened,
)

_CHOICES: dict[str, tuple[str, ...]] = {
    "methods": (*SIGNATURES, "vjp"),
    "dtypes": DTYPES,
    "emits": Mappings._fields,
    "tunable": FIELDS,
}
"""Fields of a description that are lists, each entry one of these."""
_WORDS: dict[str, tuple[str, ...]] = {
    "mixing": ("compute", "state"),
    "products": ("compute", "tf32", "tf32-truncated"),
}
_FLAGS = ("deterministic", "full_range", "norm_weight", "zero_tokens", "batch_invariant")
_NUMBERS: dict[str, tuple[type, float, float]] = {
    "max_tokens": (int, 1, MOST_TOKENS),
    "channel_multiple": (int, 1, MOST_CHANNEL_MULTIPLE),
    "least_scale": (float, 0, 1),
}
"""Fields that are numbers: their kind, the least and the largest."""
_REQUIRED = ("protocol", "name", "dialect", "streams", "dtypes", "methods")
_FIELDS = (*_REQUIRED, "tunable", "emits", *_WORDS, *_FLAGS, *_NUMBERS)


def declared(implementation: Implementation) -> dict[str, Any]:
    """Every attribute that `Implementation` has, `dialect_given`, and `methods`: those that are its own."""
    found: dict[str, Any] = {}
    for name in Implementation.__annotations__:
        value = getattr(implementation, name)
        found[name] = sorted(value) if isinstance(value, (set, frozenset)) else value  # pyright: ignore[reportUnknownArgumentType]
        if isinstance(value, (tuple, range)):
            found[name] = list(value)  # pyright: ignore[reportUnknownArgumentType]
    found["dialect"] = implementation.dialect.fields()
    found["dtypes"] = list(dtype_names(implementation))
    found["dialect_given"] = implementation.dialect_given
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
    if preset is not None and (not isinstance(preset, str) or preset not in PRESETS):
        raise BadAnswer(f"dialect is preset {shortened(preset)}; the presets are {', '.join(PRESETS)}")
    strange = [name for name in fields if name not in FIELDS]
    if strange:
        raise BadAnswer(f"dialect has {shortened(strange)}; its fields are {', '.join(FIELDS)}")
    try:
        found = PRESETS[preset].with_(**fields) if preset is not None else Dialect(**fields)
    except (TypeError, ValueError) as error:
        raise BadAnswer(f"dialect: {error}") from error
    if found.iterations > MOST_ITERATIONS:
        raise BadAnswer(f"dialect: iterations is {found.iterations}; at most {MOST_ITERATIONS} are verified")
    return found


def attributes_of(description: dict[str, Any]) -> dict[str, Any]:
    """What `describe` answered, checked, as attributes of an implementation, and `methods`.

    Raises:
        BadAnswer: naming the field, what it is and what was expected.
    """
    spoken = description.get("protocol")
    if type(spoken) is not int or not OLDEST <= spoken <= VERSION:
        raise BadAnswer(f"the server speaks protocol {shortened(spoken)}; understood are {OLDEST} to {VERSION}")
    strange = [name for name in description if name not in _FIELDS]
    if strange:
        raise BadAnswer(f"describe has {shortened(strange)}; the fields are {', '.join(sorted(_FIELDS))}")
    missing = [name for name in _REQUIRED if name not in description]
    if missing:
        raise BadAnswer(f"describe lacks {missing[0]!r}; it has {', '.join(description)}")
    name = description["name"]
    if not isinstance(name, str) or len(name) > LONGEST_NAME or not name.isprintable():
        raise BadAnswer(
            f"describe: name is {shortened(name)}; expected a string of at most {LONGEST_NAME} printable characters"
        )
    lists = {field: _list(description, field) for field in ("streams", *_CHOICES) if field in description}
    methods, streams = lists["methods"], lists["streams"]
    if not set(methods) & set(SIGNATURES):
        raise BadAnswer(f"describe: methods is {shortened(methods)}; expected some of {', '.join(SIGNATURES)}, and vjp")
    dialect = dialect_of(description["dialect"])
    if (most := most_streams(dialect)) is not None and max(streams) > most:
        raise BadAnswer(
            f"describe: streams is {shortened(streams)}; residual={dialect.residual!r} is verified up to n = {most}"
        )
    return {
        **{field: _scalar(description, field) for field in (*_WORDS, *_FLAGS, *_NUMBERS) if field in description},
        "tunable": [],
        **lists,
        "name": name,
        "dialect": dialect,
        "differentiable": "vjp" in methods,
    }


def _list(description: dict[str, Any], field: str) -> list[Any]:
    """A field that is a list: not empty unless nothing may be tunable, and every entry one of those that may stand."""
    value, choices = description[field], _CHOICES.get(field)
    entries = cast("list[Any]", value) if isinstance(value, list) else [None]
    if choices is None:
        fitting = all(type(n) is int and 1 <= n <= MOST_STREAMS for n in entries)
        expected = f"the numbers of streams that are accepted, from 1 to {MOST_STREAMS}"
    else:
        fitting = all(isinstance(one, str) and one in choices for one in entries)
        expected = f"some of {', '.join(choices)}"
    if not fitting or (not entries and field != "tunable"):
        raise BadAnswer(f"describe: {field} is {shortened(value)}; expected a list of {expected}")
    return list(dict.fromkeys(entries))


def _scalar(description: dict[str, Any], field: str) -> Any:
    """A field that is a word, true or false, or a number."""
    value = description[field]
    if field in _WORDS:
        if not isinstance(value, str) or value not in _WORDS[field]:
            raise BadAnswer(f"describe: {field} is {shortened(value)}; expected one of {', '.join(_WORDS[field])}")
        return value
    if field in _FLAGS:
        if not isinstance(value, bool):
            raise BadAnswer(f"describe: {field} is {shortened(value)}; expected true or false")
        return value
    kind, least, most = _NUMBERS[field]
    if isinstance(value, bool) or not isinstance(value, (int, kind)) or not least <= value <= most:
        what = "an integer" if kind is int else "a number"
        raise BadAnswer(f"describe: {field} is {shortened(value)}; expected {what} from {least} to {most}")
    return kind(value)
