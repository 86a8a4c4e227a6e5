"""What an implementation declares, read once and checked: afterwards every attribute is what its annotation says.

Strangers declare by generators, sets, numpy integers, properties that raise, and values that nobody thought of. They
are read here, under guard, and nowhere else before that.
"""

from __future__ import annotations

import itertools
import numbers
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from typing import Any, TypeVar

import torch

from mhc_ref import Dialect
from mhc_ref.projection import most_streams, residual_size
from properties.core.implementation import METHODS, Implementation, dtype_names, next_multiple, offers, overrides
from properties.core.rounding import PRODUCTS
from properties.guards.faults import TargetFault, answered, described
from properties.guards.printable import message_of, printable, shown

T = TypeVar("T")

MOST_ENTRIES = 2**27
"""Entries of the largest phi that is drawn, 1 GiB in float64: more streams, or wider multiples, are not verified."""
WIDEST = 259
"""Channels of the widest ordinary state, see `strategies.CHANNELS`."""
_LONGEST_NAME = 200
_MOST = 1000
"""How many values are read of what somebody declares; `itertools.count()` has no end."""

_SEQUENCES = {
    "streams": "the accepted numbers of streams, such as (2, 4)",
    "dtypes": "the accepted dtypes of the state, such as (torch.float32,)",
    "tunable": "a set of names of Dialect fields",
    "emits": "some of pre, post, res",
    "devices": "the types of device that it computes on, such as ('cuda',)",
}
_FLAGS = tuple(name for name, kind in Implementation.__annotations__.items() if kind == "bool")


class DeclarationError(ValueError):
    """A declaration that cannot be used: the attribute, what it is, and what was expected."""


def settle(implementation: Implementation) -> None:
    """Check what is declared, and write it down as tuples, integers and booleans.

    Raises:
        DeclarationError: the first attribute that cannot be used.
    """
    _name(implementation)
    dialect = _read(implementation, "dialect")
    if not isinstance(dialect, Dialect):
        raise DeclarationError(f".dialect is {shown(dialect)}; expected a mhc_ref.Dialect, such as mhc_ref.PAPER")
    if not _asked("what it offers", lambda: offers(implementation)):
        raise DeclarationError(f"overrides none of {', '.join(METHODS)}: there is nothing to verify")
    for field, expected in _SEQUENCES.items():
        _sequence(implementation, field, expected)
    for field in _FLAGS:
        value = _read(implementation, field)
        if not isinstance(value, bool) and type(value).__name__ not in ("bool", "bool_"):  # numpy's has either name
            raise DeclarationError(f".{field} is {shown(value)}; expected True or False")
        _write(implementation, field, value, bool(value))
    _streams(implementation, dialect)
    _choices(implementation)
    _counts(implementation)
    _tunable(implementation)
    _dtypes(implementation)
    _size(implementation, dialect)


def _asked(what: str, read: Callable[[], T]) -> T:
    """What a property, a generator or a `__getattr__` of a stranger gives; it may raise anything."""
    try:
        return answered(read)
    except TargetFault as fault:
        raise DeclarationError(f"{what} cannot be read: {fault}") from fault.error


def _read(implementation: Implementation, field: str) -> Any:
    return _asked(f".{field}", lambda: getattr(implementation, field))


def _write(implementation: Implementation, field: str, found: object, settled: object) -> None:
    if found is settled:
        return
    try:
        setattr(implementation, field, settled)
        if isinstance(found, Iterator):  # it is empty now, for other instances too
            for owner in type(implementation).__mro__:
                if vars(owner).get(field) is found:
                    setattr(owner, field, settled)
    except Exception as error:  # a property without a setter, a frozen dataclass, a __setattr__ of its own
        if isinstance(found, Iterator) or type(found) is not type(settled) or found != settled:
            raise DeclarationError(
                f".{field} is {shown(found)} and cannot be set ({described(error)}); expected {shown(settled)}"
            ) from error


def _name(implementation: Implementation) -> None:
    name = _read(implementation, "name")
    if name is not None and not isinstance(name, str):
        raise DeclarationError(f".name is {shown(name)}; expected a string")
    plain = "".join(name or "").strip()
    if len(plain) > _LONGEST_NAME or printable(plain) != plain or "\n" in plain or "\t" in plain:
        raise DeclarationError(
            f".name is {shown(name)}; expected one line of at most {_LONGEST_NAME} characters that a terminal shows: "
            "it stands in test ids, reports and names of files"
        )
    _write(implementation, "name", name, plain if plain != name else name)


def _sequence(implementation: Implementation, field: str, expected: str) -> None:
    given = _read(implementation, field)
    if isinstance(given, (str, bytes, bytearray, Mapping, torch.Tensor)) or not isinstance(given, Iterable):
        raise DeclarationError(f".{field} is {shown(given)}; expected {expected}")
    values: list[Any] = _asked(f".{field}, {shown(given)},", lambda: list(itertools.islice(given, _MOST + 1)))  # pyright: ignore[reportUnknownArgumentType]
    if len(values) > _MOST:
        raise DeclarationError(f".{field} is {shown(given)}, of more than {_MOST} values; expected {expected}")
    if isinstance(given, Set):  # whose order is another one in every process
        values.sort(key=lambda one: (one, "") if isinstance(one, int) else (0, str(one)))
    distinct: list[Any] = []
    for one in values:
        if not any(one is other or (type(one) is type(other) and one == other) for other in distinct):
            distinct.append(one)
    settled: object = frozenset(distinct) if field == "tunable" and all(map(_hashable, distinct)) else tuple(distinct)
    _write(implementation, field, given, given if type(given) is type(settled) and given == settled else settled)  # pyright: ignore[reportUnknownArgumentType]


def _hashable(value: object) -> bool:
    try:
        hash(value)
    except Exception:  # a stranger's __hash__
        return False
    return True


def _streams(implementation: Implementation, dialect: Dialect) -> None:
    streams = implementation.streams
    counts = [_count(n) for n in streams]
    if not counts or None in counts:
        raise DeclarationError(
            f".streams is {shown(streams)}; expected the accepted numbers of streams, such as (2, 4)"
        )
    settled = tuple(dict.fromkeys(n for n in counts if n is not None))
    if (most := most_streams(dialect)) is not None and max(settled) > most:
        raise DeclarationError(
            f".streams is {shown(streams)}; residual={dialect.residual!r} is verified up to n = {most}"
        )
    _write(implementation, "streams", streams, streams if all(type(n) is int for n in streams) else settled)


def _choices(implementation: Implementation) -> None:
    silent = [part for part in implementation.emits if part not in ("pre", "post", "res")]
    if silent:
        raise DeclarationError(f".emits names {shown(silent)}; expected some of pre, post, res")
    if not implementation.emits:
        raise DeclarationError(".emits is empty; expected some of pre, post, res: what mappings returns")
    mixing, products = _read(implementation, "mixing"), _read(implementation, "products")
    if mixing not in ("compute", "state"):
        raise DeclarationError(f".mixing is {shown(mixing)}; expected 'compute' or 'state'")
    if not isinstance(products, str) or products not in PRODUCTS:
        raise DeclarationError(f".products is {shown(products)}; expected one of {', '.join(PRODUCTS)}")
    for device in implementation.devices:
        if not _is_device_type(device):
            raise DeclarationError(
                f".devices names {shown(device)}; expected types of device that torch knows, without a number, "
                "such as 'cpu' and 'cuda' (an NVIDIA or AMD GPU)"
            )
    if not implementation.devices:
        raise DeclarationError(".devices is empty; expected the types of device that it computes on, such as ('cuda',)")


def _counts(implementation: Implementation) -> None:
    most, multiple = _read(implementation, "max_tokens"), _read(implementation, "channel_multiple")
    if _count(most) is None:
        raise DeclarationError(
            f".max_tokens is {shown(most)}; expected an integer of 1 or more; left out, it is any number"
        )
    if _count(multiple) is None:
        raise DeclarationError(
            f".channel_multiple is {shown(multiple)}; expected an integer of 1 or more, of which the number of "
            "channels is a multiple"
        )
    _write(implementation, "max_tokens", most, most if type(most) is int else _count(most))
    _write(implementation, "channel_multiple", multiple, multiple if type(multiple) is int else _count(multiple))
    least = _read(implementation, "least_scale")
    if isinstance(least, bool) or not isinstance(least, numbers.Real) or not 0 <= float(least) <= 1:
        raise DeclarationError(f".least_scale is {shown(least)}; expected a number from 0 to 1, such as 1e-6")
    _write(implementation, "least_scale", least, float(least))


def _tunable(implementation: Implementation) -> None:
    names = [one for one in implementation.tunable if not isinstance(one, str)]  # pyright: ignore[reportUnnecessaryIsInstance]
    unknown = names or sorted(set(implementation.tunable) - set(implementation.dialect.fields()))
    if unknown:
        raise DeclarationError(f".tunable names {shown(unknown)}, which are no fields of Dialect")
    if implementation.tunable and not overrides(implementation, "tuned"):
        raise DeclarationError(
            f".tunable names {sorted(implementation.tunable)}, but tuned(**fields) is not overridden; "
            "expected it to return the same implementation with those fields of the dialect changed"
        )


def _dtypes(implementation: Implementation) -> None:
    try:
        names = dtype_names(implementation)
    except TypeError as error:
        raise DeclarationError(message_of(error)) from error
    if not names:
        raise DeclarationError(".dtypes is empty; expected at least one floating dtype")


def _size(implementation: Implementation, dialect: Dialect) -> None:
    n, channels = max(implementation.streams), next_multiple(WIDEST, implementation.channel_multiple)
    columns = n + 2 if dialect.shared_projection else 2 * n + residual_size(n, dialect)
    entries = columns * channels * (1 if dialect.shared_projection else n)
    if entries > MOST_ENTRIES:
        which = f".streams names {n}" if channels < 2 * WIDEST else f".channel_multiple is {channels}, for n = {n}"
        raise DeclarationError(
            f"{which}: phi would have {entries:.3g} entries, and at most {MOST_ENTRIES:.3g} are verified; expected "
            "smaller numbers"
        )


def _count(value: object) -> int | None:
    """What somebody declared as an integer of 1 or more, numpy's too; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        return None
    number = operator.index(value)
    return number if number >= 1 else None


def _is_device_type(name: object) -> bool:
    try:
        return isinstance(name, str) and torch.device(name).type == name
    except RuntimeError:
        return False
