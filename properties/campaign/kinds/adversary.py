"""Random mutants of the reference before the laws: a cell is mutants of one seed that declare alike, fifty at most.

They share the way of the reference through the laws (`properties.engine.mutation.ground`), which takes a minute or two;
with it a mutant takes seconds. What no law sees is confirmed in the same cell.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from properties.campaign.cells import Question
from properties.campaign.folder import Record
from properties.campaign.kind import Kind
from properties.commands.adversary_rows import Results, tried

if TYPE_CHECKING:
    from properties.catalogue.mutants import Spec

AT_ONCE = 50


def asked(specs: Iterable[Spec]) -> Iterator[Question]:
    """The questions about mutants: those that declare alike together."""
    groups: dict[Any, list[Spec]] = {}
    for one in specs:
        groups.setdefault((one.seed, *one.group), []).append(one)
    for members in groups.values():
        for begin in range(0, len(members), AT_ONCE):
            yield {"seed": members[0].seed, "mutants": [one.index for one in members[begin : begin + AT_ONCE]]}


def questions(seeds: int = 1, mutants: int = 1000) -> Iterator[Question]:
    """The first mutants of the seeds from 1 on."""
    from properties.catalogue.mutants import drawn

    for seed in range(1, seeds + 1):
        yield from asked(drawn(seed, index) for index in range(mutants))


def answer(question: Question, folder: Path) -> dict[str, Any]:
    """{lines}: what there is to say of the reference, of each mutant and of each survivor (`Results`)."""
    from properties.catalogue.mutants import drawn

    specs = [drawn(question["seed"], index) for index in question["mutants"]]
    return {"lines": list(tried(specs).lines.values())}


def results_of(records: Iterable[Record]) -> Results:
    """What all answers say."""
    return Results(line for one in records for line in one["answer"]["lines"])


def cost(question: Question) -> float:
    """The reference takes about two minutes, a mutant three seconds."""
    return 120.0 + 3 * len(question["mutants"])


def told(records: Sequence[Record], folder: Path) -> tuple[str, bool]:
    """The rate of each seed, and what went wrong in the harness."""
    from properties.catalogue.mutants import drawn
    from properties.commands.adversary_page import rates

    lines: list[str] = []
    wrong: list[str] = []
    for seed in sorted({one["question"]["seed"] for one in records}):
        mine = [one for one in records if one["question"]["seed"] == seed]
        indices = sorted(index for one in mine for index in one["question"]["mutants"])
        found = rates([drawn(seed, index) for index in indices], results_of(mine))
        lines.append(f"adversary, seed {seed}: {said(found)}")
        wrong += found["harness"]
    return "\n".join([*lines, *wrong]), bool(wrong)


def said(found: dict[str, Any]) -> str:
    """The rates of a run in one line."""
    return (
        f"{found['mutants']} mutants: {found['killed']} seen, {found['survived']} wrong and not seen, "
        f"{found['equivalent']} equivalent; {100 * found['rate']:.1f} % of the wrong ones are seen"
    )


KIND = Kind(frozenset({"seeds", "mutants"}), questions, answer, told, cost)
