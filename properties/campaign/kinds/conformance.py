"""Published implementations under all laws: a cell is one of them, in a process of its own."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from properties.campaign.cells import Question, of_file
from properties.campaign.folder import Folder, Record
from properties.campaign.kind import Kind

if TYPE_CHECKING:
    from properties.commands.conformance_table import Run
    from properties.report.report import Line


def question_of(name: str, profile: str, seed: int, known: Path | None) -> Question:
    """The laws on one implementation, with a seed or, for 0, with the profile's own examples; failures of `known` are
    replayed and not searched."""
    known = known.absolute() if known else None
    file = [str(known), of_file(known)] if known else None  # what is known is a part of what is asked
    return {"name": name, "profile": profile, "seed": seed, "known": file}


def questions(only: Sequence[str] = (), profile: str = "ci", seeds: int = 1) -> Iterator[Question]:
    """One for every implementation whose packages are installed, and seed."""
    from properties.campaign.targets import packages_of
    from properties.engine.known_file import PUBLISHED
    from properties.targets.published import ADAPTERS

    if strange := [one for one in only if one not in ADAPTERS]:
        raise ValueError(f"there is no published implementation {strange[0]!r}; the names are {', '.join(ADAPTERS)}")
    for name in only or ADAPTERS:
        if only or _installed(packages_of(f"published:{name}")):
            for seed in range(seeds):
                yield question_of(name, profile, seed, PUBLISHED)


def answer(question: Question, folder: Path) -> dict[str, Any]:
    """{trouble, statuses: {status: how many}, failed: [laws that failed and are not known]}; report.json is kept."""
    from properties.commands import conformance_table

    known = Path(question["known"][0]) if question["known"] else None
    found = conformance_table.run(
        question["name"], folder, known=known, profile=question["profile"], seed=question["seed"] or None
    )
    return {
        "trouble": found.trouble,
        "statuses": dict(Counter(line.status for line in found.lines)),
        "failed": sorted(f"{line.law} in {line.dtype}" for line in found.lines if line.status in ("failed", "error")),
    }


def cost(question: Question) -> float:
    """Minutes; Triton is interpreted."""
    return 120.0


def packages(question: Question) -> tuple[str, ...]:
    """Those that the adapter wraps."""
    from properties.campaign.targets import packages_of

    return packages_of(f"published:{question['name']}")


def run_of(record: Record, folder: Path) -> Run:
    """What came of a cell: the lines of the report that it left, or why there is none."""
    from properties.commands.conformance_table import Run, read

    name, trouble = record["question"]["name"], record["answer"]["trouble"]
    if trouble:
        return Run(name, (), trouble)
    files = Folder(folder).files(record["address"])
    run = read(name, files)
    return dataclasses.replace(run, lines=tuple(_moved(one, files) for one in run.lines))


def _moved(line: Line, files: Path) -> Line:
    """A line whose counterexample is named where it lies now: the report was written while the cell was answered."""
    here = files / "counterexamples" / Path(line.counterexample or "").name
    return dataclasses.replace(line, counterexample=str(here)) if line.counterexample and here.is_file() else line


def told(records: Sequence[Record], folder: Path) -> tuple[str, bool]:
    """A line for each; conformance.md is made from the reports."""
    from properties.commands.conformance_table import Run, page, versions
    from properties.engine.known_file import PUBLISHED, load
    from properties.guards.whole import write_whole
    from properties.report.standing import today
    from properties.targets.published import ADAPTERS

    runs, lines, bad = list[Run](), list[str](), False
    for one in records:
        name, answer = one["question"]["name"], one["answer"]
        runs.append(run_of(one, folder))
        counts = ", ".join(f"{count} {status}" for status, count in sorted(answer["statuses"].items()))
        lines.append(f"conformance: {name}: {answer['trouble'] or counts}")
        lines += [f"  {law}" for law in answer["failed"]]
        bad = bad or bool(answer["failed"] or answer["trouble"])
    text = page(runs, load(PUBLISHED), versions([ADAPTERS[one.name][0] for one in runs]), today(), "ci")
    write_whole(folder / "conformance.md", text.encode())
    return "\n".join(lines), bad


def _installed(names: Sequence[str]) -> bool:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return all(version(name) for name in names)
    except PackageNotFoundError:
        return False


KIND = Kind(frozenset({"only", "profile", "seeds"}), questions, answer, told, cost, packages=packages)
