"""The arguments of a monitor, read and checked before anything is watched."""

from __future__ import annotations

import math
import numbers
import operator
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from mhc_ref import PRESETS, Dialect


def a_model(given: Any) -> nn.Module | None:
    if given is None or isinstance(given, nn.Module):
        return given
    shown = f"the class {given.__name__}" if isinstance(given, type) else f"{type(given).__name__} {given!r}"
    raise TypeError(f"model is {shown}; expected a torch.nn.Module, or None to record by hand")


def a_path(given: Any) -> Path | None:
    if given is None:
        return None
    if not isinstance(given, str | os.PathLike) or isinstance(os.fspath(given), bytes):
        raise TypeError(f"path is {given!r}; expected the path of a file as a string or a Path")
    text = os.fspath(given)
    if not text or "\0" in text:
        raise ValueError(f"path is {text!r}; expected the path of a file")
    path = Path(text)
    try:
        mode = path.stat().st_mode
    except OSError:  # it is made later, or cannot be: that is said when it is opened
        mode = stat.S_IFREG
    if stat.S_ISDIR(mode) or text.endswith(os.sep):
        raise ValueError(f"path is {text!r}, a folder; expected a file, such as {str(path / 'gains.jsonl')!r}")
    if stat.S_ISSOCK(mode) or stat.S_ISBLK(mode):
        raise ValueError(f"path is {text!r}, a socket or a block device; expected a file")
    for parent in path.parents:
        try:
            if not stat.S_ISDIR(parent.stat().st_mode):
                raise ValueError(f"path is {text!r}, but {str(parent)!r} is no folder")
            break
        except OSError:  # not there yet, or not ours to see
            continue
    return path


def a_function(given: Any, name: str, what: str) -> Any:
    if given is not None and (not callable(given) or isinstance(given, nn.Module)):
        raise TypeError(f"{name} is {given!r}; expected a function: {what}")
    return given


def a_dialect(given: Any) -> Dialect | None:
    if given is None or isinstance(given, Dialect):
        return given
    if not isinstance(given, str):
        raise TypeError(f"dialect is {given!r}; expected a Dialect of mhc_ref, or the name of a preset")
    if given not in PRESETS:
        raise ValueError(f"dialect is {given!r}; expected a Dialect, or one of the presets {', '.join(PRESETS)}")
    return PRESETS[given]


def a_choice(given: Any, name: str) -> bool | None:
    if given is None or isinstance(given, bool):
        return given
    raise TypeError(f"{name} is {given!r}; expected True, False, or None for what the dialect says")


def a_count(given: Any, name: str) -> int:
    if isinstance(given, bool) or not isinstance(given, numbers.Integral):
        raise TypeError(f"{name} is {given!r}; expected a whole number of 1 or more")
    if given < 1:
        raise ValueError(f"{name} is {given}; expected 1 or more")
    return operator.index(given)


def a_gain(given: Any, name: str, least: str = "above 0") -> float | None:
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, numbers.Real):
        raise TypeError(f"{name} is {given!r}; expected a gain, a number {least}")
    try:
        value = float(given)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value) or value < 0 or (value == 0 and least == "above 0"):
        raise ValueError(f"{name} is {given}; expected a finite gain {least}")
    return value


def a_number(given: Any, name: str) -> int:
    if isinstance(given, bool) or not isinstance(given, numbers.Integral):
        raise TypeError(f"{name} is {given!r}; expected a whole number of 0 or more")
    if given < 0:
        raise ValueError(f"{name} is {given}; expected 0 or more")
    return operator.index(given)


def a_run(given: Any) -> str | None:
    if given is None:
        return None
    if not isinstance(given, str):
        raise TypeError(f"run is {given!r}; expected a name of the run, a string")
    if not re.fullmatch(r"[\w.+-]{1,100}", given) or given.startswith("."):
        raise ValueError(f"run is {given!r}; expected letters, digits and . _ + - only: it may become a part of a name")
    return given


def sinks_of(given: Any) -> tuple[Any, ...]:
    if callable(given) or isinstance(given, str | bytes | Mapping):
        raise TypeError(f"sinks is {given!r}; expected a list of callables (step, record)")
    try:
        found: tuple[Any, ...] = tuple(given)
    except TypeError:
        raise TypeError(f"sinks is {given!r}; expected a list of callables (step, record)") from None
    for one in found:
        if not callable(one):
            raise TypeError(f"sinks has the entry {one!r}; expected callables (step, record)")
    return found


def a_reaction(given: Any) -> Any:
    if given in ("warn", "raise") or (callable(given) and not isinstance(given, type)):
        return given
    raise ValueError(f"on_violation is {given!r}; expected 'warn', 'raise', or a callable (step, row)")
