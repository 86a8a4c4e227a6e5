"""The kill matrix as it is kept (kill.json) and as it is read (kill.md)."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from properties.commands.kill_rows import Row
from properties.guards.printable import message_of, printable
from properties.guards.whole import write_whole

SCHEMA = 2
"""The number of the form of kill.json: {schema, rows}. Form 1, the plain list of rows, is read too."""


def load(path: Path) -> list[Row]:
    """The rows of a kill.json; none where there is no such file.

    Raises:
        ValueError: it is none; the message says why.
    """
    if not path.exists():
        return []
    try:
        found = json.loads(path.read_bytes())
        if isinstance(found, dict):
            if found["schema"] != SCHEMA:
                raise ValueError(f"its schema is {found['schema']!r}; this version reads 1, a plain list, and {SCHEMA}")
            found = found["rows"]
        if not isinstance(found, list):
            raise TypeError(f"it holds {type(found).__name__}, not rows")
        return [Row.from_json(data) for data in found]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        shown = printable(str(path), 200)
        raise ValueError(f"{shown} is no kill.json: {type(error).__name__}: {message_of(error, 300)}") from None


def save(path: Path, rows: list[Row]) -> None:
    """One row a line."""
    text = ",\n".join(json.dumps(asdict(row)) for row in rows)
    write_whole(path, f'{{"schema": {SCHEMA}, "rows": [\n{text}\n]}}\n'.encode())


def page(rows: list[Row], place: str = "cpu") -> str:
    """What the matrix of a type of device comes to, as Markdown."""
    from properties.catalogue.deviations import HIDDEN
    from properties.core.device import device_of
    from properties.core.law import all_laws

    laws = all_laws()
    elsewhere = [name for name, one in HIDDEN.items() if one.needs and device_of(place).lacks(one.needs)]
    deviations = [row for row in rows if row.kind != "control"]
    controls = [row for row in rows if row.kind == "control"]
    kinds = {row.name: {kill.kind for kill in row.killed.values()} for row in deviations}
    survivors = [row.name for row in deviations if not row.killed]
    oracle_only = [name for name, found in kinds.items() if found == {"oracle"}]
    single = [row.name for row in deviations if len(row.killed) == 1]
    flagged = [f"{row.name}@{row.preset} {row.dtype}: {', '.join(row.killed)}" for row in controls if row.killed]
    killers = {law for row in deviations for law in row.killed}
    idle = [law for law in laws if law not in killers]
    hidden = [
        f"{row.name} in {dtype} ({ratio:.2g})"
        for row in deviations
        for dtype, ratio in row.elsewhere.items()
        if not isinstance(ratio, str)
    ]
    stopped = sum(row.stopped for row in rows)
    command = "make kill" if place == "cpu" else f"mhc-properties kill --device {place}"
    stopped_words = [
        f"Of the rows {stopped} were put to a part of the laws, or an earlier release ended them at their second kill.",
        f"Their counts are lower bounds; `{command}` tries all laws on all of them, and",
        "`mhc-properties kill --missing` on these alone, in pieces with `--budget 2h`.",
    ]
    text = [
        "# Kill matrix",
        "",
        f"Made by `{command}`: every deviation in the first preset and dtype in which it shows, every control in",
        "PAPER and DEEPSEEK_V4 in every dtype that it declares, without shrinking. `properties/catalogue/deviations/`",
        "says what each deviation does wrong and where that happened. The cells of the matrix are in `kill.json`; the",
        "site of `make site` has a page for every deviation and for every law, which are drawn from it.",
        *(stopped_words if stopped else []),
        "",
        f"* deviations killed: {len(deviations) - len(survivors)} of {len(deviations)}",
        f"* killed by the oracle laws alone: {', '.join(oracle_only) or 'none'}",
        f"* killed by a single law: {', '.join(single) or 'none'}",
        f"* surviving: {', '.join(survivors) or 'none'}",
        f"* controls flagged: {'; '.join(flagged) or 'none'} (of {len(controls)} control runs)",
        f"* laws that kill nothing: {', '.join(idle) or 'none'}",
        f"* harness errors: {sum(len(row.errors) for row in rows)}",
        f"* not run, what they need the {'CPU' if place == 'cpu' else place} lacks: {', '.join(elsewhere) or 'none'}",
        "",
        "In another dtype than its own a deviation may lie below the bound: rounding there explains more than the slip",
        f"does. Those, with the largest ratio reached: {', '.join(hidden) or 'none'}.",
    ]
    return "\n".join(text) + "\n"
