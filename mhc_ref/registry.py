"""Which families there are: the names that the open fields of a dialect take, and where the formulas of each are.

A family is a value of a *slot*, a choice that a dialect leaves open. One that comes with this project is three files of
one name: `mhc_ref/families/NAME.py` (its formulas in torch), `mhc_ref/exact/NAME.py` (the same in mpmath, written from
the equations) and `properties/families/NAME.py` (guarantees, bound, wrong implementations, and the rest); and one line
here. Anybody else's is one object, given to `register`.

This module imports neither torch nor mpmath: formulas are imported when they are first asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any, NamedTuple

SLOTS = {
    "residual": "mix",
    "pre": "gate",
    "post": "gate",
    "dynamic": "dynamic",
    "norm_over": "norm",
    "expand": "begin",
    "collapse": "end",
}
"""Field of `Dialect` -> the slot whose families it names."""

FORMULA = {
    "mix": "project",
    "gate": "gates",
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
    ("gate", "sigmoid"),
    ("gate", "softmax"),
    ("gate", "linear"),
    ("dynamic", "linear"),
    ("dynamic", "tanh"),
    ("norm", "streams"),
    ("norm", "stream"),
    ("begin", "copies"),
    ("end", "sum"),
    ("end", "mean"),
    ("end", "head"),
)
"""Every family that comes with this project, as (slot, name); the first of a slot is the default of its field."""

ENTRY_POINTS = "mhc_properties.families"
"""The entry point group in which another package names families of its own; each is an object for `register`."""


@dataclass(frozen=True)
class Field:
    """A field that a family adds to the dialects that choose it.

    Attributes:
        default: its value where none is given.
        holds: whether a value is admitted.
        expected: the admitted values in words, for the message: "a finite number above 0".
        words: what the field means, in a few words.
    """

    default: Any
    holds: Callable[[Any], bool]
    expected: str
    words: str = ""


class UnknownFamily(ValueError):
    """A field of a dialect names a family that is not known here, or not yet.

    Attributes:
        field, name: the field, and what it names.
    """

    def __init__(self, field: str, name: Any) -> None:
        self.field, self.name = field, name
        known = ", ".join(map(repr, names(SLOTS[field])))
        super().__init__(
            f"Dialect.{field} is {name!r}; expected one of {known}. A family from outside is known once the file or "
            "the package that brings it is loaded"
        )


_outside: dict[tuple[str, str], Any] = {}


def register(family: Any) -> Any:
    """Make a family from outside known by its `slot` and `name`; gives it back. The same one again changes nothing.

    Raises:
        ValueError: its slot is none, its name is no identifier, or another family has that name.
    """
    slot: Any = getattr(family, "slot", None)
    name: Any = getattr(family, "name", None)
    if slot not in SLOTS.values():
        raise ValueError(
            f"the family {family!r} has slot {slot!r}; expected one of "
            f"{', '.join(map(repr, dict.fromkeys(SLOTS.values())))}"
        )
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"the family {family!r} has name {name!r}; expected an identifier, as `Dialect` names it")
    known = _outside.get((slot, name))
    if (slot, name) in BUILT_IN or (known is not None and not _same(known, family)):
        raise ValueError(
            f"there is a {slot} family called {name!r} already ({known or 'it comes with this package'}): call yours "
            "otherwise"
        )
    _outside[slot, name] = family
    return family


def _same(one: Any, other: Any) -> bool:
    """Whether both come of one definition: a file that is run again makes its class again."""
    named = (type(one).__module__, type(one).__qualname__)
    return one is other or named == (type(other).__module__, type(other).__qualname__)


def names(slot: str) -> tuple[str, ...]:
    """The names of the families of a slot: our own, then those from outside."""
    own = tuple(name for where, name in BUILT_IN if where == slot)
    return own + tuple(name for where, name in (*_outside, *_packaged()) if where == slot and name not in own)


def outside(slot: str, name: str) -> Any:
    """The object that was registered for a family from outside; None for one of our own.

    Raises:
        LookupError: there is no such family.
    """
    if (slot, name) in BUILT_IN:
        return None
    if (slot, name) not in _outside and (slot, name) in _packaged():
        register(_packaged()[slot, name])
    if (slot, name) not in _outside:
        raise LookupError(f"there is no {slot} family called {name!r}; there are {', '.join(names(slot))}")
    return _outside[slot, name]


def unknown(values: Mapping[str, Any]) -> list[str]:
    """The fields among `values` (field of a dialect -> name) that name a family that is not known here, or not yet."""
    return [field for field, slot in SLOTS.items() if field in values and values[field] not in names(slot)]


@cache
def _packaged() -> Mapping[tuple[str, str], Any]:
    """The families that installed packages name."""
    found = [entry.load() for entry in entry_points(group=ENTRY_POINTS)]
    return {(family.slot, family.name): family for family in found}


def formulas(slot: str, name: str) -> Any:
    """The formulas of a family in torch: the module `mhc_ref.families.NAME`, or the object from outside.

    Raises:
        LookupError: there is no such family.
    """
    return outside(slot, name) or importlib.import_module(f"mhc_ref.families.{name}")


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
        family = importlib.import_module(f"mhc_ref.exact.{name}")
        return Oracle(getattr(family, FORMULA[slot]), getattr(family, f"{FORMULA[slot]}_vjp", None), family)
    if not callable(getattr(family, "exact", None)):
        raise LookupError(f"the {slot} family {name!r} has no formula in mpmath; give it a method `exact`")
    return Oracle(family.exact, getattr(family, "exact_vjp", None), family)


def own_fields(values: Mapping[str, Any]) -> Iterator[tuple[str, Field]]:
    """The fields that the families named by `values` (field of a dialect -> name) add to it."""
    for field, slot in SLOTS.items():
        yield from getattr(formulas(slot, values[field]), "FIELDS", {}).items()
