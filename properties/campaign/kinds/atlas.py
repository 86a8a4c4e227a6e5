"""The atlas of explosions: a cell is one family at one number of streams and one deviation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from properties.campaign.cells import Question
from properties.campaign.folder import Record
from properties.campaign.kind import Kind


def questions(
    threshold: str | None = None, max_streams: int = 4, seeds: int = 1, budget: float = 300.0
) -> Iterator[Question]:
    """One for every point and seed."""
    from properties.explosion.atlas import DEVIATIONS, places

    for family, n, deviation in places(max_streams, sorted(map(Fraction, DEVIATIONS))):
        for seed in range(seeds):
            yield {
                **{"family": family, "streams": n, "deviation": None if deviation is None else str(deviation)},
                **{"threshold": threshold or "100", "seed": seed, "budget": budget},
            }


def answer(question: Question, folder: Path) -> dict[str, Any]:
    """{frontier, searched, impossible, complete}: by the closed form, by search, the proof that no depth is enough."""
    from properties.explosion.atlas import point
    from properties.explosion.searches.hypothesise import Clock

    deviation = question["deviation"]
    found, complete = point(
        *(question["family"], question["streams"], None if deviation is None else Fraction(deviation)),
        *(Fraction(question["threshold"]), Clock(question["budget"])),
        seed=question["seed"],
    )
    if found is None:
        return {"frontier": None, "searched": None, "impossible": "", "complete": complete}
    return {
        **{"frontier": found.frontier, "searched": found.searched},
        **{"impossible": found.impossible, "complete": complete},
    }


def cost(question: Question) -> float:
    """Small deviations need deep stacks."""
    return (
        0.2 if question["deviation"] is None else min(question["budget"], 0.05 / float(Fraction(question["deviation"])))
    )


def told(records: Sequence[Record], folder: Path) -> tuple[str, bool]:
    """The table of `mhc-properties atlas`, once for every threshold."""
    from properties.explosion.atlas import DEEPEST, Atlas, Point

    lines: list[str] = []
    agree = True
    for threshold in sorted({one["question"]["threshold"] for one in records}, key=Fraction):
        here = [one for one in records if one["question"]["threshold"] == threshold]
        points = tuple(
            Point(
                *(asked["family"], asked["streams"]),
                None if asked["deviation"] is None else Fraction(asked["deviation"]),
                *(said["frontier"], said["searched"], said["impossible"]),
            )
            for asked, said in _placed(here)
        )
        complete = all(one["answer"]["complete"] for one in here)
        made = Atlas(Fraction(threshold), DEEPEST, points, complete, sum(one["run"]["seconds"] for one in here))
        agree = agree and made.agree
        lines.append(made.to_text())
    return "\n".join(lines), not agree


def _placed(records: Sequence[Record]) -> Iterator[tuple[Question, dict[str, Any]]]:
    """Questions and answers in the order of the atlas; of several seeds the first."""
    from properties.explosion.atlas import FAMILIES

    def place(one: Record) -> tuple[int, int, Fraction, int]:
        asked = one["question"]
        return (
            *(FAMILIES.index(asked["family"]), asked["streams"]),
            *(Fraction(asked["deviation"] or 0), asked["seed"]),
        )

    seen: set[tuple[Any, ...]] = set()
    for one in sorted(records, key=place):
        if place(one)[:3] not in seen:
            seen.add(place(one)[:3])
            yield one["question"], one["answer"]


KIND = Kind(frozenset({"threshold", "max_streams", "seeds", "budget"}), questions, answer, told, cost)
