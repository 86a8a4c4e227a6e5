"""What would choose nothing, or lose what it finds, is a usage error before the work."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

import typer

from properties.guards.printable import printable
from properties.guards.whole import unwritable


def refuse_unknown(only: list[str], names: Iterable[str], laws: Iterable[str]) -> None:
    """What would choose nothing is a usage error: a run of nothing finds nothing."""
    from properties.core.law import all_laws

    known = list(names)
    for one in only:
        if one not in known:
            given = printable(repr(one), 200)
            raise typer.BadParameter(f"there is no {given}{_closest(one, known)}", param_hint="--only")
    for one in laws:
        if not any(law.startswith(one) for law in all_laws()):
            given = printable(repr(one), 200)
            raise typer.BadParameter(f"no law's id begins with {given}{_closest(one, all_laws())}", param_hint="--law")


def refuse_ambiguous(only: Iterable[str], *catalogues: Iterable[str]) -> None:
    """A name that stands for more than one thing is a usage error."""
    for one in only:
        if sum(one in catalogue for catalogue in catalogues) > 1:
            raise typer.BadParameter(
                f"{one!r} is a deviation and a control: say deviation:{one} or control:{one}", param_hint="--only"
            )


def refuse_lost(folder: Path, option: str) -> None:
    """A folder in which nothing could be written is a usage error before the work, not after it."""
    if (why := unwritable(folder)) is not None:
        shown = printable(str(folder), 200)
        raise typer.BadParameter(f"{shown}: expected a folder that can be written: {why}", param_hint=option)


def refuse_absent(device: str) -> None:
    """A device that is not known, or not here, is a usage error."""
    from properties.core.device import device_of

    try:
        absent = device_of(device).missing()
    except LookupError as error:
        raise typer.BadParameter(str(error), param_hint="--device") from None
    if absent is not None:
        raise typer.BadParameter(f"there is {absent} here", param_hint="--device")


def _closest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, 3)
    return f"; the closest are {', '.join(close)}" if close else ""
