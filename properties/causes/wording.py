"""How a cause is told: the key that it is known by, and its words."""

from __future__ import annotations

import re
from dataclasses import replace

import torch

from properties.causes.stages import stage_of
from properties.core.kinds import kind_of
from properties.core.law import Law
from properties.core.trial import LawBroken, TargetRaised
from properties.diagnosis.parts import Limit, Part
from properties.engine.subject import Subject
from properties.guards.faults import described, placed
from properties.guards.printable import message_of, name_of, printable
from properties.guards.traces import excerpt, met_in_ours, place_of
from properties.report.cause import TIED, Cause

DOES = {
    "value": "gives wrong values",
    "nan": "gives a NaN or an infinity",
    "exception": "raises",
    "contract": "breaks its contract",
    "memory": "keeps, shares or writes memory that it must not",
    "time": "does not answer",
    "randomness": "answers the same call differently",
}


def suspect_key(subject: Subject) -> tuple[str, str]:
    """One implementation on one device; float16 is apart, as its range is."""
    short = "float16" if subject.dtype == torch.float16 else ""
    return subject.implementation.name, f"{subject.device.type} {short}"


def part_key(subject: Subject, part: Part) -> str:
    return f"{subject.implementation.name}: {part.key}"


def exception_key(subject: Subject, broken: TargetRaised) -> str:
    place = "" if met_in_ours(broken.raised) else place_of(broken.raised)
    what = place or message_of(broken.raised, 80)
    return f"{subject.implementation.name}: {name_of(broken.raised)} at {what}"


def unsteady_key(subject: Subject) -> str:
    return f"{subject.implementation.name}: answers that change from call to call"


def part_cause(subject: Subject, part: Part, law: Law) -> Cause:
    """A part of an explanation, as the cause that a law was the first to show."""
    named = f" (deviation {part.deviation})" if part.deviation else ""
    return Cause(
        part_key(subject, part),
        subject.implementation.name,
        f"{part.words}{named}",
        part.explanation(),
        part.stage,
        notes=tuple(f"{TIED}{one}" for one in part.ties),
        first=law.id,
    )


_WRITES = re.compile("in-place operation|modified by an inplace operation|leaf variable has been moved", re.IGNORECASE)
"""What autograd says where somebody writes to what it needs, or to a leaf."""


def limit_cause(subject: Subject, limit: Limit) -> Cause:
    """An undeclared limit, with what declares it; where autograd refuses that something is written to, that."""
    advice = f"If that is meant, declare `{limit.declare}`."
    if limit.attribute == "differentiable" and _WRITES.search(limit.message):
        said = limit.message.rstrip(".")
        advice = (
            f"It writes to a tensor that it was given, or that the backward pass needs: {said}. Write to a tensor of "
            f"its own. If no gradients are meant at all, declare `{limit.declare}`."
        )
    return Cause(
        f"{subject.implementation.name}: {limit.declare}",
        subject.implementation.name,
        limit.described,
        stage="execution",
        kind="limit",
        notes=(printable(advice, 400),),
    )


def raised_cause(law: Law, subject: Subject, broken: TargetRaised) -> Cause:
    """An exception, with where in the target's code it came from."""
    said = printable(f"{name_of(broken.raised)}: {message_of(broken.raised)}".rstrip(": "), 200)
    return Cause(
        exception_key(subject, broken),
        subject.implementation.name,
        f"it raises {said}",
        stage=stage_of(law),
        kind=kind_of(broken, law),
        notes=tuple(excerpt(broken.raised).splitlines()),
        first=law.id,
    )


def contract_words(broken: LawBroken) -> str:
    """After a colon what is wrong where a contract is broken, which needs no other explanation; else nothing."""
    if broken.kind != "contract":
        return ""
    belongs = f": {broken.got} where {broken.exact} belongs" if broken.got and broken.exact else ""
    return printable(f": {broken.what}{belongs}", 240)


def unsteady_cause(law: Law, subject: Subject) -> Cause:
    """Answers that are not given again, which no known slip explains."""
    return Cause(
        unsteady_key(subject),
        subject.implementation.name,
        "the same call does not give the same again: calls race, or remember earlier ones",
        stage="execution",
        kind="randomness",
        notes=("Further calls with the same arguments differed by as much as the answer is wrong.",),
        first=law.id,
    )


def fault_of_ours(what: str, error: Exception) -> str:
    """What failed in our own code, in a sentence."""
    told = f"{what}, as that failed in our own code: {described(error)}{placed(error)}"
    return f"{told}. That says nothing of the implementation; please report it"


def noting(cause: Cause, note: str) -> Cause:
    """The cause with one more note, which is said once."""
    return cause if note in cause.notes else replace(cause, notes=(*cause.notes, note))
