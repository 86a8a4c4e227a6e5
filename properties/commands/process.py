"""`mhc-properties process`: try a server out, step by step, before the laws do."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from properties.guards.answer import USAGE


def process(
    command: Annotated[list[str], typer.Argument(metavar="COMMAND...", help="what starts the server, as behind proc:")],
) -> None:
    """Try a server for `proc:` out: shake hands, then call every method once.

    Exit 0: it can be used; 2: it cannot, and the step that is BROKEN says why.
    """
    from properties.targets.process import Limits, Session, smoke
    from properties.targets.target import TargetError

    try:
        session = Session(command[0] if len(command) == 1 else shlex.join(command), Limits())
    except TargetError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(USAGE) from None
    client, steps = smoke(session)
    for step in steps:
        typer.echo(f"{'BROKEN' if step.broken else 'ok':<7}{step.what}: {step.found}")
    session.process.stop()
    raise typer.Exit(USAGE if client is None or any(step.broken for step in steps) else 0)
