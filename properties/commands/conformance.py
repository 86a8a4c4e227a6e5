"""`mhc-properties conformance`: the laws on every published implementation, and the table of what came of it.

    mhc-properties conformance --out docs/conformance.json              (make conformance)
    mhc-properties conformance liger fla --out docs/conformance.json    (renews the entries of these)
    mhc-properties conformance --out page.md

A file that ends in .json keeps the entries of the implementations that are not run now, each with its own day and
versions; any other is a page in Markdown of this run alone. Both are written after every implementation, and the page
says while it is unfinished; what a run that was stopped has found, `--reuse` does not run again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from properties.commands.options import ProfileName
from properties.engine.known_file import PUBLISHED, Known, KnownError, load, write
from properties.guards.answer import HARNESS_ERROR
from properties.guards.printable import message_of, printable
from properties.guards.whole import unwritable, write_whole
from properties.report import standing
from properties.report.report import Line
from properties.targets.published import ADAPTERS

if TYPE_CHECKING:
    from properties.commands.conformance_table import Run


def unexplained(line: Line, entries: Sequence[Known]) -> bool:
    """Whether something went wrong that is not known."""
    from properties.commands.conformance_table import explanation

    return line.status in ("failed", "error", "known") and explanation(line, entries) is None


def conformance(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help=f"which ones; all: {', '.join(ADAPTERS)}")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="the table, .json or Markdown; stdout if left out")
    ] = None,
    report: Annotated[Path, typer.Option(metavar="DIR", help="where the reports go")] = Path(
        ".mhc-properties/published"
    ),
    known: Annotated[
        Path, typer.Option(metavar="FILE", help="known failures (default: ours)", show_default=False)
    ] = PUBLISHED,
    search: Annotated[bool, typer.Option("--search", help="search where a failure is known, too")] = False,
    reuse: Annotated[bool, typer.Option("--reuse", help="run nothing of which there is a report in DIR")] = False,
    write_known: Annotated[
        bool, typer.Option("--write-known", help="store what fails (with --search: found again)")
    ] = False,
    profile: Annotated[ProfileName, typer.Option("--hypothesis-profile", help="how long to search")] = ProfileName.CI,
    seed: Annotated[int | None, typer.Option("--hypothesis-seed", metavar="N", help="of the search")] = None,
    jobs: Annotated[int, typer.Option(min=1, metavar="N", help="implementations at a time")] = 1,
) -> None:
    """Run the laws on published implementations, each in a process of its own, and make the table of them.

    Exit 0: every law held or failed as known; 1: a law failed that is not known, or a known failure is fixed; 3: an
    adapter could not be run, or the harness failed.
    """
    from properties.commands.conformance_table import NOT_YET, Run, entry, page, read, run, versions

    chosen = names or list(ADAPTERS)
    if strange := [name for name in chosen if name not in ADAPTERS]:
        raise typer.BadParameter(
            f"there is no published implementation {printable(strange[0], 60)!r}; the names are {', '.join(ADAPTERS)}"
        )
    # What could not be written in the end is refused before an hour of work, not after it.
    places = {"--report": report, **({"--out": out.absolute().parent} if out else {})}
    if write_known:
        places["--known"] = known.absolute().parent
    for option, place in places.items():
        if (why := unwritable(place)) is not None:
            shown = printable(str(place), 200)
            raise typer.BadParameter(f"{shown}: expected a folder that can be written: {why}", param_hint=option)
    if out and out.is_dir():
        shown = printable(str(out), 200)
        raise typer.BadParameter(f"{shown}: expected the name of a file; this is a folder", param_hint="--out")
    try:
        entries = load(known) if known.exists() or not write_known else []
    except KnownError as error:
        raise typer.BadParameter(message_of(error), param_hint="--known") from None
    replayed = known if entries and not search else None
    packages = versions([ADAPTERS[name][0] for name in chosen])
    try:
        before = standing.read(out) if out and out.suffix == ".json" and out.exists() else []
    except standing.StandingError as error:
        raise typer.BadParameter(message_of(error), param_hint="--out") from None
    runs = {name: Run(name, (), NOT_YET) for name in chosen}

    def examined(name: str) -> tuple[Run, float]:
        started = time.monotonic()
        where = (report / name).absolute()
        found = read(name, where) if reuse else Run(name, ())
        if found.trouble or not found.lines:
            found = run(name, where, known=replayed, profile=profile.value, seed=seed)
        return found, time.monotonic() - started

    def show() -> None:
        if out and out.suffix == ".json":
            ended = [one for one in runs.values() if one.trouble != NOT_YET]
            now = [entry(one, entries, standing.today(), profile.value) for one in ended]
            standing.write(out, standing.merged(before, now))
            return
        text = page(list(runs.values()), entries, packages, standing.today(), profile.value)
        if out:
            write_whole(out, text.encode())
        elif all(one.trouble != NOT_YET for one in runs.values()):
            typer.echo(text)

    pool = ThreadPoolExecutor(jobs)
    try:
        for done in as_completed([pool.submit(examined, name) for name in chosen]):
            found, seconds = done.result()
            runs[found.name] = found
            bad = sum(unexplained(line, entries) for line in found.lines)
            said = found.trouble or f"{len(found.lines)} verdicts, {bad} not as known"
            typer.echo(f"{found.name}: {said} ({seconds:.0f} s)", err=True)
            show()
    finally:
        pool.shutdown(cancel_futures=True)  # who interrupts this does not want the rest begun
    lines = [line for one in runs.values() for line in one.lines]
    if write_known:
        entries = write(known, lines, keep=entries)
        typer.echo(f"{len(entries)} known failures: {known}", err=True)
        show()
    if any(line.status != "error" and unexplained(line, entries) for line in lines):
        raise typer.Exit(1)
    broken = any(one.trouble for one in runs.values()) or any(line.status == "error" for line in lines)
    raise typer.Exit(HARNESS_ERROR if broken else 0)
