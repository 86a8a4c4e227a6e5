"""Causes as annotations of GitHub Actions: a remark beside the line of the target's file, one for each cause."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from properties.guards.printable import printable
from properties.report.cause import Cause, of_cause
from properties.report.report import Line
from properties.report.summary import counted


def wanted(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether GitHub's runner reads what is written."""
    return environment.get("GITHUB_ACTIONS") == "true"


def remarks(causes: Sequence[Cause], lines: Sequence[Line], targets: Mapping[str, str]) -> list[str]:
    """``::error file=mine.py,line=6,title=...::...`` for every cause.

    Args:
        targets: the TARGET of each implementation, by its name.
    """
    return [_annotation(one, of_cause(one, lines), targets.get(one.implementation, "")) for one in causes]


def _annotation(cause: Cause, failed: Sequence[Line], target: str) -> str:
    place = _place(cause, target)
    where = [f"file={_property(place[0])}", f"line={place[1]}"] if place else []
    title = f"title={_property(f'{cause.implementation}: {cause.summary}')}"
    told = [counted(cause, failed), *(failed[0].example if failed else ())] if failed else [cause.summary]
    return f"::error {','.join((*where, title))}::{_message(chr(10).join(told))}"


def _place(cause: Cause, target: str) -> tuple[str, int] | None:
    """The file of a target, as the repository has it, and the line in it: of an exception, or of what is named."""
    name, colon, attribute = target.rpartition(":")
    path = Path(name)
    if not colon or path.suffix != ".py" or not path.is_file():
        return None
    raised = [found[2] for note in cause.notes if (found := _RAISED.match(note)) and found[1] == path.name]
    root = Path(os.environ.get("GITHUB_WORKSPACE") or Path.cwd())
    file = path.absolute()
    shown = file.relative_to(root) if file.is_relative_to(root) else path
    return shown.as_posix(), int(raised[-1]) if raised else _defined(path, attribute.partition(".")[0])


_RAISED = re.compile(r"(.+\.py):(\d+) in ")
"""A line of `properties.guards.traces.excerpt`."""


def _defined(path: Path, name: str) -> int:
    """The line in which a file binds a name; 1 where that cannot be seen."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
        return 1
    for node in tree.body:
        bound = [one.id for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)]
        if getattr(node, "name", None) == name or (isinstance(node, (ast.Assign, ast.AnnAssign)) and name in bound):
            return node.lineno
    return 1


def _message(text: str) -> str:
    """As the runner reads it: one line, in which % has a meaning."""
    plain = printable(text, 4000)
    return plain.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """As the runner reads one of several, which end at a comma or a colon."""
    return _message(" ".join(text.split())).replace(":", "%3A").replace(",", "%2C")
