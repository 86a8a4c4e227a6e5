"""What an implementation declares, read once and written down: afterwards every attribute is what its annotation says.

Strangers declare by generators, sets, numpy integers, properties that raise, and values that nobody thought of. They
are read here, under guard, and nowhere else before that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from properties.core.declaration import TABLE, Declaration, DeclarationError, settled
from properties.core.doubts import misspelt
from properties.core.implementation import METHODS, Implementation, offers, overrides
from properties.guards.faults import TargetFault, answered, described
from properties.guards.printable import shown


def settle(implementation: Implementation) -> Declaration:
    """Check what is declared, and write it down as tuples, integers and booleans.

    Raises:
        DeclarationError: the first attribute that cannot be used.
    """
    for name in ("name", "dialect"):
        _settle(implementation, name)
    try:
        offered = answered(lambda: offers(implementation))
    except TargetFault as fault:
        raise DeclarationError(f"what it offers cannot be read: {fault}") from fault.error
    if not offered:
        near = misspelt(type(implementation))
        meant = f"; {', '.join(near)} is none of them, did you mean {', '.join(near.values())}?" if near else ""
        raise DeclarationError(f"overrides none of {', '.join(METHODS)}: there is nothing to verify{meant}")
    for name in TABLE:
        _settle(implementation, name)
    declared = Declaration.of(implementation)
    if declared.tunable and not overrides(implementation, "tuned"):
        raise DeclarationError(
            f".tunable names {sorted(declared.tunable)}, but tuned(**fields) is not overridden; "
            "expected it to return the same implementation with those fields of the dialect changed"
        )
    return declared


def declare(implementation: Implementation, adapter: str, values: Mapping[str, Any]) -> None:
    """Declare what somebody gave to an adapter, which messages call by its name.

    Raises:
        TypeError: a name that is not in the table.
        ValueError: a value that cannot be used.
    """
    strange = sorted(values.keys() - TABLE)
    if strange:
        raise TypeError(f"{adapter}: {', '.join(strange)} is no attribute of Implementation")
    for name, value in values.items():
        setattr(implementation, name, value)
    try:
        settle(implementation)
    except DeclarationError as error:
        raise ValueError(f"{adapter}: {error}") from error


def _settle(implementation: Implementation, name: str) -> None:
    found, value = settled(implementation, name)
    if TABLE[name].kept(found, value):
        return
    try:
        setattr(implementation, name, value)
        if isinstance(found, Iterator):  # it is empty now, for other instances too
            for owner in type(implementation).__mro__:
                if vars(owner).get(name) is found:
                    setattr(owner, name, value)
    except Exception as error:  # a property without a setter, a frozen dataclass, a __setattr__ of its own
        if isinstance(found, Iterator) or type(found) is not type(value) or found != value:
            raise DeclarationError(
                f".{name} is {shown(found)} and cannot be set ({described(error)}); expected {shown(value)}"
            ) from error
