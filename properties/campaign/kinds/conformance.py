"""Published implementations under all laws: a cell is one of them, in a process of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from properties.campaign.cells import Question
from properties.campaign.folder import Folder, Record
from properties.campaign.kind import Kind


def questions(only: Sequence[str] = (), profile: str = "ci", seeds: int = 1) -> Iterator[Question]:
    """One for every implementation whose packages are installed, and seed."""
    from properties.campaign.targets import packages_of
    from properties.targets.published import ADAPTERS

    if strange := [one for one in only if one not in ADAPTERS]:
        raise ValueError(f"there is no published implementation {strange[0]!r}; the names are {', '.join(ADAPTERS)}")
    for name in only or ADAPTERS:
        if only or _installed(packages_of(f"published:{name}")):
            for seed in range(seeds):
                yield {"name": name, "profile": profile, "seed": seed}


def answer(question: Question, folder: Path) -> dict[str, Any]:
    """{trouble, statuses: {status: how many}, failed: [laws that failed and are not known]}; report.json is kept."""
    from properties.commands.conformance_table import run
    from properties.engine.known_file import PUBLISHED

    seed = question["seed"] or None  # the profile's own examples first
    found = run(question["name"], folder, known=PUBLISHED, profile=question["profile"], seed=seed)
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


def told(records: Sequence[Record], folder: Path) -> tuple[str, bool]:
    """A line for each; conformance.md is made from the reports."""
    from properties.commands.conformance_table import Run, page, read, versions
    from properties.engine.known_file import PUBLISHED, load
    from properties.guards.whole import write_whole
    from properties.report.standing import today
    from properties.targets.published import ADAPTERS

    runs, lines, bad = list[Run](), list[str](), False
    for one in records:
        name, answer = one["question"]["name"], one["answer"]
        found = read(name, Folder(folder).files(one["address"])) if not answer["trouble"] else Run(name, (), "")
        runs.append(found if not answer["trouble"] else Run(name, (), answer["trouble"]))
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
