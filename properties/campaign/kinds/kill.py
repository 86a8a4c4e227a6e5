"""The kill matrix: a cell is a deviation in the dialect and dtype in which it shows first, or a control."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from properties.campaign.cells import Question
from properties.campaign.folder import Record
from properties.campaign.kind import Kind
from properties.commands.kill_page import page, save
from properties.commands.kill_rows import Row, Task, row_of, tasks
from properties.guards.whole import write_whole


def questions(examples: int = 16, only: Sequence[str] = (), law: Sequence[str] = ()) -> Iterator[Question]:
    """One for every row of the matrix."""
    from properties.catalogue import controls, deviations

    known = {*deviations.CATALOGUE, *deviations.HIDDEN, *controls.CATALOGUE}
    if strange := [one for one in only if one.rpartition(":")[2] not in known]:
        raise ValueError(f"there is no deviation or control {strange[0]!r}; mhc-properties list deviations lists them")
    yield from map(question_of, tasks(examples, list(only), tuple(law)))


def question_of(task: Task) -> Question:
    """The question of a row."""
    return {**dataclasses.asdict(task), "laws": list(task.laws)}


def answer(question: Question, folder: Path) -> dict[str, Any]:
    """The row, as kill.json has it."""
    given: dict[str, Any] = {**question, "laws": tuple(question["laws"])}
    return dataclasses.asdict(row_of(Task(**given), folder))


def cost(question: Question) -> float:
    """All laws on one implementation take about a minute."""
    return 5.0 if question["laws"] else 60.0


def told(records: Sequence[Record], folder: Path) -> tuple[str, bool]:
    """What is to be looked at; kill.json and kill.md are written."""
    rows = [Row.from_json(one["answer"]) for one in records]
    save(folder / "kill.json", rows)
    write_whole(folder / "kill.md", page(rows, "cpu").encode())
    bad = [row.name for row in rows if bool(row.killed) == (row.kind == "control") or row.errors]
    return f"kill: {len(rows)} rows; to look at: {', '.join(bad) or 'none'}", bool(bad)


KIND = Kind(frozenset({"examples", "only", "law"}), questions, answer, told, cost)
