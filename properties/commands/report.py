"""Reports of runs as a page to look at.

    mhc-properties report .mhc-properties --html report.html
    mhc-properties report old/report.json new/report.json --html both.html
    mhc-properties report gains.jsonl --html gains.html
    mhc-properties report .mhc-properties --badge badge.svg
    mhc-properties report .mhc-properties --entry mine.json --where https://example.org/mine
    mhc-properties report --svg picture.svg --law manifold.agrees-with-oracle

The page is one file that opens from disk: the verdict, the causes, every law with its numbers, and the smallest
counterexamples as pictures. Of several reports it shows what fails in one alone, and what has changed. The rows of a
monitor become fields of colours, layers by steps. A badge says the same in one line, and an entry is what the table of
implementations takes.
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
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="where the page goes; report.html if nothing else is asked for")
    ] = None,
    badge: Annotated[Path | None, typer.Option(metavar="FILE.svg", help="a badge of one report")] = None,
    entry: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="one report as an entry of the table of implementations")
    ] = None,
    where: Annotated[str, typer.Option(metavar="URL", help="of an entry: https:// of the source that was tried")] = "",
    svg: Annotated[
        Path | None, typer.Option(metavar="FILE", help="in place of a page, one counterexample as a picture")
    ] = None,
    law: Annotated[str, typer.Option(metavar="ID", help="with --svg: of the law whose id begins so")] = "",
    as_json: JsonOption = False,
) -> None:
    """Draw reports of runs as one page of HTML that opens from disk.

    Exit codes: 0 the page is written; 2 a report that cannot be read, or a page that cannot be written.
    """
    given = reports or [DEFAULT]
    if badge or entry:
        _said(given, badge, entry, where, as_json)
        if html is None and svg is None:
            return
    html = html or Path("report.html")
    try:
        if law and svg is None:
            refuse("--law says which counterexample --svg draws; expected --svg FILE beside it", as_json)
        if svg is not None:
            _draw(given, svg, law, as_json)
            return
        if any(one.suffix == ".jsonl" for one in given):
            data, names = _watched(given, as_json)
        else:
            shown = _named([_file(one) for one in given])
            data, names = page(shown), [one.name for one in shown]
        write_whole(html, data)
    except ReportError as error:
        refuse(message_of(error, 400), as_json)
    except OSError as error:
        refuse(f"{svg or html} could not be written: {message_of(error, 300)}", as_json)
    if as_json:
        tell({"html": str(html), "bytes": len(data), "reports": names})
    else:
        typer.echo(f"{printable(str(html))}: {len(data) / 1024:.0f} KiB; open it in a browser")


def _said(given: list[Path], badge: Path | None, entry: Path | None, where: str, as_json: bool) -> None:
    """One report as a badge, as an entry, or as both."""
    from properties.report import badge as badges
    from properties.report import standing

    if len(given) > 1:
        refuse(f"a badge or an entry is of one report; {len(given)} were given", as_json)
    if entry and not where.startswith("https://"):
        refuse(
            f"an entry says where the source lies: expected --where https://..., not {printable(where, 200)!r}", as_json
        )
    try:
        found = read(_file(given[0]))
        if badge:
            write_whole(badge, badges.badge(found))
        if entry:
            standing.write(entry, standing.entries_of(found, where))
    except ReportError as error:
        refuse(message_of(error, 400), as_json)
    except OSError as error:
        refuse(f"{badge if badge else entry} could not be written: {message_of(error, 300)}", as_json)
    if as_json:
        paths = {"badge": badge, "entry": entry}
        tell({name: str(path) for name, path in paths.items() if path} | {"says": badges.words(found)})
        return
    typer.echo(badges.words(found))
    for path in filter(None, (badge, entry)):
        typer.echo(f"{printable(str(path))}: {path.stat().st_size} bytes")


def _draw(given: list[Path], file: Path, law: str, as_json: bool) -> None:
    """The counterexample of one report as a picture."""
    from properties.report.page.drawing import drawing

    if len(given) > 1 or given[0].suffix == ".jsonl":
        refuse("--svg draws a counterexample of one report; expected one report.json or its folder", as_json)
    data = drawing(read(_file(given[0])), law)
    write_whole(file, data)
    if as_json:
        tell({"svg": str(file), "bytes": len(data)})
    else:
        typer.echo(f"{printable(str(file))}: {len(data) / 1024:.0f} KiB")


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
