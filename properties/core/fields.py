"""The kinds of things that can be declared: how each is checked, how it crosses a process, and in which words.

`properties.core.declaration` is the table of what is declared. A kind has two ways in. `settled` takes what somebody
wrote in Python: generators, sets, numpy integers, and values that nobody thought of. `read` takes what a server of
`proc:` said in JSON, which has to fit `schema`.
"""

from __future__ import annotations

import dataclasses
import numbers
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from mhc_ref import PRESETS, Dialect
from properties.guards.printable import printable, shown

T = TypeVar("T")

LONGEST_NAME = 200
MOST_STREAMS = 64
MOST_TOKENS = 1 << 40
MOST_CHANNEL_MULTIPLE = 8192
MOST_ITERATIONS = 1000
"""The largest numbers that a server may declare."""


class Unfit(ValueError):
    """What is declared cannot be used. The text goes on after the name of the field: " is 0; expected ..."."""


@dataclass(frozen=True)
class Field(Generic[T]):
    """A kind of thing that is declared.

    Attributes:
        words: what it means.
        served: a server of `proc:` may declare it.
        required: a server has to.
    """

    words: str
    served: bool = dataclasses.field(default=True, kw_only=True)
    required: bool = dataclasses.field(default=False, kw_only=True)

    def settled(self, given: Any) -> T:
        """What was declared, checked, and as the annotation in the table says.

        Raises:
            Unfit: it cannot be used.
        """
        raise NotImplementedError

    def kept(self, given: Any, settled: T) -> bool:
        """Whether what was declared may stay as it is, or `settled` has to be written in its place."""
        return type(given) is type(settled) and given == settled

    def told(self, settled: T) -> Any:
        """The same in JSON."""
        return settled

    def taken(self, told: Any) -> T:
        """What `told` gave, on the other side of a process of our own."""
        return self.settled(told)

    def schema(self) -> dict[str, Any]:
        """What a server may say, as JSON Schema."""
        raise NotImplementedError

    def read(self, said: Any) -> T:
        """What a server said.

        Raises:
            Unfit: it does not fit the schema.
        """
        if not fits(said, self.schema()):
            raise Unfit(f" is {shown(said, 120)}; expected {wanted(self.schema())}")
        return self.settled(said)


def fits(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether JSON fits a schema of the few keywords that fields have."""
    if "enum" in schema:
        return isinstance(value, str) and value in schema["enum"]
    kind: str = schema["type"]
    if kind == "array":
        least = schema.get("minItems", 0)
        return isinstance(value, list) and len(value) >= least and all(fits(one, schema["items"]) for one in value)  # pyright: ignore[reportUnknownVariableType,reportUnknownArgumentType]
    if kind in ("integer", "number"):
        right = type(value) is int or (kind == "number" and type(value) is float)
        return right and schema["minimum"] <= value <= schema["maximum"]
    return (
        isinstance(value, bool) if kind == "boolean" else isinstance(value, str) and len(value) <= schema["maxLength"]
    )


def wanted(schema: Mapping[str, Any]) -> str:
    """What a schema asks for, in words."""
    if "enum" in schema:
        return f"one of {', '.join(schema['enum'])}"
    kind = schema["type"]
    if kind == "array":
        return "a list of " + wanted(schema["items"]).replace("one of", "some of").replace("an integer", "integers")
    if kind in ("integer", "number"):
        return f"{'an integer' if kind == 'integer' else 'a number'} from {schema['minimum']} to {schema['maximum']}"
    return "true or false" if kind == "boolean" else f"a string of at most {schema['maxLength']} printable characters"


@dataclass(frozen=True)
class Name(Field[str]):
    """One line that stands in test ids, reports and names of files."""

    def settled(self, given: Any) -> str:
        if given is not None and not isinstance(given, str):
            raise Unfit(f" is {shown(given)}; expected a string")
        plain = "".join(given or "").strip()
        if len(plain) > LONGEST_NAME or printable(plain) != plain or "\n" in plain or "\t" in plain:
            raise Unfit(
                f" is {shown(given)}; expected one line of at most {LONGEST_NAME} characters that a terminal shows: it "
                "stands in test ids, reports and names of files"
            )
        return plain

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "maxLength": LONGEST_NAME}

    def read(self, said: Any) -> str:
        if not fits(said, self.schema()) or not said.isprintable():
            raise Unfit(f" is {shown(said, 120)}; expected {wanted(self.schema())}")
        return said


@dataclass(frozen=True)
class Choices(Field[Dialect]):
    """The dialect."""

    def settled(self, given: Any) -> Dialect:
        if not isinstance(given, Dialect):
            raise Unfit(f" is {shown(given)}; expected a mhc_ref.Dialect, such as mhc_ref.PAPER")
        return given

    def told(self, settled: Dialect) -> dict[str, Any]:
        return settled.fields()

    def taken(self, told: Any) -> Dialect:
        return self.read(told)

    def schema(self) -> dict[str, Any]:
        return {"$ref": "#/$defs/dialect"}

    def read(self, said: Any) -> Dialect:
        """The dialect that is named, {"preset": name, fields that differ}, or given by its fields."""
        if isinstance(said, str):
            said = {"preset": said}
        if not isinstance(said, dict):
            raise Unfit(f" is {shown(said, 120)}; expected the name of a preset, or an object of fields")
        fields: dict[str, Any] = dict(said)  # pyright: ignore[reportUnknownArgumentType]
        preset = fields.pop("preset", None)
        if preset is not None and (not isinstance(preset, str) or preset not in PRESETS):
            raise Unfit(f" is preset {shown(preset, 120)}; the presets are {', '.join(PRESETS)}")
        try:
            if "own" in fields:  # where a dialect keeps what its families bring, which is said like any other field
                raise TypeError("Dialect has no field 'own'")
            found = PRESETS[preset].with_(**fields) if preset is not None else Dialect(**fields)
        except (TypeError, ValueError) as error:
            raise Unfit(f": {error}") from error
        if found.iterations > MOST_ITERATIONS:
            raise Unfit(f": iterations is {found.iterations}; at most {MOST_ITERATIONS} are verified")
        return found


@dataclass(frozen=True)
class Flag(Field[bool]):
    """Yes or no."""

    def settled(self, given: Any) -> bool:
        if not isinstance(given, (bool, np.bool_)):
            raise Unfit(f" is {shown(given)}; expected True or False")
        return bool(given)

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


@dataclass(frozen=True)
class Word(Field[str]):
    """One of a few words."""

    among: tuple[str, ...]

    def settled(self, given: Any) -> str:
        if not isinstance(given, str) or given not in self.among:
            raise Unfit(f" is {shown(given)}; expected one of {', '.join(self.among)}")
        return given

    def schema(self) -> dict[str, Any]:
        return {"enum": list(self.among)}


@dataclass(frozen=True)
class Count(Field[int]):
    """An integer of 1 or more; a server may say `most` at most."""

    most: int

    def settled(self, given: Any) -> int:
        number = count(given)
        if number is None:
            raise Unfit(f" is {shown(given)}; expected an integer of 1 or more: {self.words}")
        return number

    def schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": 1, "maximum": self.most}


@dataclass(frozen=True)
class Fraction(Field[float]):
    """A number from 0 to 1."""

    def settled(self, given: Any) -> float:
        if isinstance(given, bool) or not isinstance(given, numbers.Real) or not 0 <= float(given) <= 1:
            raise Unfit(f" is {shown(given)}; expected a number from 0 to 1, such as 1e-6")
        return float(given)

    def schema(self) -> dict[str, Any]:
        return {"type": "number", "minimum": 0, "maximum": 1}


def count(given: object) -> int | None:
    """What somebody declared as an integer of 1 or more, numpy's too; None where it is none."""
    if isinstance(given, bool) or not isinstance(given, numbers.Integral):
        return None
    number = operator.index(given)
    return number if number >= 1 else None
