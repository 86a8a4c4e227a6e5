"""Options that several commands have."""

from __future__ import annotations

import enum
from typing import Annotated, NoReturn

import typer

from properties.commands import completing
from properties.guards.answer import USAGE, refusal, tell


class Device(enum.StrEnum):
    """Where an implementation computes."""

    CPU = "cpu"
    CUDA = "cuda"


class ProfileName(enum.StrEnum):
    """How long to search."""

    DEV = "dev"
    CI = "ci"
    THOROUGH = "thorough"


TargetArgument = Annotated[
    str, typer.Argument(metavar="TARGET", help="as for pytest --impl", autocompletion=completing.targets)
]
DeviceOption = Annotated[Device, typer.Option(help="where the implementation computes")]
DialectOption = Annotated[
    str | None,
    typer.Option(
        "--dialect",
        metavar="PRESET",
        help="what a plain function claims to compute",
        autocompletion=completing.presets,
    ),
]
IsolateOption = Annotated[bool, typer.Option(help="run each target in a process of its own")]
JsonOption = Annotated[
    bool, typer.Option("--json", help="one JSON object on the last line of stdout; progress goes to stderr")
]
LawOption = Annotated[
    list[str] | None,
    typer.Option(
        "--law",
        metavar="ID",
        help="only laws whose id begins so; may be repeated",
        autocompletion=completing.laws,
    ),
]


def refuse(sentence: str, as_json: bool) -> NoReturn:
    """What cannot be done ends the command before it begins."""
    typer.echo(f"mhc-properties: {sentence}", err=True)
    if as_json:
        tell(refusal(sentence))
    raise typer.Exit(USAGE)
