"""What is wrong with an implementation, taken apart: slips, undeclared limits, and what nothing explains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from mhc_ref import Dialect
from properties.catalogue.deviations import CATALOGUE, HIDDEN, Deviant
from properties.core.implementation import Implementation
from properties.diagnosis.acting import stage_of_fields, stage_of_slip
from properties.diagnosis.composing import compose, remembers
from properties.diagnosis.diagnose import identify
from properties.diagnosis.findings import joined
from properties.diagnosis.identification import Identification, named_changes
from properties.diagnosis.limits import Limit as Limit
from properties.diagnosis.measured import Measured
from properties.diagnosis.words import difference_in_words


@dataclass(frozen=True)
class Part:
    """One independent slip: fields that differ from the declared dialect, a named deviation, or a measured number.

    Attributes:
        fields: field -> the value that is computed.
        deviation: the name of a deviation of the catalogue; None where it is none.
        number: a measured slip, see `Measured.to_json`; None where it is none.
        stage: where it acts first.
        words: one clause, as in "h_res is applied untransposed".
        ties: other explanations that fit as well.
        told_as: the key under which it has been told, where that was of an explanation refuted since; "" otherwise.
    """

    fields: dict[str, Any] = field(default_factory=lambda: {})
    deviation: str | None = None
    number: dict[str, Any] | None = None
    stage: str = ""
    words: str = ""
    ties: tuple[str, ...] = ()
    told_as: str = ""

    @property
    def key(self) -> str:
        """What tells it from every other part, the same in every process of a run."""
        if self.told_as:
            return self.told_as
        if self.deviation is not None:
            return f"deviation {self.deviation}"
        if self.number is not None:
            return f"{self.number['name']} = {self.number['form'] or format(self.number['value'], '.6g')}"
        return ", ".join(f"{name} = {value!r}" for name, value in sorted(self.fields.items()))

    @property
    def measured(self) -> Measured | None:
        """The measured slip; None where it is none."""
        return None if self.number is None else Measured.from_json(self.number)

    def explanation(self) -> dict[str, Any]:
        """As in a report: {fields, deviation, measured}."""
        measured = {self.number["name"]: self.number["value"]} if self.number else None
        return {"fields": self.fields, "deviation": self.deviation, "measured": measured}


@dataclass(frozen=True)
class Account:
    """What the exam of a diagnosis says of one implementation.

    Attributes:
        parts: independent slips, which together give every answer that something explains.
        limits: what it refuses though its declaration accepts it.
        unexplained: (stage, kind) of what nothing explains; kinds are those of `properties.core.kinds`.
        notes: what else there is to say, a line each: the next best explanation, what would settle a question.
        ratio: error / bound of the explanation on fresh questions.
        calls: how often the implementation was called.
        none: why there is no account, where there is none.
    """

    parts: tuple[Part, ...] = ()
    limits: tuple[Limit, ...] = ()
    unexplained: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    ratio: float = 0.0
    calls: int = 0
    none: str = ""

    def to_json(self) -> dict[str, Any]:
        """As plain data, which another process can read."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Account:
        """Back from `to_json`."""

        def part(one: dict[str, Any]) -> Part:
            fields: dict[str, Any] = {**one, "ties": tuple(one["ties"])}
            return Part(**fields)

        fields: dict[str, Any] = {
            **data,
            "parts": tuple(part(one) for one in data["parts"]),
            "limits": tuple(Limit(**one) for one in data["limits"]),
            "unexplained": tuple((stage, kind) for stage, kind in data["unexplained"]),
            "notes": tuple(data["notes"]),
        }
        return cls(**fields)


def account_of(
    implementation: Implementation, *, dtype: torch.dtype | None = None, device: str = "cpu", seconds: float = 4.0
) -> Account:
    """What is wrong with an implementation.

    Arguments:
        dtype: of the states; its finest if not given.
        device: where it computes.
        seconds: of computing, after which the search for slips ends.

    Raises:
        NoVerdict, HarnessError: as `identify`.
    """
    found = identify(implementation, dtype=dtype, device=device, seconds=seconds, hidden=0, brief=True)
    return of_identification(found, implementation.dialect)


def of_identification(found: Identification, declared: Dialect) -> Account:
    """The account that an identification amounts to."""
    limits = tuple(one for one in found.limits if one.attribute)  # other exceptions are told apart by their place
    return Account(tuple(_parts(found, declared)), limits, found.bad, _notes(found), found.residual_ratio, found.calls)


def _notes(found: Identification) -> tuple[str, ...]:
    notes = [found.next_best()] if found.next_best() else []
    if not found.exhausted:
        notes.append("the search for slips ran out of time; `mhc-properties identify --seconds 60` gives it more")
    return tuple(notes)


def _parts(found: Identification, declared: Dialect) -> Iterator[Part]:
    ties = tuple(str(one) for one in found.ties)
    changes = [group for group, _ in named_changes(declared, found.differs)]
    told = {name for _, names in named_changes(declared, found.differs) for name in names}
    for group, same in named_changes(declared, found.differs):
        name = next((one for one in found.deviations if one in same), same[0] if same else None)
        words = ", ".join(difference_in_words({one: found.differs[one] for one in group}))
        if name is not None and len(changes) == 1:
            yield replace(of_deviation(name), ties=ties)
        elif name is not None:
            yield replace(of_deviation(name), fields=group, words=words, ties=ties)
        else:
            yield Part(group, stage=stage_of_fields(group), words=words, ties=ties)
        ties = ()
    unsteady = any(kind == "randomness" for _, kind in found.bad)
    for name in found.deviations:
        made_of_it = compose((name,), declared) if unsteady else None
        if made_of_it is not None and remembers(made_of_it):
            continue  # what answers differently in every call seems to remember earlier ones
        if name not in told:
            yield replace(of_deviation(name), ties=ties)
            ties = ()
    for measured in found.measured:
        yield Part(number=measured.to_json(), stage=measured.kind.stage, words=measured.words(), ties=ties)
        ties = ()


def of_deviation(name: str) -> Part:
    """A named deviation as a part."""
    slip = (CATALOGUE | HIDDEN)[name]
    words = slip.slip.rstrip(".")
    return Part(deviation=name, stage=stage_of_slip(name), words=words[:1].lower() + words[1:])


def made(parts: Sequence[Part], declared: Dialect) -> Deviant | None:
    """The explaining implementation: the reference with these slips, declaring what the target declares.

    None where they make none together.
    """
    values = {name: value for one in parts for name, value in one.fields.items()}
    names = tuple(one.deviation for one in parts if one.deviation is not None and not one.fields)
    numbers = [one.measured for one in parts if one.measured is not None]
    computed = joined(declared, values)
    try:
        found = compose(names, computed, *numbers) if names or numbers else Deviant(computed, "explanation")
    except ValueError:
        return None
    if found is None:
        return None
    found.dialect = declared
    found.change_after(lambda dialect: joined(dialect, values))
    return found
