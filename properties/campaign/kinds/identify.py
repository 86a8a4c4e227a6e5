"""What `identify` says of all that is known: presets, controls, releases, deviations, and two of these at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from properties.campaign.cells import Question
from properties.campaign.folder import Record
from properties.campaign.kind import Kind


def questions(only: Sequence[str] = (), pairs: int = 50) -> Iterator[Question]:
    """One for every row of the table; `only` keeps those of whose names it begins one."""
    from properties.diagnosis import table

    places = [
        *(("correct", name, ()) for name, _ in table.correct()),
        *(("singles", name, wanted) for name, _, wanted in table.singles()),
        *(("pairs", name, wanted) for name, _, wanted in (table.pairs(pairs) if pairs else ())),
    ]
    for part, name, wanted in places:
        if not only or any(name.partition(":")[2].startswith(one) or name.startswith(one) for one in only):
            yield {"part": part, "name": name, "wanted": list(wanted), "seconds": 600.0}


def answer(question: Question, folder: Path) -> dict[str, Any]:
    """The row of the table."""
    from properties.diagnosis import table

    implementation = table.built(question["part"], question["name"], tuple(question["wanted"]))
    found = table.row(question["name"], implementation, tuple(question["wanted"]), question["seconds"])
    return dataclasses.asdict(found)


def cost(question: Question) -> float:
    """Two slips take several times as long as one."""
    return 30.0 if question["part"] == "pairs" else 8.0


def packages(question: Question) -> tuple[str, ...]:
    """Those of a published implementation."""
    from properties.campaign.targets import packages_of

    return packages_of(question["name"])


def told(records: Sequence[Record], folder: Path) -> tuple[str, bool]:
    """How many of each verdict; identify-table.json and its page are written."""
    from properties.diagnosis import table

    made: dict[str, list[table.Row]] = {}
    for part in table.PARTS:
        rows = [table.Row(**one["answer"]) for one in records if one["question"]["part"] == part]
        if rows:
            made[part] = rows
    table.publish(folder, made)
    lines = [f"identify, {part}: {table.summary(rows)}" for part, rows in made.items()]
    bad = [row.line() for rows in made.values() for row in rows if not row.good]
    return "\n".join([*lines, *bad]), bool(bad)


KIND = Kind(frozenset({"only", "pairs"}), questions, answer, told, cost, packages=packages)
