"""`mhc-properties replay`: a file that something was found in, tried again: a counterexample, an explosion, passes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from properties.commands import completing
from properties.commands.options import Device, DialectOption, JsonOption
from properties.guards.answer import tell
from properties.guards.printable import message_of, printable

if TYPE_CHECKING:
    from properties.engine.replay import Outcome


def replay(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="a counterexample, an explosion, or the last passes of a monitor")
    ],
    impl: Annotated[
        str | None,
        typer.Option(
            metavar="TARGET",
            help="what to try it on, instead of the target that the file names",
            autocompletion=completing.targets,
        ),
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="run the target that the file names, though it does not come with us")
    ] = False,
    dialect: DialectOption = None,
    device: Annotated[Device | None, typer.Option(help="another device")] = None,
    isolate: Annotated[bool, typer.Option("--isolate", help="run the target in a process of its own")] = False,
    as_json: JsonOption = False,
) -> None:
    """Try a stored counterexample again. Prints FIXED (exit 0), FAILED (exit 1) or ERROR (exit 2).

    A file is data: the target that it names is run only where it comes with this package, or with --trust.
    """
    outcome = replay_file(file, impl, device.value if device else None, isolate, trust=trust, dialect=dialect)
    typer.echo(f"{outcome.status} {outcome.law}".rstrip(), err=as_json)
    typer.echo(outcome.message, err=as_json)
    if as_json:
        tell({"status": outcome.status, "law": outcome.law, "ratio": outcome.ratio, "message": outcome.message})
    raise typer.Exit({"FIXED": 0, "FAILED": 1, "ERROR": 2}[outcome.status])


def replay_file(
    path: Path,
    target: str | None = None,
    device: str | None = None,
    isolate: bool = False,
    *,
    trust: bool = False,
    dialect: str | None = None,
) -> Outcome:
    """Load a counterexample or an explosion and try it on `target`, or on the target that it names.

    What a file names is run only where it comes with this package, or with `trust` (`properties.targets.trust`).
    `dialect` is the preset that a plain function is judged against, instead of the one in the file. Any trouble that is
    not the implementation's (no such file, a damaged header, a target that cannot be found, a law that this version
    does not have, a case that does not fit its law) is an ERROR with its cause.
    """
    from properties.engine.replay import Outcome, replay_counterexample
    from properties.guards import sealed

    path = Path(path)
    if trust and target is not None:
        return Outcome("ERROR", "", f"--trust runs what the file names, and --impl names {target!r}: give one of them")
    try:
        kept = sealed.read(path).metadata
    except sealed.SealError as error:
        return Outcome("ERROR", "", message_of(error))
    again = _explosion if "explosion" in kept else _monitor if "monitor" in kept else replay_counterexample
    return again(path, target, device, isolate, trust, dialect)


def _monitor(
    path: Path, target: str | None, device: str | None, isolate: bool, trust: bool, dialect: str | None
) -> Outcome:
    """The outcome for a file in which a monitor saved its last passes: their mixing, multiplied again."""
    from properties.engine.replay import Outcome
    from properties.explosion.monitor.history import MonitorFileError
    from properties.explosion.monitor.history import replay as replay_passes

    others = (("--impl", target), ("--isolate", isolate), ("--trust", trust), ("--dialect", dialect))
    idle = [option for option, given in (("--device", device), *others) if given not in (None, False)]
    if idle:
        reason = f"{printable(str(path))} holds the matrices of a training, which are multiplied on the CPU"
        return Outcome("ERROR", "monitor", f"{reason}: {' and '.join(idle)} would have no effect, leave it out")
    try:
        found = replay_passes(path)
    except MonitorFileError as error:
        return Outcome("ERROR", "monitor", message_of(error))
    return Outcome(found.verdict, "monitor", found.message)


def _explosion(
    path: Path, target: str | None, device: str | None, isolate: bool, trust: bool, dialect: str | None
) -> Outcome:
    """The outcome for a file that `explode` saved."""
    from properties.engine.replay import ISOLATED, UNSEALED, Outcome
    from properties.explosion import ExplosionFileError
    from properties.explosion import replay as replay_explosion
    from properties.explosion.files import about
    from properties.targets.target import TargetError

    try:
        family, named = about(path)
        without: list[tuple[str, object]] = [("--device", device)]
        if not named:
            others = (("--impl", target), ("--isolate", isolate), ("--trust", trust), ("--dialect", dialect))
            without += others
        idle = [option for option, given in without if given not in (None, False)]
        if idle:
            reason = f"{printable(str(path))} is an explosion of family {family}, whose gain is computed on the CPU"
            reason += "" if named else " from the file alone"
            return Outcome("ERROR", "explosion", f"{reason}: {' and '.join(idle)} would have no effect, leave it out")
        if isolate and (named if target is None else target).startswith("proc:"):
            return Outcome("ERROR", "explosion", ISOLATED)
        found = replay_explosion(path, target=target, trust=trust, isolate=isolate, dialect=dialect)
    except (ExplosionFileError, TargetError) as error:
        return Outcome("ERROR", "explosion", message_of(error))
    note = "" if found.explosion.checked else UNSEALED
    return Outcome(found.verdict, "explosion", printable(str(found)) + note)
