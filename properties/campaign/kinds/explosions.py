"""The smallest network that explodes: a cell is one question of `mhc-properties explode`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from properties.campaign.cells import Question
from properties.campaign.folder import Record
from properties.campaign.kind import Kind

LIST: tuple[dict[str, Any], ...] = (
    {"family": "residual", "branch_bound": "0.1"},
    {"family": "hc", "identity_bound": "0.1"},
    {"family": "hc", "entry_bound": "0.5"},
    {"family": "hc:dynamic", "identity_bound": "0.1"},
    {"family": "block:linear", "branch_bound": "0.5"},
    {"family": "block:linear:pre", "branch_bound": "0.5"},
    {"family": "block:gated:pre"},
    {"family": "block:attention:pre"},
    {"family": "mhc", "gain": "forward"},
    {"family": "mhc", "gain": "backward"},
)
"""What is asked where no family is named."""


def questions(
    family: Sequence[str] = (),
    threshold: str | None = None,
    gain: str | None = None,
    seeds: int = 1,
    budget: float = 60.0,
) -> Iterator[Question]:
    """One for every family (of `LIST`, or those that are named) and seed.

    Raises:
        ValueError: a family that is none, or an option that it does not take.
    """
    from properties.explosion.questions.families import ask
    from properties.targets.target import TargetError, resolve

    for one in [{"family": name} for name in family] or LIST:
        for seed in range(seeds):
            question: Question = {"threshold": threshold or "100", **one, "seed": seed, "budget": budget}
            question |= {"gain": gain} if gain else {}
            try:
                ask(**question)
                if one["family"].startswith("target:"):
                    resolve(one["family"].removeprefix("target:"))
            except (TargetError, TypeError) as error:
                raise ValueError(str(error)) from None
            source = _source(one["family"])
            yield question | ({"source": source} if source else {})


def _source(family: str) -> str | None:
    """The digest of the file that a family is about; None where it is about none."""
    from properties.campaign.targets import source_of

    kind, _, target = family.partition(":")
    return source_of(target) if kind in ("target", "model") else None


def answer(question: Question, folder: Path) -> dict[str, Any]:
    """The object of `explode --json`, the explosion beside it as a file that replays.

    Raises:
        ValueError: the target's file has been changed since the question was asked.
    """
    from properties.explosion import find_minimal
    from properties.explosion.files import save

    if question.get("source") != _source(question["family"]):
        raise ValueError(f"{question['family']}: the file is another one than when this campaign was asked for")
    options = {name: value for name, value in question.items() if name not in ("family", "threshold", "source")}
    found = find_minimal(question["family"], question["threshold"], **options)
    if found.found:
        save(found, folder / "explosion.safetensors")
    return {**found.to_json(), "seconds": None, "file": None, "text": found.to_text()}


def cost(question: Question) -> float:
    """At most its budget."""
    return question["budget"] / 4


def packages(question: Question) -> tuple[str, ...]:
    """Families are our own; a target may be somebody else's."""
    from properties.campaign.targets import packages_of

    return packages_of(question["family"].removeprefix("target:"))


def told(records: Sequence[Record], folder: Path) -> tuple[str, bool]:
    """Every answer in the words of the command."""
    return "\n".join(one["answer"]["text"].splitlines()[0] for one in records), False


KIND = Kind(
    frozenset({"family", "threshold", "gain", "seeds", "budget"}), questions, answer, told, cost, packages=packages
)
