"""Fuzzing that goes where something new appears: laws on targets, round after round, with fresh seeds.

A round is a search of one law. Where it saw something that no round of that law on that target had seen
(`properties.campaign.kinds.laws`: how near a stage came to its bound, which sizes were visited, a failure), two rounds
follow it; where it saw nothing new, one follows with twice the examples; after `QUIET` such rounds in a row that law is
left. So a campaign with a budget spends it on laws that still show something, and one without a budget ends.

What one round finds helps others, by the examples that showed something new or failed
(`properties.engine.sharing.Drawn`). They stand in its answer, and in every question that begins with them:

* later rounds of that law on that target begin with their neighbours, of which the beginning is the same and the rest
  drawn anew;
* the other targets of the campaign are asked that law at once at the examples themselves (a question without
  `examples`), where the round failed, and where it saw something new after the first: first rounds draw alike for all
  targets. Nothing follows these questions, so that they end.
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
KEPT = 16
"""Examples of earlier rounds that a round begins with, the newest."""


def questions(examples: int = 16, **options: Any) -> Iterator[Question]:
    """The first round of every law."""
    for one in laws.questions(**options):
        del one["profile"]
        yield {**one, "examples": examples, "round": 0, "quiet": 0, "seen": [], "given": []}


def answer(question: Question, folder: Path) -> dict[str, Any]:
    """As `laws.searched` says, with `new`: what no earlier round had seen; `showing` has examples of these alone."""
    from properties.engine.sharing import Drawn
    from properties.engine.subject import Profile

    given = [Drawn.from_json(one) for one in question["given"]]
    near = [one.neighbour(question["seed"]) for one in given]
    shared = tuple(near if question["examples"] else given + near)
    found = laws.searched(question, folder, Profile(question["examples"], sizes=2, shared=shared))
    new = sorted(set(found["behaviour"]) - set(question["seen"]))
    showing = {words: one for words, one in found["showing"].items() if words in new or words.startswith("failed")}
    return {**found, "new": new, "showing": showing}


def follow(question: Question, answer: dict[str, Any], asked: Sequence[Question]) -> list[Question]:
    """The same law at what was found, for other targets; then further rounds on this one: two after something new, one
    larger round after nothing new, none after `QUIET` of these, nor where the law does not apply or has failed: its
    counterexample is what was looked for."""
    if not question["examples"]:
        return []
    found = _each(answer.get("showing", {}).values())
    telling = answer["status"] == "failed" or (question["round"] and answer["new"])
    others = _of_others(question, found, asked) if telling and found else []
    if answer["status"] != "passed":
        return others
    seen = sorted({*question["seen"], *answer["behaviour"]})
    given = _each([*question.get("given", []), *found])[-KEPT:]
    number, seed, examples = question["round"] + 1, question["seed"], question["examples"]
    if answer["new"]:
        rounds = [(2 * seed + 1, examples, 0), (2 * seed + 2, examples, 0)]
    elif question["quiet"] + 1 < QUIET:
        rounds = [(2 * seed + 1, min(2 * examples, MOST), question["quiet"] + 1)]
    else:
        return others
    return others + [
        {**question, "round": number, "seed": fresh, "examples": count, "quiet": quiet, "seen": seen, "given": given}
        for fresh, count, quiet in rounds
    ]


def _of_others(question: Question, found: list[Any], asked: Sequence[Question]) -> list[Question]:
    """The first questions about the same law in the same dtype and place, at these examples alone."""
    same = ("law", "dtype", "device")
    firsts = [
        one
        for one in asked
        if one["round"] == 0 and one["examples"] and all(one.get(name) == question.get(name) for name in same)
    ]
    where = {(one["target"], one.get("dialect")): one for one in firsts}
    where.pop((question["target"], question.get("dialect")), None)
    told = {"round": question["round"], "seed": question["seed"], "examples": 0, "given": found[-KEPT:]}
    return [{**one, **told} for one in where.values()]


def _each(examples: Any) -> list[Any]:
    """Each example once, where it came first."""
    return list({(*one["streams"], one["choices"]): one for one in examples}.values())


def urgent(question: Question) -> bool:
    """What was found is put to others at once; it takes a few examples."""
    return not question["examples"]


def cost(question: Question) -> float:
    """By its examples."""
    return 0.05 * (question["examples"] + len(question["given"]))


def told(records: Sequence[Record], folder: Path) -> tuple[str, bool]:
    """The verdicts; and of every target how many rounds, examples and behaviours there were."""
    lines: list[str] = []
    for target in sorted({one["question"]["target"] for one in records}):
        here = [one for one in records if one["question"]["target"] == target]
        seen = {(one["question"]["law"], words) for one in here for words in one["answer"]["behaviour"]}
        examples = sum(one["answer"]["examples"] for one in here)
        others = [one for one in here if not one["question"]["examples"]]
        shared = f", {len(others)} of them at what other targets had shown" if others else ""
        lines.append(f"fuzz: {target}: {len(here)} rounds{shared}, {examples} examples, {len(seen)} behaviours")
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
    urgent=urgent,
)
