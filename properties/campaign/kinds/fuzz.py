"""Fuzzing that goes where something new appears: laws on targets, round after round, with fresh seeds.

A round is a search of one law without shrinking what was never seen. Where it saw something that no round of that law
on that target had seen (`properties.campaign.kinds.laws`: how near a stage came to its bound, which sizes were visited,
a failure), two rounds follow it; where it saw nothing new, one follows with twice the examples; after `QUIET` such
rounds in a row that law is left. So a campaign with a budget spends it on laws that still show something, and one
without a budget ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from properties.campaign.cells import Question
from properties.campaign.folder import Record
from properties.campaign.kind import Kind
from properties.campaign.kinds import laws

QUIET = 3
MOST = 4096
"""Examples of a round."""


def questions(examples: int = 16, **options: Any) -> Iterator[Question]:
    """The first round of every law."""
    for one in laws.questions(**options):
        del one["profile"]
        yield {**one, "examples": examples, "round": 0, "quiet": 0, "seen": []}


def answer(question: Question, folder: Path) -> dict[str, Any]:
    """As `laws.searched` says, with `new`: what no earlier round had seen."""
    from properties.engine.subject import Profile

    found = laws.searched(question, folder, Profile(question["examples"], sizes=2))
    return {**found, "new": sorted(set(found["behaviour"]) - set(question["seen"]))}


def follow(question: Question, answer: dict[str, Any]) -> list[Question]:
    """Two rounds after something new, one larger round after nothing new, none after `QUIET` of these, nor where the
    law does not apply or has failed: its counterexample is what was looked for."""
    if answer["status"] != "passed":
        return []
    seen = sorted({*question["seen"], *answer["behaviour"]})
    number, seed, examples = question["round"] + 1, question["seed"], question["examples"]
    if answer["new"]:
        rounds = [(2 * seed + 1, examples, 0), (2 * seed + 2, examples, 0)]
    elif question["quiet"] + 1 < QUIET:
        rounds = [(2 * seed + 1, min(2 * examples, MOST), question["quiet"] + 1)]
    else:
        return []
    return [
        {**question, "round": number, "seed": fresh, "examples": count, "quiet": quiet, "seen": seen}
        for fresh, count, quiet in rounds
    ]


def cost(question: Question) -> float:
    """By its examples."""
    return 0.05 * question["examples"]


def told(records: Sequence[Record], folder: Path) -> tuple[str, bool]:
    """The verdicts; and of every target how many rounds, examples and behaviours there were."""
    lines: list[str] = []
    for target in sorted({one["question"]["target"] for one in records}):
        here = [one for one in records if one["question"]["target"] == target]
        seen = {(one["question"]["law"], words) for one in here for words in one["answer"]["behaviour"]}
        examples = sum(one["answer"]["examples"] for one in here)
        lines.append(f"fuzz: {target}: {len(here)} rounds, {examples} examples, {len(seen)} behaviours")
    text, bad = laws.told(records, folder)
    return "\n".join([*lines, text]), bad


KIND = Kind(
    frozenset({"impl", "law", "dtype", "dialect", "examples", "device"}),
    questions,
    answer,
    told,
    cost,
    packages=laws.packages,
    follow=follow,
)
