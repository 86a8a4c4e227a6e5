"""`mhc-properties laws`: every law with its statement."""

from __future__ import annotations

import typer

from properties.commands.options import JsonOption
from properties.guards.answer import tell


def laws(as_json: JsonOption = False) -> None:
    """List every law: id, kind, statement, and what it cannot see."""
    from properties.core.law import all_laws

    found = all_laws()
    if as_json:
        fields = ("id", "kind", "stage", "statement", "reason", "needs", "blind")
        tell({"laws": [{field: getattr(one, field) for field in fields} for one in found.values()]})
        return
    for one in found.values():
        typer.echo(f"{one.id}  ({one.kind})\n    {one.statement}")
    typer.echo(f"{len(found)} laws")
