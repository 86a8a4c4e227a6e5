"""What an implementation declares, as plain data that crosses a process, and back."""

from __future__ import annotations

from typing import Any

from properties.core.declaration import TABLE, Declaration, DeclarationError, agree
from properties.core.doubts import doubts
from properties.core.fields import Field, Unfit
from properties.core.implementation import METHODS, Implementation, offers
from properties.core.several import Some
from properties.targets.process.protocol import OLDEST, SIGNATURES, VERSION, BadAnswer, shortened

METHOD_NAMES = Some(
    "vjp: gradients of every other one; without it the implementation counts as not differentiable",
    f"some of {', '.join(SIGNATURES)}, and vjp",
    (*SIGNATURES, "vjp"),
    required=True,
)
"""What a server may offer."""


def served() -> dict[str, Field[Any]]:
    """The fields of a description by name, `protocol` apart."""
    return {"methods": METHOD_NAMES, **{name: field for name, field in TABLE.items() if field.served}}


def declared(implementation: Implementation) -> dict[str, Any]:
    """All that an implementation declares as plain data, `dialect_given`, `doubts`, and `methods`: those that are
    its own."""
    found = Declaration.of(implementation)
    return {
        **{name: field.told(getattr(found, name)) for name, field in TABLE.items()},
        "dialect_given": implementation.dialect_given,
        "doubts": list(doubts(implementation)),
        "methods": [method for method in METHODS if offers(implementation).get(method) == "own"],
    }


def declare(implementation: Implementation, description: dict[str, Any]) -> None:
    """Set the attributes of `declared` on an implementation.

    Raises:
        BadAnswer: a dialect or another attribute that is none.
    """
    for name, field in TABLE.items():
        try:
            setattr(implementation, name, field.taken(description[name]))
        except (KeyError, Unfit) as error:
            raise BadAnswer(f"{name}{error}" if isinstance(error, Unfit) else f"{name} is missing") from error


def attributes_of(description: dict[str, Any]) -> dict[str, Any]:
    """What `describe` answered, checked, as attributes of an implementation, and `methods`.

    Raises:
        BadAnswer: naming the field, what it is and what was expected.
    """
    spoken = description.get("protocol")
    if type(spoken) is not int or not OLDEST <= spoken <= VERSION:
        raise BadAnswer(f"the server speaks protocol {shortened(spoken)}; understood are {OLDEST} to {VERSION}")
    fields = served()
    names = sorted({"protocol", *fields})
    strange = [name for name in description if name not in names]
    if strange:
        raise BadAnswer(f"describe has {shortened(strange)}; the fields are {', '.join(names)}")
    missing = [name for name, field in fields.items() if field.required and name not in description]
    if missing:
        raise BadAnswer(f"describe lacks {missing[0]!r}; it has {', '.join(description)}")
    found: dict[str, Any] = {"tunable": frozenset()}
    for name in (name for name in fields if name in description):
        try:
            found[name] = fields[name].read(description[name])
        except Unfit as error:
            raise BadAnswer(f"describe: {name}{error}") from error
    if not set(found["methods"]) & set(SIGNATURES):
        raise BadAnswer(f"describe: methods is {shortened(description['methods'])}; expected {METHOD_NAMES.expected}")
    try:
        agree(Declaration(**{name: value for name, value in found.items() if name != "methods"}))
    except DeclarationError as error:
        raise BadAnswer(f"describe: {str(error).removeprefix('.')}") from error
    return {**found, "differentiable": "vjp" in found["methods"]}
