"""What a shell completes: targets, ids of laws and presets, read off our files, so that nobody waits for torch."""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

_PROPERTIES = Path(__file__).parents[1]
_LISTED = re.compile(r'^@?\w+\(\s*"([a-z0-9]+(?:-[a-z0-9]+)*)"', re.MULTILINE)
"""A deviation or control, as a decorator or a call at the left edge of a file lists it."""
_STATED = re.compile(r'"([a-z]+\.[a-z0-9]+(?:-[a-z0-9]+)+)"')
"""The id of a law."""
_APART = (":", "@", "=")
"""Where bash takes a word apart."""


class Item(NamedTuple):
    """One completion, as shells are told."""

    value: str
    help: str = ""
    type: str = "plain"


def in_bash(complete: Callable[[], Any]) -> None:
    """Complete what bash has taken apart: of `ref:PA` it tells as three words, and asks for the rest of the last."""
    before = _rejoin()
    with contextlib.redirect_stdout(io.StringIO()) as said:
        try:
            complete()
        finally:
            lines = [one.removeprefix(before) for one in said.getvalue().splitlines()]
            (sys.__stdout__ or sys.stdout).write("".join(f"{one}\n" for one in lines))


def _rejoin() -> str:
    """Put the words together again, for who reads them next; what bash has of the last one already."""
    words, number = re.split("[ \n]", os.environ.get("COMP_WORDS", "")), os.environ.get("COMP_CWORD", "")
    if not number.isdigit() or not any(one in words for one in _APART):
        return ""
    joined: list[str] = []
    before, place = "", 0
    for index, word in enumerate(words):
        start = joined.pop() if index and (word in _APART or words[index - 1] in _APART) else ""
        joined.append(start + word)
        if index <= int(number):
            before, place = (start + word if word in _APART else start), len(joined) - 1
    if int(number) >= len(words):
        before, place = "", len(joined)
    os.environ["COMP_WORDS"], os.environ["COMP_CWORD"] = " ".join(joined), str(place)
    before = before.rpartition("=")[2] if before.startswith("-") else before
    return before.removesuffix("@")  # which bash keeps with what comes behind it


def targets(incomplete: str) -> list[str]:
    """Targets that come with this package; files are the shell's own."""
    kind, colon, rest = incomplete.partition(":")
    if not colon:
        return _offered(["ref", "ref:", "published:", "deviation:", "control:", "mutant:", "proc:"], incomplete)
    name, at, _ = rest.partition("@")
    if kind in ("deviation", "control") and at:
        return _offered([f"{kind}:{name}@{preset}" for preset in _presets()], incomplete)
    names = {"ref": _presets, "published": _published, "deviation": _deviations, "control": _controls}
    return _offered([f"{kind}:{one}" for one in names[kind]()] if kind in names else [], incomplete)


def presets(incomplete: str) -> list[str]:
    """Names of presets."""
    return _offered(_presets(), incomplete)


def laws(incomplete: str) -> list[str]:
    """Ids of laws; a family first, where more than one fits."""
    ids = sorted({one for path in sorted((_PROPERTIES / "laws").glob("*.py")) for one in _STATED.findall(_text(path))})
    families = list(dict.fromkeys(f"{one.partition('.')[0]}." for one in ids if one.startswith(incomplete)))
    return _offered(ids if "." in incomplete or len(families) == 1 else families, incomplete)


def _offered(every: Iterable[str], incomplete: str) -> list[str]:
    return [one for one in every if one.startswith(incomplete)]


def _presets() -> Iterator[str]:
    """The names in the table of `mhc_ref.presets`."""
    for node in ast.parse(_text(_PROPERTIES.parent / "mhc_ref" / "presets.py")).body:
        if isinstance(node, ast.AnnAssign) and node.value is not None and ast.unparse(node.target) == "FIELDS":
            yield from ast.literal_eval(node.value)


def _published() -> Iterator[str]:
    from properties.targets.published import ADAPTERS

    yield from ADAPTERS


def _deviations() -> Iterator[str]:
    yield from _listed("catalogue/deviations", "families/deviations")


def _controls() -> Iterator[str]:
    files = ("controls.py", "controls_of_dtypes.py", "controls_of_norms.py")
    yield from _listed(*(f"catalogue/{one}" for one in files), "families/controls")


def _listed(*places: str) -> Iterator[str]:
    """What the files of a catalogue list."""
    for place in (_PROPERTIES / one for one in places):
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            yield from _LISTED.findall(_text(path))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:  # packed in an archive: nothing is completed
        return ""
