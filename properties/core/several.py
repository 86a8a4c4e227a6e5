"""The kinds of things that are declared as several values: streams, dtypes, devices, words, fields of the dialect."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from properties.core.fields import MOST_STREAMS, Field, Unfit, count
from properties.guards.faults import TargetFault, answered
from properties.guards.printable import shown

T = TypeVar("T")

VERIFIED = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""The dtypes of a state for which there are bounds, by name."""
_MOST = 1000
"""How many values are read of what somebody declares; `itertools.count()` has no end."""


@dataclass(frozen=True)
class _Several(Field[T]):
    """A sequence or a set; what stands in it twice counts once."""

    expected: str

    def values(self, given: Any) -> list[Any]:
        """What is in it, in an order that every process has."""
        if isinstance(given, (str, bytes, bytearray, Mapping, Tensor)) or not isinstance(given, Iterable):
            raise Unfit(f" is {shown(given)}; expected {self.expected}")
        try:  # a generator of a stranger may raise anything
            found: list[Any] = answered(lambda: list(itertools.islice(given, _MOST + 1)))  # pyright: ignore[reportUnknownArgumentType]
        except TargetFault as fault:
            raise Unfit(f", {shown(given)}, cannot be read: {fault}") from fault.error
        if len(found) > _MOST:
            raise Unfit(f" is {shown(given)}, of more than {_MOST} values; expected {self.expected}")
        if isinstance(given, Set):  # whose order is another one in every process
            found.sort(key=lambda one: (one, "") if isinstance(one, int) else (0, str(one)))
        distinct: list[Any] = []
        for one in found:
            if not any(one is other or (type(one) is type(other) and one == other) for other in distinct):
                distinct.append(one)
        return distinct

    def told(self, settled: Any) -> list[Any]:
        return list(settled)


@dataclass(frozen=True)
class Streams(_Several[tuple[int, ...]]):
    """Numbers of streams."""

    def settled(self, given: Any) -> tuple[int, ...]:
        values = self.values(given)
        counts = [count(one) for one in values]
        if not counts or None in counts:
            raise Unfit(f" is {shown(tuple(values))}; expected {self.expected}")
        return tuple(dict.fromkeys(n for n in counts if n is not None))

    def kept(self, given: Any, settled: tuple[int, ...]) -> bool:
        return super().kept(given, settled) and all(type(n) is int for n in given)

    def schema(self) -> dict[str, Any]:
        items = {"type": "integer", "minimum": 1, "maximum": MOST_STREAMS}
        return {"type": "array", "items": items, "minItems": 1}


@dataclass(frozen=True)
class Counts(Streams):
    """Sizes of models, or none; one number may stand for itself."""

    most: int = 1 << 16

    def settled(self, given: Any) -> tuple[int, ...]:
        values = [given] if count(given) is not None else self.values(given)
        found = super().settled(values) if values else ()
        if beyond := [one for one in found if one > self.most]:
            raise Unfit(f" names {shown(beyond)}; at most {self.most} are verified")
        return found

    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": self.most}}


@dataclass(frozen=True)
class Dtypes(_Several[tuple[torch.dtype, ...]]):
    """Dtypes of the state: torch's, their names ("float32"), or the aliases that torch has for some ("double")."""

    def settled(self, given: Any) -> tuple[torch.dtype, ...]:
        found = self.verified(given)
        if not found:
            raise Unfit(" is empty; expected at least one floating dtype")
        return found

    def verified(self, given: Any) -> tuple[torch.dtype, ...]:
        """The dtypes, none of them twice, or none at all."""
        found: list[torch.dtype] = []
        for entry in self.values(given):
            dtype = dtype_of(entry)
            if dtype is None or not dtype.is_floating_point:
                raise Unfit(f" contains {shown(entry)}; expected floating torch dtypes or their names")
            if dtype not in VERIFIED.values():
                verified = ", ".join(str(one) for one in VERIFIED.values())
                raise Unfit(f" contains {shown(entry)}; states are verified in {verified}")
            found.append(dtype)
        return tuple(dict.fromkeys(found))

    def kept(self, given: Any, settled: tuple[torch.dtype, ...]) -> bool:
        return isinstance(given, tuple) and tuple(map(dtype_of, given)) == settled  # pyright: ignore[reportUnknownArgumentType,reportUnknownVariableType]

    def told(self, settled: tuple[torch.dtype, ...]) -> list[str]:
        return [str(one).removeprefix("torch.") for one in settled]

    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": {"enum": list(VERIFIED)}, "minItems": 1}


def dtype_of(entry: object) -> torch.dtype | None:
    """The dtype that a torch dtype, a NumPy one or a name means; None where it means none."""
    if isinstance(entry, torch.dtype):
        return entry
    named = isinstance(entry, (str, np.dtype))
    found = getattr(torch, str(entry).removeprefix("torch."), None) if named else None
    return found if isinstance(found, torch.dtype) else None


@dataclass(frozen=True)
class Some(_Several[tuple[str, ...]]):
    """Some of a few words, one at least but where there may be none."""

    among: tuple[str, ...]
    none: bool = False

    def settled(self, given: Any) -> tuple[str, ...]:
        values = self.values(given)
        if strange := [one for one in values if one not in self.among]:
            raise Unfit(f" names {shown(strange)}; expected {self.expected}")
        if not values and not self.none:
            raise Unfit(f" is empty; expected {self.expected}")
        return tuple(values)

    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": {"enum": list(self.among)}} | ({} if self.none else {"minItems": 1})


@dataclass(frozen=True)
class DialectFields(_Several[frozenset[str]]):
    """Names of fields of the dialect, or none; which it has depends on its families."""

    def settled(self, given: Any) -> frozenset[str]:
        values = self.values(given)
        if unknown := [one for one in values if not isinstance(one, str)]:
            raise Unfit(f" names {shown(unknown)}, which are no fields of Dialect")
        return frozenset(values)

    def told(self, settled: frozenset[str]) -> list[str]:
        return sorted(settled)

    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": {"type": "string", "maxLength": 80}}


@dataclass(frozen=True)
class Devices(_Several[tuple[str, ...]]):
    """Types of device that torch knows."""

    def settled(self, given: Any) -> tuple[str, ...]:
        values = self.values(given)
        for device in values:
            if not _is_device_type(device):
                raise Unfit(
                    f" names {shown(device)}; expected types of device that torch knows, without a number, such as "
                    "'cpu' and 'cuda' (an NVIDIA or AMD GPU)"
                )
        if not values:
            raise Unfit(f" is empty; expected {self.expected}")
        return tuple(values)


def _is_device_type(name: object) -> bool:
    try:
        return isinstance(name, str) and torch.device(name).type == name
    except RuntimeError:
        return False
