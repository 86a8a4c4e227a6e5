"""`mhc-properties check`: the laws on implementations, in a pytest of their own process."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from properties.commands import completing
from properties.commands.options import (
    Device,
    DeviceOption,
    DialectOption,
    IsolateOption,
    JsonOption,
    LawOption,
    ProfileName,
    refuse,
)
from properties.guards.answer import HARNESS_ERROR, progress_on_stderr, refusal, tell
from properties.guards.printable import message_of, printable

if TYPE_CHECKING:
    from properties.engine.known_file import Known
    from properties.targets.folder import Unusable


def check(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="TARGET...", help="as for pytest --impl, or a folder of adapters", autocompletion=completing.targets
        ),
    ],
    device: DeviceOption = Device.CPU,
    dialect: DialectOption = None,
    # Names of files are taken as text: a Path makes of an empty one the current folder.
    report: Annotated[
        str, typer.Option(metavar="DIR", help="where report.json and counterexamples go")
    ] = ".mhc-properties",
    law: LawOption = None,
    profile: Annotated[ProfileName, typer.Option("--hypothesis-profile", help="how long to search")] = ProfileName.DEV,
    workers: Annotated[str, typer.Option("-n", metavar="N", help="worker processes, or auto")] = "0",
    known: Annotated[str | None, typer.Option(metavar="FILE", help="known failures (TOML)")] = None,
    write_known: Annotated[
        str | None, typer.Option(metavar="FILE", help="write what fails as known failures into FILE")
    ] = None,
    isolate: IsolateOption = False,
    dtype: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="only in this declared dtype; may be repeated")
    ] = None,
    first: Annotated[bool, typer.Option("-x", help="begin no law once one cause is known")] = False,
    max_causes: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="begin no law once N causes are known")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option("--time", metavar="SECONDS", help="end after so long; the rest is counted")
    ] = None,
    junit: Annotated[str | None, typer.Option(metavar="FILE", help="a test case for every law, as JUnit's XML")] = None,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="every law, and the message of every failure")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run the laws on implementations.

    What is wrong is said by cause, each with its failed laws and the simplest input; of several targets each has a line
    at the end. In a folder every .py file is imported, and what it holds is a target.

    Exit 0: every exercised law holds or fails as known; 1: a law failed; 2 and above: the harness could not run,
    nothing was exercised, not all was reached in time, or the run left no whole report.
    """
    from properties.plugin.launch import LAWS_ALONE, launch
    from properties.plugin.options import most_workers
    from properties.report.report import NOTHING_EXERCISED

    if not re.fullmatch(r"auto|logical|[0-9]{1,9}", workers) or (workers.isdigit() and int(workers) > most_workers()):
        refuse(
            f"-n {printable(workers, 60)!r}: expected a number of workers from 0 to {most_workers()}, or auto", as_json
        )
    if not report or "\0" in report:
        refuse(f"--report {printable(report, 60)!r}: expected the name of a folder", as_json)
    if seconds is not None and not 0 < seconds < 1e9:
        refuse(f"--time {seconds:g}: expected a number of seconds above 0 and below 1e9", as_json)
    kept = _known_so_far(write_known, as_json) if write_known is not None else []
    usable, unusable = _found(targets, dialect, as_json)
    where = Path(report).absolute()
    arguments = [*LAWS_ALONE, "-n", workers, "--device", device.value, f"--report={where}"]
    arguments += ["--hypothesis-profile", profile.value]
    # With the sign of equality nothing that somebody gives is taken for an option.
    arguments += [f"--impl={target}" for target in usable]
    arguments += [f"--law={prefix}" for prefix in law or []]
    arguments += [f"--dialect={dialect}"] if dialect is not None else []
    arguments += [f"--known={known}"] if known is not None else []
    arguments += ["--isolate"] if isolate else []
    arguments += [f"--dtype={name}" for name in dtype or []]
    if first or max_causes is not None:
        arguments += [f"--max-causes={1 if first else max_causes}"]
    arguments += [f"--time={seconds!r}"] if seconds is not None else []
    arguments += [f"--junit={Path(junit).absolute()}"] if junit is not None else []
    arguments += ["-vv"] if verbose else []  # one for the -q before it
    with progress_on_stderr(as_json):
        outcome = launch(arguments, where, seconds)
    status, found = outcome.status, outcome.report
    if unusable:
        status = HARNESS_ERROR if status in (0, NOTHING_EXERCISED) else status
    if found is not None:
        found = _told(found, unusable, where, as_json)
    if write_known is not None and found is not None:
        lost = _write_known(write_known, found, kept, as_json)
        status = status or lost
    if as_json:
        tell(found or refusal("the run left no report: stderr says why", status))
    raise typer.Exit(status)


def _found(targets: list[str], dialect: str | None, as_json: bool) -> tuple[list[str], list[Unusable]]:
    """The targets with those of folders in their places, and what of a folder cannot be used."""
    from properties.targets.folder import adapters, is_folder

    usable: list[str] = []
    unusable: list[Unusable] = []
    for target in targets:
        if not is_folder(target):
            usable.append(target)
            continue
        shown = printable(target, 200)
        try:
            inside = adapters(target, dialect)
        except (OSError, ValueError) as error:
            refuse(f"{shown} cannot be read as a folder: {getattr(error, 'strerror', None) or error}", as_json)
        for one in inside.unusable:
            told = " ".join(f"{one.target} is left out: {one.why}".split())  # what a file raised may have several lines
            typer.echo(printable(told), err=True)
        if inside.empty:
            typer.echo(printable(f"no implementation in {', '.join(inside.empty)}"), err=True)
        if not inside.targets:
            why = f"{len(inside.unusable)} of what is there cannot be used" if inside.unusable else "nothing was found"
            refuse(
                f"{shown}: {why}; expected .py files with classes or objects that are a properties.Implementation, or "
                "that name theirs in TARGET or TARGETS",
                as_json,
            )
        usable += inside.targets
        unusable += inside.unusable
    return usable, unusable


def _told(report: dict[str, Any], unusable: list[Unusable], where: Path, as_json: bool) -> dict[str, Any]:
    """The report with what could not be used; a line for each target where there are several."""
    from properties.guards.whole import write_whole
    from properties.report.across import across
    from properties.report.page.render import Shown, page
    from properties.report.report import lines_of

    if unusable:
        report = {**report, "unusable": [{"target": one.target, "why": one.why} for one in unusable]}
        try:
            write_whole(where / "report.json", (json.dumps(report, indent=1) + "\n").encode())
            write_whole(where / "report.html", page([Shown(where.name, report, where)]))
        except OSError as error:
            typer.echo(f"what cannot be used is not in report.json: {error.strerror or error}", err=True)
    lines = lines_of(report)
    if unusable or len({line.implementation for line in lines}) > 1:
        for text in ("", *across(lines, [(one.target, one.why) for one in unusable])):
            typer.echo(text, err=as_json)
    return report


def _known_so_far(path: str, as_json: bool) -> list[Known]:
    """The entries of the file that is to be written; what cannot be read or written is refused before the run."""
    from properties.engine.known_file import KnownError, load_to_write

    try:
        return load_to_write(path)
    except KnownError as error:
        refuse(f"--write-known {message_of(error)}", as_json)


def _write_known(path: str, report: dict[str, Any], kept: list[Known], as_json: bool) -> int:
    """0, or the exit status where the file could not be written."""
    from properties.engine.known_file import write
    from properties.report.report import lines_of

    try:
        entries = write(Path(path), lines_of(report), keep=kept)
    except OSError as error:
        typer.echo(f"--write-known {printable(path, 200)}: {error.strerror or error}", err=True)
        return HARNESS_ERROR
    typer.echo(f"{len(entries)} known failure{'s' * (len(entries) != 1)}: {printable(path, 200)}", err=as_json)
    return 0
