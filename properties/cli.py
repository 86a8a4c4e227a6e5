"""The command line, `mhc-properties COMMAND` (= python -m properties.cli): which commands there are, and how they end.

A command is loaded when it is chosen, so that neither `--help` nor a mistake has to wait for torch.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import traceback
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup

from properties.guards.answer import HARNESS_ERROR, INTERRUPTED, USAGE, refusal, tell, told
from properties.guards.printable import message_of

if TYPE_CHECKING:
    from collections.abc import Callable


class Command(NamedTuple):
    """Where a command is, ``module:function`` with typer's annotations, and what it is for in one line."""

    where: str
    summary: str
    settings: dict[str, Any] | None = None


COMMANDS = {
    "check": Command("properties.commands.check:check", "Run the laws on implementations."),
    "replay": Command("properties.commands.replay:replay", "Try a stored counterexample or explosion again."),
    "identify": Command("properties.commands.identify:identify", "Infer what a target computes, and what is wrong."),
    "laws": Command("properties.commands.laws:laws", "List the laws, and what they cannot see."),
    "list": Command("properties.commands.listing:listing", "List deviations, controls, presets, families."),
    "verify": Command("properties.commands.verify:verify", "The main job: the reference, a release, explosions."),
    "explode": Command("properties.explosion.command:explode_command", "Find the smallest network that explodes."),
    "atlas": Command("properties.explosion.command:atlas_command", "Tabulate depths at which families explode."),
    "conformance": Command("properties.campaign.conformance:conformance", "Run the laws on published implementations."),
    "kill": Command("properties.campaign.kill:main", "Show which law sees which wrong implementation."),
    "adversary": Command("properties.campaign.adversary:main", "Try random wrong implementations on the laws."),
    "seeds": Command("properties.campaign.seeds:main", "Try many seeds on correct implementations."),
    "campaign": Command("properties.campaign.command:campaign", "Run what takes hours, in pieces, on any engine."),
    "gpu": Command("properties.campaign.gpu.command:gpu", "Show what a GPU can show, in nine minutes."),
    "bench": Command("properties.commands.bench:main", "Measure what laws cost."),
    "batched": Command("properties.commands.batched:batched", "Judge laws at thousands of cases, hundreds at once."),
    "sharpness": Command("properties.commands.sharpness:main", "Tabulate how tight the bounds are."),
    "report": Command("properties.commands.report:report", "Draw reports of runs as one page of HTML."),
    "ratios": Command("properties.commands.ratios:main", "Tabulate the worst ratios of reports."),
    "process": Command(
        "properties.commands.process:process",
        "Try a server for proc: out, step by step.",
        {"allow_interspersed_args": False},  # behind its name everything is the server's
    ),
}
"""The commands, in the order of `--help`."""


class Commands(TyperGroup):
    """Lists commands without loading them."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands: Any = dict.fromkeys(COMMANDS)  # the names, of which the closest are suggested

    def list_commands(self, ctx: Any) -> list[str]:
        """Their names."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, from its module; None where there is none."""
        if cmd_name not in COMMANDS:
            return None
        from properties.guards.one_object import OneObject

        command = COMMANDS[cmd_name]
        module, _, name = command.where.partition(":")
        function: Callable[..., None] = getattr(importlib.import_module(module), name)
        alone = _application()
        alone.command(cmd_name, cls=OneObject, context_settings=command.settings)(function)
        return typer.main.get_command(alone)

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """The commands that begin so, or the options."""
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        from properties.commands.completing import Item

        return [Item(name, one.summary) for name, one in COMMANDS.items() if name.startswith(incomplete)]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list for `--help`."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.summary) for name, command in COMMANDS.items()])


def _application(completes: bool = False, **options: Any) -> typer.Typer:
    """Plain text, which is the same in a file and on every terminal, and needs no rich."""
    return typer.Typer(add_completion=completes, pretty_exceptions_enable=False, rich_markup_mode=None, **options)


app = _application(completes=True, name="mhc-properties", cls=Commands, no_args_is_help=True)


def _version(asked: bool) -> None:
    if not asked:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        typer.echo(f"mhc-properties {version('mhc-properties')}")
    except PackageNotFoundError:
        typer.echo("mhc-properties, not installed")
    raise typer.Exit


@app.callback()
def _mhc_properties(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Numerical verification of (manifold-constrained) hyper-connections."""


def main() -> None:
    """Entry point of the console script.

    A target can end the process in which it is called, with any exit status. So the commands that call one of
    somebody else do so in another process than the one that answers for them (`properties.commands.answering`).
    """
    from properties.commands.answering import answering, answers_for, calls_a_stranger

    words = sys.argv[1:]
    try:
        os.getcwd()
    except OSError as error:
        sentence = f"the current folder cannot be used ({error.strerror}): change to one that exists"
        typer.echo(f"mhc-properties: {sentence}", err=True)
        _without_an_object(sentence, USAGE)
        raise SystemExit(USAGE) from None
    if calls_a_stranger(words) and (status := answers_for(words)) is not None:
        raise SystemExit(status)
    with answering():
        _run()


def _run() -> None:
    run = partial(app, prog_name="mhc-properties")
    try:
        if "_MHC_PROPERTIES_COMPLETE" in os.environ and "COMP_WORDS" in os.environ:
            from properties.commands.completing import in_bash

            in_bash(run)
        run()
    except KeyboardInterrupt:  # after everything that listens to it has ended
        _without_an_object("stopped by SIGINT", INTERRUPTED)
        raise SystemExit(INTERRUPTED) from None
    except Exception as error:  # exit 1 is the verdict that a law failed, and Python's own for a traceback
        from properties.guards.faults import HarnessError

        if not isinstance(error, HarnessError):  # which says all there is to say
            traceback.print_exc()
        sentence = f"{type(error).__name__}: {message_of(error)}"
        typer.echo(f"HARNESS ERROR: {sentence}", err=True)
        _without_an_object(sentence, HARNESS_ERROR)
        raise SystemExit(HARNESS_ERROR) from error


def _without_an_object(sentence: str, status: int) -> None:
    """With --json there is an object also where a command ended before it had one."""
    if "--json" in sys.argv and not told():
        with contextlib.suppress(OSError, ValueError):  # stdout is gone, perhaps for that very reason
            tell(refusal(sentence, status))


if __name__ == "__main__":
    main()
