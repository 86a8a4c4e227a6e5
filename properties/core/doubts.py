"""What looks like a slip in the declaration of an implementation, and is none that could be refused."""

from __future__ import annotations

import difflib
import dis
import sys
from collections.abc import Iterator
from functools import lru_cache
from types import CodeType
from typing import Any

from mhc_ref import PRESETS
from properties.core.declaration import TABLE
from properties.core.implementation import METHODS, Implementation
from properties.guards.faults import TargetFault, answered
from properties.guards.printable import printable
from properties.guards.traces import own_file

_NAMES = (*TABLE, *METHODS, "tuned")
_NEAR = 0.85
"""How near a name is to one of ours, by difflib, to be taken for it: one letter more or less, no other word."""
_SHORTEST = 4
"""Letters of a name that can be told from another word by its nearness: not those of `pre`."""
_SHOWN = 60
_WRAPPED = ("__func__", "fget", "func", "fn", "__wrapped__")
"""Where static methods, properties, cached ones, kernels, and what functools wraps keep their function."""
_JUDGED = f"judged against {PRESETS.first}, the default"


def doubts(implementation: Implementation) -> tuple[str, ...]:
    """What to tell of an implementation's declaration, each as the end of a sentence that begins with its name."""
    carried: Any = vars(implementation).get("_doubts")
    if carried is not None:  # of the implementation in another process that this one stands for
        return carried
    said: list[str] = []
    if found := misspelt(type(implementation)):
        names, meant = ", ".join(printable(one, _SHOWN) for one in found), ", ".join(found.values())
        said.append(f"nothing reads {names}; did you mean {meant}?")
    if silent(implementation):
        said.append(f"{_JUDGED}, as no `dialect` is declared")
    return tuple(said)


def silent(implementation: Implementation) -> bool:
    """Whether nothing has said which mathematics it computes, so that it is judged against the default."""
    carried: Any = vars(implementation).get("_doubts")
    if carried is not None:
        return any(one.startswith(_JUDGED) for one in carried)
    if implementation.dialect_given or "dialect" in vars(implementation):
        return False
    classes = type(implementation).__mro__
    return not any("dialect" in vars(one) for one in classes[: classes.index(Implementation)])


@lru_cache(256)
def misspelt(kind: type[Implementation]) -> dict[str, str]:
    """Public attributes of somebody's class that nothing there reads -> the name of ours that each is almost.

    A name that their own code reads, or that a class of others has given, means what it says.
    """
    try:
        return answered(lambda: _misspelt(kind))
    except TargetFault:  # a metaclass may have a __dict__ of its own
        return {}


def _misspelt(kind: type[Implementation]) -> dict[str, str]:
    own = [one for one in kind.__mro__ if own_file(_file(one))]
    given = {name for one in kind.__mro__ if one not in own for name in vars(one)} | set(_NAMES)
    found = {name: near for one in own for name in vars(one) if name not in given and (near := _near(name))}
    if not found:
        return {}
    read = {name for module in {one.__module__ for one in own} for name in _read(vars(sys.modules[module]), module)}
    return {name: near for name, near in found.items() if name not in read}


def _file(kind: type) -> str:
    """The file of a class; one that has none, as in a notebook, is somebody's."""
    if kind.__module__ == "builtins":
        return "<frozen builtins>"
    return getattr(sys.modules.get(kind.__module__), "__file__", None) or ""


def _near(name: str) -> str | None:
    if name.startswith("_"):
        return None
    folded = name.casefold()
    known = [one for one in _NAMES if len(one) >= _SHORTEST]
    close = difflib.get_close_matches(folded, known, n=1, cutoff=_NEAR)
    return close[0] if close else next((one for one in known if _swapped(folded, one)), None)


def _swapped(name: str, other: str) -> bool:
    """Whether two neighbouring letters have changed places."""
    if len(name) != len(other):
        return False
    at = [k for k, (one, two) in enumerate(zip(name, other, strict=True)) if one != two]
    return len(at) == 2 and at[1] == at[0] + 1 and name[at[0]] == other[at[1]] and name[at[1]] == other[at[0]]


def _read(names: dict[str, Any], module: str) -> Iterator[str]:
    """Every name that the functions of a module, and of the classes in it, read."""
    for value in list(names.values()):
        if issubclass(type(value), type):
            if value.__module__ == module:
                for one in vars(value).values():
                    yield from _of_code(one)
        else:
            yield from _of_code(value)


def _of_code(value: Any) -> Iterator[str]:
    """The names in the code of a function, be it wrapped in something."""
    for one in (value, *(getattr(value, name, None) for name in _WRAPPED)):
        code = getattr(one, "__code__", None)
        if type(code) is CodeType:
            yield from _in(code)


def _in(code: CodeType) -> Iterator[str]:
    """What the code loads, by name or as the string that `getattr` takes; a class in it that sets one reads nothing."""
    for one in dis.get_instructions(code):
        if one.opname.startswith("LOAD") and type(one.argval) is str:
            yield one.argval
    for one in code.co_consts:
        if type(one) is CodeType:
            yield from _in(one)
