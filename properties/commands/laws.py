"""`mhc-properties laws`: every law with its statement."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import typer

from properties.commands.options import JsonOption
from properties.guards.answer import tell

if TYPE_CHECKING:
    from properties.core.law import Law


def laws(as_json: JsonOption = False) -> None:
    """List every law: id, kind, statement, and what it cannot see."""
    with _uncollected():
        from properties.core.law import all_laws

        found = all_laws()
    if as_json:
        tell({"laws": [_fields(one) for one in found.values()]})
        return
    for one in found.values():
        typer.echo(f"{one.id}  ({one.kind})\n    {one.statement}")
    typer.echo(f"{len(found)} laws")


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
