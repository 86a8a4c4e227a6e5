"""A cause: one thing that is wrong, and the failures that it explains, as a run reports it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from properties.report.report import Line

KINDS = ("value", "nan", "exception", "contract", "memory", "time", "randomness", "limit")
"""What a failure is like."""

TIED = "as well explained by "
"""How a note begins that names another explanation, which no input has refuted."""


@dataclasses.dataclass(frozen=True)
class Cause:
    """One thing that is wrong with an implementation; plain data, so that it travels between processes.

    Attributes:
        key: what tells it from every other cause of the run, the same in every process.
        implementation: the name of the implementation.
        summary: one clause, as in "h_res is applied transposed".
        explanation: {fields, deviation, measured}; None where nothing explains it.
        stage: where it acts first.
        kind: what its failures are like, one of `KINDS`.
        where: the rule of the sizes at which it happens, as in "36 <= T <= 64"; None where none is known, and "" where
            none holds for all failures that are known by now.
        notes: what else there is to say, a line each: ties, what to declare, the target's own lines.
        first: the law whose failure was explained first.
    """

    key: str
    implementation: str
    summary: str
    explanation: dict[str, Any] | None = None
    stage: str = ""
    kind: str = "value"
    where: str | None = None
    notes: tuple[str, ...] = ()
    first: str = ""

    def to_json(self) -> dict[str, Any]:
        """As a plain dictionary."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Cause:
        """Back from `to_json`."""
        fields: dict[str, Any] = {**data, "notes": tuple(data.get("notes", ()))}
        return cls(**fields)


def wrong(where: str) -> str:
    """A rule in a sentence, as in "wrong for 36 <= T <= 64", "wrong where C % 8 == 0", "wrong with gradients"."""
    if where.startswith(("for ", "with")):
        return f"wrong {where}"
    return f"wrong {'where' if '%' in where else 'for'} {where}"


def joined(one: Cause | None, other: Cause) -> Cause:
    """One cause, met twice: as it was at first, or with fewer explanations beside the one that is named where some have
    been refuted since; with the sizes that are known by now."""
    if one is None:
        return other
    where = one.where if other.where is None else other.where
    told = other if _tied(other) < _tied(one) else one
    return dataclasses.replace(told, where=where, first=one.first)


def _tied(cause: Cause) -> int:
    return sum(note.startswith(TIED) for note in cause.notes)


def numbered(causes: Iterable[Cause]) -> dict[str, str]:
    """The id of every cause by its key: "c1", "c2", ... in the order in which they came."""
    return {one.key: f"c{number}" for number, one in enumerate(causes, 1)}


def of_cause(cause: Cause, lines: Iterable[Line]) -> list[Line]:
    """The failures that belong to a cause, the one with the most readable counterexample first."""
    found = [line for line in lines if cause.key in line.causes and line.status == "failed"]
    return sorted(found, key=lambda line: _order(line, cause.key))


def _order(line: Line, cause: str) -> tuple[bool, bool, bool, bool, float]:
    """With a file first, then of this cause alone and shown to be of it, then by how readable it is."""
    untold = line.how(cause) == "not told apart"
    return line.counterexample is None, untold, len(line.causes) > 1, line.readable is None, line.readable or 0.0


def tally(cause: Cause, failed: Iterable[Line]) -> tuple[int, int]:
    """How many failures of a cause are shown to belong, that which was explained among them, and how many are not told
    apart. Of workers each has a failure of its own that it met first: where nothing explains them, one is not told
    from the others, but for an exception, which has its place."""
    hows = [line.how(cause.key) for line in failed]
    first, shown, untold = (hows.count(how) for how in ("first", "shown", "not told apart"))
    alike = cause.explanation is None and cause.kind not in ("exception", "limit")
    alone = min(first, 1) if alike else first
    return alone + shown, untold + first - alone


def entries(causes: Sequence[Cause], lines: Sequence[Line]) -> list[dict[str, Any]]:
    """The causes as report.json has them: {id, summary, explanation, stage, kind, where, laws, implementation,
    counterexample, shown, untold, notes}: of so many `laws` that failed, so many were `shown` to belong, that which was
    explained among them, and so many were not told apart."""
    ids = numbered(causes)
    found: list[dict[str, Any]] = []
    for one in causes:
        failed = of_cause(one, lines)
        shown, untold = tally(one, failed)
        found.append(
            {
                "id": ids[one.key],
                "summary": one.summary,
                "explanation": one.explanation,
                "stage": one.stage,
                "kind": one.kind,
                "where": one.where or None,
                "laws": len(failed),
                "implementation": one.implementation,
                "counterexample": failed[0].counterexample if failed else None,
                "shown": shown,
                "untold": untold,
                "notes": list(one.notes),
            }
        )
    return found
