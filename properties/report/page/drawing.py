"""The counterexample of a report as a picture of its own, an SVG: what came out, what belongs there, the difference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast
from xml.sax.saxutils import escape

from properties.core.picture import Drawn
from properties.guards.printable import printable
from properties.report.page.figures import colours, short
from properties.report.report import ReportError

_CELL = 52
_GAP = 44
_MOST = 8
"""Rows and columns of a matrix whose numbers can be read; of a larger one no picture is drawn."""


def drawing(report: Mapping[str, Any], law: str = "") -> bytes:
    """The counterexample of a law, or of the first cause that has one to draw, in UTF-8.

    Arguments:
        report: the content of a report.json, see `properties.report.report.read`.
        law: how the id of the law begins.

    Raises:
        ReportError: no such law failed with numbers that can be drawn.
    """
    failed = [(run, id, one) for run in report["runs"] for id, one in run["laws"].items() if _small(one)]
    first = [cause["counterexample"] for cause in report["causes"]]
    failed.sort(
        key=lambda one: first.index(one[2]["counterexample"]) if one[2]["counterexample"] in first else len(first)
    )
    found = next((one for one in failed if one[1].startswith(law)), None)
    if found is None:
        there = ", ".join(sorted({id for _, id, _ in failed})) or "none"
        raise ReportError(
            f"no failed law{f' whose id begins with {printable(law, 100)}' if law else ''} has a matrix of at most "
            f"{_MOST} x {_MOST} numbers to draw; those that have one: {there}"
        )
    run, id, one = found
    return _svg(f"{run['implementation']} breaks {id} in {run['dtype']}", one)


def _small(one: Mapping[str, Any]) -> bool:
    picture = (one.get("failure") or {}).get("picture")
    if not picture:
        return False
    rows = _rows(picture["got"])
    return 0 < len(rows) <= _MOST and 0 < len(rows[0]) <= _MOST


def _rows(stored: Any) -> list[list[Drawn]]:
    """The entries of a matrix, of which a report may hold only those that are not 0 (`properties.core.picture`)."""
    if isinstance(stored, list):
        return cast("list[list[Drawn]]", stored)
    rows: list[list[Drawn]] = [[0.0] * stored["columns"] for _ in range(stored["rows"])]
    for i, j, value in stored["entries"]:
        rows[i][j] = value
    return rows


def _svg(title: str, one: Mapping[str, Any]) -> bytes:
    failure, picture = one["failure"], one["failure"]["picture"]
    got, exact = _rows(picture["got"]), _rows(picture["exact"])
    (row, column), (top, left) = ([0, 0, *picture[name]][-2:] for name in ("index", "start"))
    worst = row - top, column - left
    largest = max((abs(v) for rows in (got, exact) for row in rows for v in row if not isinstance(v, str)), default=0.0)
    apart = [[_less(a, b) for a, b in zip(*rows, strict=True)] for rows in zip(got, exact, strict=True)]
    belongs = "what belongs there" if failure["against"] == "exact" else str(failure["against"])
    maps = (("what it gives", got), (belongs, exact), ("the difference", apart))
    wide = max(len(got[0]) * _CELL, 132)
    width = 3 * wide + 4 * _GAP
    words = [
        *(line for line in one.get("example", ()) if not line.startswith("replay: ")),
        f"error / bound: {short(failure['ratio'])}",
    ]
    below = 92 + len(got) * _CELL
    parts = [f'<text x="{_GAP}" y="34" class="title">{_text(title, 90)}</text>']
    for k, (caption, rows) in enumerate(maps):
        parts += _map(caption, rows, _GAP + k * (wide + _GAP), 84, largest, worst)
    parts += [f'<text x="{_GAP}" y="{below + 20 + 18 * k}">{_text(line, 110)}</text>' for k, line in enumerate(words)]
    height = below + 24 + 18 * len(words)
    said = _text(f"{title}: {'; '.join(words)}", 400)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{said}"><title>{said}</title>\n'
        "<style>text { font: 14px system-ui, sans-serif; fill: #1c2330; } .title { font-weight: 600; } "
        ".number { text-anchor: middle; font-variant-numeric: tabular-nums; }</style>\n"
        f'<rect width="{width}" height="{height}" rx="8" fill="#ffffff" stroke="#d5dae2"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    ).encode()


def _map(
    caption: str, rows: Sequence[Sequence[Drawn]], x: int, y: int, largest: float, worst: tuple[int, int]
) -> Iterator[str]:
    """A matrix as coloured cells; the entry with the largest ratio has a frame."""
    yield f'<text x="{x}" y="{y - 12}">{_text(caption, 60)}</text>'
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            back, front = colours(float(value), largest)
            frame = "#1c2330" if (i, j) == worst else "#d5dae2"
            left, top = x + j * _CELL, y + i * _CELL
            yield (
                f'<rect x="{left + 1}" y="{top + 1}" width="{_CELL - 2}" height="{_CELL - 2}" rx="4" fill="{back}" '
                f'stroke="{frame}"/><text x="{left + _CELL / 2:g}" y="{top + _CELL / 2 + 5:g}" class="number" '
                f'style="fill:{front}">{escape(short(value))}</text>'
            )


def _less(a: Drawn, b: Drawn) -> float:
    return float(a) - float(b)


def _text(words: str, most: int) -> str:
    return escape(printable(words, most), {'"': "&quot;"})
