"""Critical learning rates: a cell is one knob of a base run, turned to one value, for one seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from properties.campaign.cells import Question
from properties.campaign.folder import Record
from properties.campaign.kind import Kind

_BASE = {"max_depth": 4, "max_width": 8, "max_tokens": 32}


def questions(
    family: Sequence[str] = (),
    threshold: str | None = None,
    gain: str | None = None,
    seeds: int = 3,
    only: Sequence[str] = (),
) -> Iterator[Question]:
    """One for every family, knob (all, or `only`), value and seed."""
    from properties.explosion.critical import turned

    for one in family or ("train:hc",):
        options = {**_BASE, **({"gain": gain} if gain else {}), "seeds": 1}
        for knob, value in turned(one, threshold or "10", **options):
            if not only or knob in ("base", *only):
                for seed in range(seeds):
                    yield {
                        **{"family": one, "knob": knob, "value": value, "seed": seed},
                        **{"threshold": threshold or "10", "options": options},
                    }


def answer(question: Question, folder: Path) -> dict[str, Any]:
    """{rate, proof, depth}: the first rate of the grid at which the seed crosses; null where none does."""
    from properties.explosion.critical import critical_row

    options = {**question["options"], "seed": question["seed"]}
    row = critical_row(question["family"], question["threshold"], question["knob"], question["value"], **options)
    return {"rate": row.rates[0], "proof": row.proof, "depth": row.depth}


def cost(question: Question) -> float:
    """Half a minute of one core."""
    return 30.0


def told(records: Sequence[Record], folder: Path) -> tuple[str, bool]:
    """A row for every knob and value: the median of the seeds, and the spread."""
    from properties.explosion.critical import Row, cell

    rows: dict[tuple[str, str, str], list[Record]] = {}
    for one in records:
        asked = one["question"]
        rows.setdefault((asked["family"], asked["knob"], asked["value"]), []).append(one)
    lines: list[str] = []
    for (family, knob, value), found in sorted(rows.items(), key=lambda one: (one[0][0], one[0][1] != "base", one[0])):
        ordered = sorted(found, key=lambda one: one["question"]["seed"])
        first = ordered[0]["answer"]
        row = Row(knob, value, first["depth"], tuple(one["answer"]["rate"] for one in ordered), first["proof"])
        lines.append(f"training: {family:<12} {knob:<17} {value:<24} {cell(row, 1.0)}")
    return "\n".join(lines), False


KIND = Kind(frozenset({"family", "threshold", "gain", "seeds", "only"}), questions, answer, told, cost)
