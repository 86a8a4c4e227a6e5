"""With --json a command prints one object on one line in every case: also where its options cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from typer.core import TyperCommand

from properties.guards.answer import refusal, tell


class OneObject(TyperCommand):
    """A command that prints one object with --json also where its options cannot be read."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except Exception as error:  # usage errors of click, which typer brings under names that change
            said: Callable[[], str] | None = getattr(error, "format_message", None)
            if said is not None and "--json" in given:
                tell(refusal(said()))
            raise
