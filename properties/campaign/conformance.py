"""`mhc-properties conformance`: the laws on every published implementation, and the table of what came of it.

    mhc-properties conformance --out docs/conformance.json              (make conformance)
    mhc-properties conformance liger fla --out docs/conformance.json    (renews the entries of these)
    mhc-properties conformance --out page.md

It is a campaign (docs/campaigns.md): what is cut short goes on with the same command; `--engine` takes it elsewhere. A
file that ends in .json keeps the entries of the implementations that are not run now, each with its own day and
versions; any other is a page in Markdown of this run alone, which says while it is unfinished.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from properties.campaign.command import BudgetOption, UsualEngine, carry_out
from properties.campaign.folder import Record
from properties.campaign.kinds.conformance import question_of, run_of
from properties.commands.options import ProfileName
from properties.commands.refusals import refuse_lost
from properties.engine.known_file import PUBLISHED, Known, KnownError, load, write
from properties.guards.answer import HARNESS_ERROR
from properties.guards.printable import message_of, printable
from properties.guards.whole import write_whole
from properties.report import standing
from properties.report.report import Line
from properties.targets.published import ADAPTERS


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
    campaigns: Annotated[
        Path, typer.Option(metavar="DIR", help="the folder of its campaigns, with the reports")
    ] = Path("build/conformance"),
    known: Annotated[
        Path, typer.Option(metavar="FILE", help="known failures (default: ours)", show_default=False)
    ] = PUBLISHED,
    search: Annotated[bool, typer.Option("--search", help="search where a failure is known, too")] = False,
    write_known: Annotated[
        bool, typer.Option("--write-known", help="store what fails (with --search: found again)")
    ] = False,
    profile: Annotated[ProfileName, typer.Option("--hypothesis-profile", help="how long to search")] = ProfileName.CI,
    seed: Annotated[int | None, typer.Option("--hypothesis-seed", metavar="N", help="of the search")] = None,
    engine: UsualEngine = "",
    budget: BudgetOption = "0",
) -> None:
    """Run the laws on published implementations, each in a process of its own, and make the table of them.

    Exit 0: every law held or failed as known; 1: a law failed that is not known, or a known failure is fixed; 2: a
    mistake in what was given; 3: an adapter could not be run, the harness failed, or implementations are left; 130:
    stopped by Ctrl-C. What is answered is not asked again: another seed, or another folder, asks anew.
    """
    from properties.commands.conformance_table import NOT_YET, Run, entry, page, versions

    chosen = names or list(ADAPTERS)
    if strange := [name for name in chosen if name not in ADAPTERS]:
        raise typer.BadParameter(
            f"there is no published implementation {printable(strange[0], 60)!r}; the names are {', '.join(ADAPTERS)}"
        )
    # What could not be written in the end is refused before an hour of work, not after it.
    places = {"--campaigns": campaigns, **({"--out": out.absolute().parent} if out else {})}
    if write_known:
        places["--known"] = known.absolute().parent
    for option, place in places.items():
        refuse_lost(place, option)
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

    def told(records: Sequence[Record], folder: Path) -> tuple[str, int]:
        runs = {name: Run(name, (), NOT_YET) for name in chosen}
        runs |= {one.name: one for one in (run_of(record, folder) for record in records)}
        lines = [line for one in runs.values() for line in one.lines]
        explained = write(known, lines, keep=entries) if write_known else entries
        said = [f"{len(explained)} known failures: {known}"] if write_known else list[str]()
        for one in runs.values():
            bad = sum(unexplained(line, explained) for line in one.lines)
            said.append(f"{one.name}: {one.trouble or f'{len(one.lines)} verdicts, {bad} not as known'}")
        if out and out.suffix == ".json":
            ended = [one for one in runs.values() if one.trouble != NOT_YET]
            now = [entry(one, explained, standing.today(), profile.value) for one in ended]
            standing.write(out, standing.merged(before, now))
        else:
            text = page(list(runs.values()), explained, packages, standing.today(), profile.value)
            if out:
                write_whole(out, text.encode())
            else:
                said = [text]
        if any(line.status != "error" and unexplained(line, explained) for line in lines):
            return "\n".join(said), 1
        broken = any(one.trouble not in ("", NOT_YET) for one in runs.values())
        broken = broken or any(line.status == "error" for line in lines)
        return "\n".join(said), HARNESS_ERROR if broken else 0

    asked = [question_of(name, profile.value, seed or 0, replayed) for name in chosen]
    carry_out("conformance", asked, campaigns, engine, budget, told)
