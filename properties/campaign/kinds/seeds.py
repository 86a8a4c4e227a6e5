"""Every control with many seeds: no law may accuse a correct implementation, and none may be flaky.

A seed tries all laws on every control in one combination of preset, dtype and number of streams, the next seed in
another one; there are about a hundred.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from properties.campaign.cells import Question
from properties.campaign.folder import Record
from properties.campaign.kind import Kind


def questions(
    seeds: int = 100, examples: int = 3, only: Sequence[str] = (), law: Sequence[str] = ()
) -> Iterator[Question]:
    """One for every control and seed."""
    from properties.catalogue.controls import CATALOGUE
    from properties.commands.seeds import runs

    if strange := [one for one in only if one not in CATALOGUE]:
        raise ValueError(f"there is no control {strange[0]!r}; mhc-properties list controls lists them")
    for task, n, seed in runs(seeds, examples, list(only), tuple(law)):
        yield {
            **{"name": task.name, "preset": task.preset, "dtype": task.dtype},
            **{"streams": n, "seed": seed, "examples": examples, "laws": list(law)},
        }


def answer(question: Question, folder: Path) -> dict[str, Any]:
    """{exercised, examples, wrong: [what was said of a law that accused the control, or that failed itself]}."""
    from properties.commands.kill_rows import Task
    from properties.commands.seeds import outcome_of

    task = Task(
        *("control", question["name"], question["preset"], question["dtype"]),
        *(question["examples"], False, tuple(question["laws"])),
    )
    title, exercised, examples, wrong = outcome_of((task, question["streams"], question["seed"]), folder)
    return {"title": title, "exercised": exercised, "examples": examples, "wrong": wrong}


def cost(question: Question) -> float:
    """All laws take about twenty seconds."""
    return 1.0 if question["laws"] else 20.0


def told(records: Sequence[Record], folder: Path) -> tuple[str, bool]:
    """What was tried, and every accusation."""
    answers = [one["answer"] for one in records]
    wrong = [line for one in answers for line in one["wrong"]]
    names = {one["question"]["name"] for one in records}
    numbers = {one["question"]["seed"] for one in records}
    laws, tried = sum(one["exercised"] for one in answers), sum(one["examples"] for one in answers)
    head = (
        f"seeds: {len(records)} runs of {len(names)} controls, {len(numbers)} seeds, {laws} laws exercised, "
        f"{tried} examples, {len(wrong)} accusations or errors"
    )
    return "\n".join(itertools.chain([head], wrong)), bool(wrong)


KIND = Kind(frozenset({"seeds", "examples", "only", "law"}), questions, answer, told, cost)
