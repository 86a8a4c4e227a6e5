"""The worst ratio of every law in reports of runs, as a table in Markdown.

    mhc-properties ratios .mhc-properties/report.json [MORE ...]

A column is an implementation in a dtype on a device, a cell the largest error / bound over all examples; of two reports
of the same cell the one that exercised the law counts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from properties.commands.kill_rows import DTYPE_ORDER
from properties.guards.printable import message_of, printable
from properties.report.report import Line, ReportError, lines_of, read

RANK = ("not-applicable", "passed", "known", "error", "failed")
"""Of two lines about one cell the later one counts, and of two that were exercised the larger ratio."""


def cell(line: Line | None) -> str:
    """What a cell says: the ratio, why there is none, or that the law is broken."""
    if line is None:
        return "not run"
    if line.status == "passed":
        return "∞" if line.worst_ratio is None else f"{line.worst_ratio:.3g}"
    return "–" if line.status == "not-applicable" else line.status.upper()


def weight(line: Line) -> tuple[int, float]:
    """By what one line outranks another."""
    return RANK.index(line.status), line.worst_ratio or 0.0


def table(lines: list[Line]) -> list[str]:
    """The rows by law, the columns by implementation, dtype and device."""
    columns = sorted(
        {(line.implementation, line.dtype, line.device) for line in lines},
        key=lambda column: (column[0], _rank(column[1]), column[2]),
    )
    found: dict[str, dict[tuple[str, str, str], Line]] = {}
    for line in lines:
        row = found.setdefault(line.law, {})
        key = line.implementation, line.dtype, line.device
        row[key] = max(filter(None, (row.get(key), line)), key=weight)
    places = {device for *_, device in columns}
    titles = [" ".join(column if len(places) > 1 else column[:2]) for column in columns]
    rows = [f"| law | {' | '.join(titles)} |", "|---" * (len(columns) + 1) + "|"]
    return rows + [
        f"| {law} | {' | '.join(cell(row.get(column)) for column in columns)} |" for law, row in sorted(found.items())
    ]


def _rank(dtype: str) -> tuple[int, str]:
    """The place of a dtype among the columns; those that are not known come last."""
    return (DTYPE_ORDER.index(dtype) if dtype in DTYPE_ORDER else len(DTYPE_ORDER), dtype)


def main(
    reports: Annotated[list[Path], typer.Argument(metavar="REPORT...", help="report.json of a run, one or more")],
) -> None:
    """Print the worst ratio of every law in reports of runs, as a table in Markdown."""
    lines: list[Line] = []
    for path in reports:
        try:
            found = read(path)
        except ReportError as error:
            raise typer.BadParameter(message_of(error, 400)) from None
        if not found["complete"]:
            typer.echo(f"{path} is the report of a run that was cut off", err=True)
        lines += lines_of(found)
    if not lines:
        raise typer.BadParameter("there is no law in these reports")
    typer.echo("\n".join(printable(row) for row in table(lines)))
