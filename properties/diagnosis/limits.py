"""Undeclared limits: what an implementation refuses though its declaration accepts it, and what would declare it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from properties.core.declaration import TABLE, Declaration
from properties.diagnosis.view import BadOutput, Frame
from properties.guards.printable import message_of, name_of
from properties.guards.traces import place_of


@dataclass(frozen=True)
class Limit:
    """Something that an implementation refuses and its declaration accepts.

    Attributes:
        attribute: of the implementation, as in "strided"; empty where none declares it.
        declare: the line to write, as in "strided = False".
        words: one clause, as in "`post` raises RuntimeError for inputs that are not contiguous".
        error: the name of the exception's class; empty where what came back had the wrong form.
        place: "file.py:12" of the target's own innermost frame; empty where it is not known.
        value: what the attribute would be, as plain data.
        message: what the first of these exceptions says.
        method: where none declares it, the method that refuses it.
    """

    attribute: str
    declare: str
    words: str
    error: str = ""
    place: str = ""
    value: Any = None
    message: str = ""
    method: str = ""

    @property
    def described(self) -> str:
        """The words, and where."""
        return self.words + f" ({self.place})" * bool(self.place)


@dataclass(frozen=True)
class Refusal:
    """What a call met: an exception, or an answer without the promised form."""

    method: str
    error: str
    message: str
    place: str

    @classmethod
    def of(cls, method: str, error: BaseException) -> Refusal:
        """From what was raised."""
        if issubclass(type(error), BadOutput):
            return cls(method, "", message_of(error, 200), "")
        return cls(method, name_of(error), message_of(error, 200), place_of(error))

    def words(self, what: str) -> str:
        """One clause."""
        if not self.error:
            return f"`{self.method}` gives the wrong form for {what} ({self.message})"
        return f"`{self.method}` raises {self.error} for {what}"


@dataclass(frozen=True)
class Met:
    """One refusal, in words what of, and what the attribute would have to be: of streams and dtypes the refused one."""

    attribute: str
    value: Any
    what: str
    refusal: Refusal


def limits_of(met: Sequence[Met], declared: Declaration) -> tuple[Limit, ...]:
    """The limits that these refusals are, one for each attribute and place."""
    values = {name: value for name, value in _values(met, declared).items() if name}
    lines = {name: f"{name} = {_written(value)}" for name, value in values.items()}
    plain = {name: TABLE[name].told(value) for name, value in values.items()}
    found: dict[tuple[str, str, str], list[Met]] = {}
    for one in met:
        found.setdefault((one.attribute, one.refusal.error, one.refusal.place), []).append(one)
    return tuple(
        Limit(
            *(attribute, lines.get(attribute, ""), _clause(group), error, place, plain.get(attribute)),
            message=group[0].refusal.message,
        )
        for (attribute, error, place), group in found.items()
    )


def narrowed(frame: Frame, met: Sequence[Met]) -> Frame:
    """The frame in which none of these refusals is met."""
    values = _values(met, frame)
    changes: dict[str, Any] = {name: value for name, value in values.items() if name}
    if "" in values:
        changes["channel_multiple"] = math.lcm(values[""], values.get("channel_multiple", 1))
    if "dtypes" in values:
        order = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
        kept = sorted(values["dtypes"], key=order.index)
        changes["dtype"] = frame.dtype if frame.dtype in kept else kept[0]
        changes["coarse"] = tuple(one for one in frame.coarse if one in kept and one != changes["dtype"])
    if "emits" in values:
        derived = {"project"} if "res" not in values["emits"] else set[str]()
        derived |= set() if {"block", "layers"} & frame.own else {"block", "layers", "stack"}
        changes["offered"] = frame.offered - (derived - frame.own)
    return frame.with_(**changes)


def _values(met: Sequence[Met], declared: Declaration) -> dict[str, Any]:
    """What the attributes would have to be."""
    found: dict[str, Any] = {}
    for one in met:
        name, value = one.attribute, one.value
        if name in ("streams", "dtypes"):
            among = found.get(name, getattr(declared, name))
            found[name] = tuple(each for each in among if each != value) or among
        elif name == "tunable":
            found[name] = found.get(name, declared.tunable) - {value}
        elif name in ("", "channel_multiple"):
            found[name] = math.lcm(found.get(name, 1), value)
        elif name == "max_tokens":
            found[name] = min(found.get(name, value), value)
        elif name == "least_scale":
            found[name] = max(found.get(name, value), value)
        else:
            found[name] = value
    return found


def _clause(group: Sequence[Met]) -> str:
    """What is refused, by the first method that refuses it."""
    first = group[0].refusal
    what = list(dict.fromkeys(one.what for one in group if one.refusal.method == first.method))
    return first.words(what[0] if len(what) < 2 else ", ".join(what[:-1]) + f" and {what[-1]}")


def _written(value: Any) -> str:
    """As in a class."""
    if isinstance(value, tuple):
        inside = ", ".join(str(one) if isinstance(one, torch.dtype) else repr(one) for one in value)
        return f"({inside}{',' * (len(value) == 1)})"
    if isinstance(value, frozenset):
        return f"frozenset({set(value)!r})" if value else "frozenset()"
    return f"{value:g}" if isinstance(value, float) else repr(value)


def named(dtype: torch.dtype) -> str:
    """As in \"float32\"."""
    return str(dtype).removeprefix("torch.")
