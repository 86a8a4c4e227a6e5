"""`mhc-properties identify`: which hyper-connections a target computes, and what is wrong with it."""

from __future__ import annotations

from typing import Annotated

import typer

from properties.commands import completing
from properties.commands.options import Device, DeviceOption, IsolateOption, JsonOption, TargetArgument


def identify(
    target: TargetArgument,
    dialect: Annotated[
        str | None,
        typer.Option(metavar="PRESET", help="compare with this preset", autocompletion=completing.presets),
    ] = None,
    seconds: Annotated[
        float,
        typer.Option(min=0.0, help="processor time for the search for slips; what is not known by then is said"),
    ] = 20.0,
    device: DeviceOption = Device.CPU,
    isolate: IsolateOption = False,
    as_json: JsonOption = False,
) -> None:
    """Infer from its behaviour which hyper-connections a target computes, and what is wrong with it.

    Exit 0: a dialect, with or without named slips, explains it; 1: nothing does; 2: no verdict, as the target could not
    be used, crashed or hung.
    """
    from properties.diagnosis import identify_command

    raise typer.Exit(identify_command(target, dialect, as_json, device=device.value, seconds=seconds, isolate=isolate))
