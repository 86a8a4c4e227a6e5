"""Which families there are: the names that the open fields of a dialect take, and where the formulas of each are.

A family is a value of a *slot*, a choice that a dialect leaves open. One that comes with this project is three files of
one name: `mhc_ref/families/NAME.py` (its formulas in torch), `mhc_ref/exact/NAME.py` (the same in mpmath, written from
the equations) and `properties/families/NAME.py` (guarantees, bound, wrong implementations, and the rest); and one line
here. Anybody else's is one object, given to `register`.

This module imports neither torch nor mpmath: formulas are imported when they are first asked for.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any, NamedTuple, cast

SLOTS = {
    "residual": "mix",
    "pre": "gate",
    "post": "gate",
    "read": "read",
    "dynamic": "dynamic",
    "norm_over": "norm",
    "expand": "begin",
    "collapse": "end",
}
"""Field of `Dialect` -> the slot whose families it names."""

FORMULA = {
    "mix": "project",
    "gate": "gates",
    "read": "weights",
    "dynamic": "activate",
    "norm": "normalise",
    "begin": "expand",
    "end": "collapse",
}
"""Slot -> the name of its formula (`mhc_ref.families` in torch, `mhc_ref.exact` in mpmath)."""

BUILT_IN = (
    ("mix", "sinkhorn"),
    ("mix", "permutations"),
    ("mix", "unconstrained"),
    ("mix", "identity"),
    ("mix", "kronecker"),
    ("mix", "cayley"),
    ("mix", "carry"),
    ("gate", "sigmoid"),
    ("gate", "softmax"),
    ("gate", "linear"),
    ("gate", "newest"),
    ("read", "streamwise"),
    ("read", "bottleneck"),
    ("read", "depth-attention"),
    ("dynamic", "linear"),
    ("dynamic", "tanh"),
    ("dynamic", "static"),
    ("norm", "streams"),
    ("norm", "stream"),
    ("begin", "copies"),
    ("begin", "one-hot"),
    ("end", "sum"),
    ("end", "mean"),
    ("end", "head"),
    ("end", "last-pre"),
)
"""Every family that comes with this project, as (slot, name); the first of a slot is the default of its field."""

ENTRY_POINTS = "mhc_properties.families"
"""The entry point group in which another package names families of its own; each is an object for `register`."""


@dataclass(frozen=True)
class Field:
    """A field that a family adds to the dialects that choose it.

    Attributes:
        default: its value where none is given.
        holds: whether a value is admitted; one that it raises for is not.
        expected: the admitted values in words, for the message: "a finite number above 0".
        words: what the field means, in a few words.
    """

    default: Any
    holds: Callable[[Any], bool]
    expected: str
    words: str = ""

    def read(self, given: Any) -> Any:
        """The value for what was given: a float for a whole number where the default is one, a tuple for a list.

        Raises:
            ValueError: it is not admitted, or cannot be compared and hashed as a part of a dialect.
        """
        value: Any = tuple(cast(list[Any], given)) if isinstance(given, list) else given
        if isinstance(self.default, float) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        try:
            hash(value)
            admitted = bool(self.holds(value))
        except Exception:  # of somebody else's function, for a value that it was not written for
            admitted = False
        if not admitted:
            raise ValueError(f"{given!r}; expected {self.expected}")
        return value


TEMPERATURE = Field(
    1.0,
    lambda t: isinstance(t, float) and 1e-30 <= t <= 1e30,
    "a number from 1e-30 to 1e30, by which the residual logits are divided before the projection: 1 for none",
    "the residual logits are divided by it before the projection",
)
"""A field of several mixes. Further numbers would leave nothing of a logit in float32, or make all of them too large
for it."""


class UnknownFamily(ValueError):
    """A field of a dialect names a family that is not known here, or not yet.

    Attributes:
        field, name: the field, and what it names.
    """

    def __init__(self, field: str, name: Any, why: str) -> None:
        self.field, self.name = field, name
        super().__init__(f"Dialect.{field} is {name!r}; {why}")


_outside: dict[tuple[str, str], Any] = {}


def register(family: Any) -> Any:
    """Make a family from outside known by its `slot` and `name`; gives it back. A class is called for its object.

    The same family again, from a file that is run a second time or an object that is made anew, takes the place of the
    first.

    Raises:
        ValueError: its slot is none, its name is no identifier, it lacks a formula, its roundings or fields are none,
            or another family has that name.
    """
    if isinstance(family, type):
        family = cast(Any, family)()
    slot: Any = getattr(family, "slot", None)
    name: Any = getattr(family, "name", None)
    if slot not in FORMULA:
        raise ValueError(
            f"the family {family!r} has slot {slot!r}; expected one of {', '.join(map(repr, FORMULA))}: its attribute "
            "`slot` says which choice of a dialect it is a value of"
        )
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"the family {family!r} has name {name!r}; expected an identifier, as `Dialect` names it")
    for method in (FORMULA[slot], "shape")[: 2 if slot == "mix" else 1]:
        if not callable(getattr(family, method, None)):
            raise ValueError(
                f"the {slot} family {name!r} has no method `{method}`; mhc_ref.families says what a family offers"
            )
    roundings: Any = getattr(family, "roundings", None)
    if roundings is not None and (type(roundings) is not int or not 0 < roundings < 2**20):
        raise ValueError(
            f"the {slot} family {name!r} has roundings {roundings!r}; expected a whole number above 0 and below "
            "2**20, or None for a family that has a derived bound"
        )
    fields: Any = getattr(family, "FIELDS", {})
    if not isinstance(fields, Mapping) or not all(isinstance(one, Field) for one in cast(Any, fields).values()):
        raise ValueError(
            f"the {slot} family {name!r} has FIELDS {fields!r}; expected a dict of a `Field` for each name: "
            "its default, what it admits, and that in words"
        )
    known = _outside.get((slot, name))
    if (slot, name) in BUILT_IN or (known is not None and not _same(known, family)):
        where = "it comes with mhc_ref" if known is None else f"it is from {_origin(known)[0]}"
        raise ValueError(f"there is a {slot} family called {name!r} already ({where}): give yours another name")
    _outside[slot, name] = family
    return family


def _same(one: Any, other: Any) -> bool:
    """Whether both come of one definition: a file that is run again makes its class and its objects again."""
    return one is other or _origin(one) == _origin(other)


def _origin(family: Any) -> tuple[Any, ...]:
    """The file, or where there is none the module, that defines a family, its name there, and what it was made with."""
    kind: Any = family if isinstance(family, ModuleType) else type(family)
    formula: Any = getattr(family, FORMULA[family.slot])
    code: Any = getattr(inspect.unwrap(getattr(formula, "__func__", formula)), "__code__", None)
    module: Any = sys.modules.get(getattr(kind, "__module__", kind.__name__), kind)
    files = (getattr(module, "__file__", None), getattr(code, "co_filename", None))
    found = [os.path.realpath(file) for file in files if file and os.path.exists(file)]
    plain = {name: value for name, value in vars(family).items() if isinstance(value, (str, int, float, tuple))}
    made = {} if isinstance(family, ModuleType) else plain
    return (found or [module.__name__], getattr(kind, "__qualname__", None), made)


def names(slot: str) -> tuple[str, ...]:
    """The names of the families of a slot: our own, then those from outside."""
    _packaged()
    own = tuple(name for where, name in BUILT_IN if where == slot)
    return own + tuple(name for where, name in _outside if where == slot)


def default(slot: str) -> str:
    """The family that a dialect has where none is named: the first of the slot."""
    return next((name for where, name in BUILT_IN if where == slot), "")


def outside(slot: str, name: str) -> Any:
    """The object that was registered for a family from outside; None for one of our own.

    Raises:
        LookupError: there is no such family, or the package that offers it cannot be loaded.
    """
    if (slot, name) in BUILT_IN:
        return None
    if (slot, name) not in _outside:
        _packaged()
    if (slot, name) not in _outside:
        raise LookupError(f"there is no {slot} family {name!r}; {absent(slot, name)}")
    return _outside[slot, name]


def absent(slot: str, name: str) -> str:
    """Why there is no family of a name, in words."""
    return _packaged().get(name) or (
        f"expected one of {', '.join(map(repr, names(slot)))}. A family from outside is known once the file or the "
        "package that brings it is loaded"
    )


def unknown(values: Mapping[str, Any]) -> list[str]:
    """The fields among `values` (field of a dialect -> name) that name a family that is not known here, or not yet."""
    return [field for field, slot in SLOTS.items() if field in values and values[field] not in names(slot)]


def broken() -> dict[str, str]:
    """The entry points of installed packages that name no family after all: by name, what went wrong."""
    return dict(_packaged())


@cache
def _packaged() -> Mapping[str, str]:
    """Register the families that installed packages name; what went wrong, by the name of the entry point.

    A broken package of somebody else's is no reason to fail before its family is asked for.
    """
    broken: dict[str, str] = {}
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            register(entry.load())
        except Exception as error:
            package = f" of the package {entry.dist.name}" if entry.dist else ""
            broken[entry.name] = (
                f"the entry point {entry.name} = {entry.value}{package} failed with {type(error).__name__}: {error}"
            )
    return broken


def formulas(slot: str, name: str) -> Any:
    """The formulas of a family in torch: the module `mhc_ref.families.NAME`, or the object from outside.

    Raises:
        LookupError: there is no such family.
    """
    family = outside(slot, name)
    return _ours("families", name) if family is None else family


@cache
def _ours(folder: str, name: str) -> Any:
    return importlib.import_module(f"mhc_ref.{folder}.{module_of(name)}")


def module_of(name: str) -> str:
    """The name of the module of a family of ours."""
    return name.replace("-", "_")


class Oracle(NamedTuple):
    """A family in mpmath (`mhc_ref.exact` says what its formula takes).

    Attributes:
        formula: the formula of the slot.
        vjp: its gradient where one is written by hand, or None.
        told: what says the rest (`shape` of a mix, `HEAD` of an end): the module, or the object from outside.
    """

    formula: Callable[..., Any]
    vjp: Callable[..., Any] | None
    told: Any


def oracle(slot: str, name: str) -> Oracle:
    """The formulas of a family in mpmath: of the module `mhc_ref.exact.NAME`, or `exact` of the object from outside.

    Raises:
        LookupError: there is no such family, or it has no formula in mpmath.
    """
    family = outside(slot, name)
    if family is None:
        family = _ours("exact", name)
        return Oracle(getattr(family, FORMULA[slot]), getattr(family, f"{FORMULA[slot]}_vjp", None), family)
    if not callable(getattr(family, "exact", None)):
        raise LookupError(f"the {slot} family {name!r} has no formula in mpmath; give it a method `exact`")
    return Oracle(family.exact, getattr(family, "exact_vjp", None), family)


def brought(slot: str, name: str) -> Mapping[str, Field]:
    """The fields that a family adds to a dialect, by name."""
    return getattr(formulas(slot, name), "FIELDS", {})


def own_fields(values: Mapping[str, Any]) -> Iterator[tuple[str, Field]]:
    """The fields that the families named by `values` (field of a dialect -> name) add to it."""
    for slot, name in dict.fromkeys((slot, values[field]) for field, slot in SLOTS.items()):
        yield from brought(slot, name).items()


def bringing(field: str) -> Iterator[tuple[str, str]]:
    """The families that bring a field, as (field of a dialect that chooses it, name); of those known so far."""
    for chooser, slot in SLOTS.items():
        for where, name in (*BUILT_IN, *_outside):
            if where == slot and field in brought(slot, name):
                yield chooser, name
