"""`mhc-properties laws`: every law with its statement."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Generator
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from properties.commands.options import JsonOption, refuse
from properties.guards.answer import tell
from properties.guards.printable import printable

if TYPE_CHECKING:
    from properties.core.law import Law


def laws(
    family: Annotated[
        str | None, typer.Option(metavar="FAMILY", help="only of this family, the first word of their ids")
    ] = None,
    kind: Annotated[
        str | None, typer.Option(metavar="KIND", help="only identity, invariant, oracle or contract")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the laws: id, kind, statement; with --json also the reason, and what a law cannot see."""
    with _uncollected():
        from properties.core.law import FAMILIES, Kind, all_laws

        for option, given, known in (("--family", family, FAMILIES), ("--kind", kind, get_args(Kind))):
            if given is not None and given not in known:
                refuse(f"{option} {printable(repr(given), 60)}: expected one of {', '.join(known)}", as_json)
        every = all_laws().values()
    found = [one for one in every if family in (None, one.family) and kind in (None, one.kind)]
    if as_json:
        tell({"laws": [_fields(one) for one in found]})
        return
    for one in found:
        typer.echo(f"{one.id}  ({one.kind})\n    {one.statement}")
    typer.echo(f"{len(found)} law{'s' * (len(found) != 1)}")


@contextlib.contextmanager
def _uncollected() -> Generator[None]:
    """What is imported stays: looking for garbage in it meanwhile takes an eighth of the time of this command."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _fields(law: Law) -> dict[str, Any]:
    from properties.core.premises import not_covered_by_float32

    fields = ("id", "kind", "statement", "reason", "needs", "blind")
    stage = "logits" if not_covered_by_float32 in law.premises else "state"
    return {"stage": stage, **{field: getattr(law, field) for field in fields}}
