"""What a file may have run, and the line that tries it again.

A counterexample and an explosion name the target that they were found on, and a target is a program: a Python file, a
module, a command. A file of somebody else is data, and neither its place nor its checksum makes it more than that. So
what a file names is run only where it is one of the targets that come with this package; anything else has to be said
by the person who replays it, with `--impl TARGET`, or allowed with `--trust`.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from properties.guards.printable import printable


def built_in(target: str) -> bool:
    """Whether a target comes with this package: the reference, a control, a deviation, a mutant, a name of our own
    table of published implementations."""
    kind, colon, name = target.partition(":")
    if kind == "published":
        from properties.targets.published import ADAPTERS

        return name in ADAPTERS
    return target == "ref" or (bool(colon) and kind in ("ref", "control", "deviation", "mutant"))


def refusal(path: Path, target: str) -> str:
    """Why the target that a file names is not run, what it would run, and what to say instead."""
    return (
        f"{printable(str(path))} names the target {printable(target)!r}, which would {_deed(target)}. A file is data, "
        "wherever it lies, and nothing that it names is run unasked: say which implementation is meant with --impl "
        "TARGET, or allow what the file names with --trust"
    )


def _deed(target: str) -> str:
    kind, _, rest = target.partition(":")
    place, colon, _ = target.rpartition(":")
    if kind == "proc":
        return f"run the command {printable(rest)!r}"
    if kind == "published":
        return f"look for {printable(rest)!r}, which is not among the published implementations of this version"
    if not colon or not place:
        return "be no target at all"
    what = "the Python file" if place.endswith(".py") else "the module"
    return f"run {what} {printable(place)!r}"


def replay_line(path: Path, target: str = "", *, apart: bool = False) -> str:
    """The command that tries a stored file again, on the same target where one is given, as one line for a shell.

    `apart`: that target was at work in a process of its own, and may end any other.
    """
    given = [f"--impl={target}"] if target.startswith("-") else ["--impl", target]
    isolated = ["--isolate"] if apart and not target.startswith("proc:") else []
    return printable(
        shlex.join(["mhc-properties", "replay", from_here(path), *(given if target else []), *isolated]), 10_000
    )


def from_here(path: Path, here: Path | None = None) -> str:
    """The path from the folder in which this runs, or from `here`, where it lies below it: there, targets are looked
    for too. Otherwise the path as it is."""
    try:
        below = os.path.relpath(path, here)
    except (ValueError, OSError):  # another drive, or the working folder is gone
        return str(path)
    if below.startswith(os.pardir):
        return str(path)
    return os.path.join(os.curdir, below) if below.startswith("-") else below
