"""Hooks in compiled code: an operator that a compiler leaves in its graph, and that calls us when the graph runs.

A compiler reads the hooks of a module as a part of its forward. What it would make of a monitor's is no use to anybody,
so that in its place stands one call of `mhc_properties::seen`, with the tensors that the hook was given and a key. Its
first argument is written to, so that the calls are neither dropped nor put in another order.
"""

from __future__ import annotations

import collections
import functools
import itertools
import json
import sys
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

_KEYS = itertools.count(1)
_HEARING: dict[int, Callable[..., None]] = {}
_TURN = torch.zeros(1)


def compiling() -> bool:
    """Whether torch.compile reads what is called; neither an exporter nor a trace, whose graph leaves this process."""
    exporting = getattr(torch.compiler, "is_exporting", None)
    return exporting is not None and torch.compiler.is_compiling() and not exporting()


_FRAMES: Any = getattr(getattr(torch._C, "_dynamo", None), "eval_frame", None)  # pyright: ignore[reportPrivateUsage]


def not_alone(function: Callable[..., Any]) -> None:
    """A compiler may read a function as a part of what it compiles, but compiles it not by itself.

    That would be done where the call of a hook is not a part of a graph: it runs as it is then, see `uncompiled`.
    """
    if hasattr(_FRAMES, "skip_code"):  # torch 2.4
        _FRAMES.skip_code(function.__code__)
    elif hasattr(_FRAMES, "set_code_exec_strategy"):
        action = _FRAMES._FrameAction
        strategy = _FRAMES._FrameExecStrategy(action.SKIP, action.DEFAULT)
        _FRAMES.set_code_exec_strategy(function.__code__, strategy)


def uncompiled(act: Callable[..., None], *given: Any) -> None:
    """Call `act`, with which no compiler has to do."""
    change = getattr(_FRAMES, "set_eval_frame", None)
    if change is None or "torch._dynamo" not in sys.modules:
        act(*given)
        return
    before = change(None)
    try:
        act(*given)
    finally:
        change(before)


def new_key() -> int:
    """Of a hook; a compiled graph keeps it."""
    return next(_KEYS)


def listen(key: int, act: Callable[..., None]) -> Callable[[], None]:
    """Call `act` with what compiled code gives for a key, until what is returned is called."""
    _HEARING[key] = act
    return lambda: _HEARING.pop(key, None) and None


def forget() -> None:
    """What was compiled before a hook was set does not know of it: let it be compiled again."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


def tell(key: int, given: tuple[Any, ...]) -> None:
    """While a compiler reads a hook: leave a call in its graph."""
    tensors: list[Tensor] = []
    form = _form(given, tensors, 0)
    _seen(_TURN, tensors, form, key)


@torch.library.custom_op("mhc_properties::seen", mutates_args=("turn",))
def _seen(turn: Tensor, tensors: list[Tensor], form: str, key: int) -> None:
    act = _HEARING.get(key)
    if act is not None:
        uncompiled(act, *_given(json.loads(form), tensors))


@_seen.register_fake
def _nothing(turn: Tensor, tensors: list[Tensor], form: str, key: int) -> None:
    return None


def _form(one: Any, tensors: list[Tensor], depth: int) -> str:
    """JSON of how tensors are packed: a number for a tensor, null for what is none. A compiler reads this."""
    if isinstance(one, Tensor):
        tensors.append(one.detach())
        return str(len(tensors) - 1)
    if depth < 4:
        if isinstance(one, tuple) and hasattr(one, "_fields"):
            names = cast("Any", one)._fields
            parts = [f'"{name}": {_form(getattr(one, name), tensors, depth + 1)}' for name in names]
            return '{"named": {' + ", ".join(parts) + "}}"
        if isinstance(one, tuple | list):
            return "[" + ", ".join([_form(part, tensors, depth + 1) for part in one]) + "]"
        if isinstance(one, dict):
            held = cast("dict[Any, Any]", one)
            parts = [f'"{name}": {_form(held[name], tensors, depth + 1)}' for name in held if isinstance(name, str)]
            return '{"keyed": {' + ", ".join(parts) + "}}"
    return "null"


def _given(form: Any, tensors: list[Tensor]) -> Any:
    if isinstance(form, int):
        return tensors[form]
    if isinstance(form, list):
        return tuple(_given(one, tensors) for one in form)
    if isinstance(form, dict):
        ((kind, held),) = form.items()
        parts = {name: _given(one, tensors) for name, one in held.items()}
        return parts if kind == "keyed" else _tuple_of(tuple(parts))(**parts)
    return None


@functools.cache
def _tuple_of(names: tuple[str, ...]) -> Any:
    return collections.namedtuple("Given", names)  # pyright: ignore[reportUntypedNamedTuple]
