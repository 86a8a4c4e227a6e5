"""Reports of runs as a page to look at.

    mhc-properties report .mhc-properties --html report.html
    mhc-properties report old/report.json new/report.json --html both.html
    mhc-properties report gains.jsonl --html gains.html

The page is one file that opens from disk: the verdict, the causes, every law with its numbers, and the smallest
counterexamples as pictures. Of several reports it shows what fails in one alone, and what has changed. The rows of a
monitor become fields of colours, layers by steps.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from properties.commands.options import JsonOption, refuse
from properties.guards.answer import tell
from properties.guards.printable import message_of, printable
from properties.guards.whole import write_whole
from properties.report.page.render import Shown, page
from properties.report.report import ReportError, read

DEFAULT = Path(".mhc-properties")
"""Where a run leaves its report if nothing else is said."""


def report(
    reports: Annotated[
        list[Path] | None,
        typer.Argument(metavar="REPORT...", help="report.json of a run, its folder, or a monitor's .jsonl"),
    ] = None,
    html: Annotated[Path, typer.Option(metavar="FILE", help="where the page goes")] = Path("report.html"),
    as_json: JsonOption = False,
) -> None:
    """Draw reports of runs as one page of HTML that opens from disk.

    Exit codes: 0 the page is written; 2 a report that cannot be read, or a page that cannot be written.
    """
    try:
        given = reports or [DEFAULT]
        if any(one.suffix == ".jsonl" for one in given):
            data, names = _watched(given, as_json)
        else:
            shown = _named([_file(one) for one in given])
            data, names = page(shown), [one.name for one in shown]
        write_whole(html, data)
    except ReportError as error:
        refuse(message_of(error, 400), as_json)
    except OSError as error:
        refuse(f"{html} could not be written: {message_of(error, 300)}", as_json)
    if as_json:
        tell({"html": str(html), "bytes": len(data), "reports": names})
    else:
        typer.echo(f"{printable(str(html))}: {len(data) / 1024:.0f} KiB; open it in a browser")


def _watched(given: list[Path], as_json: bool) -> tuple[bytes, list[str]]:
    """The page of a monitor's rows."""
    from properties.explosion.pictures.watching import RowsError, rows_in, rows_page

    if len(given) > 1:
        refuse("a page is of reports of runs, or of the rows of one monitor; expected one .jsonl alone", as_json)
    try:
        return rows_page(rows_in(given[0]), given[0].stem), [given[0].stem]
    except RowsError as error:
        refuse(message_of(error, 400), as_json)


def _file(given: Path) -> Path:
    return given / "report.json" if given.is_dir() else given


def _named(paths: list[Path]) -> list[Shown]:
    """The reports, each by the shortest end of its path that tells it from the others."""
    whole = [path.resolve() for path in dict.fromkeys(paths)]
    found: list[Shown] = []
    for path in whole:
        parts = path.parts[:-1] if path.name == "report.json" else path.parts
        others = [other.parts[:-1] if other.name == "report.json" else other.parts for other in whole if other != path]
        length = next(
            (k for k in range(1, len(parts)) if all(other[-k:] != parts[-k:] for other in others)), len(parts)
        )
        found.append(Shown("/".join(parts[-length:]), read(path), path.parent))
    return found
