"""Which single slip of the catalogue gives a failure at the very case at which it was found."""

from __future__ import annotations

from collections.abc import Sequence

from properties.catalogue.deviations import CATALOGUE, HIDDEN
from properties.causes.agreement import belongs
from properties.core.case import Case
from properties.core.law import Law
from properties.core.trial import LawBroken
from properties.diagnosis.budget import Budget
from properties.diagnosis.parts import Part, made, of_deviation
from properties.engine.subject import Subject

SECONDS = 2.0
"""Of computing, for one search."""


def slips_at(
    law: Law, subject: Subject, case: Case, broken: LawBroken, beside: Sequence[Part], seconds: float = SECONDS
) -> list[Part]:
    """The slip that the failure belongs to, by itself or beside the parts that are known; empty where none is shown to.

    Where several are, they are ties: the first is named, and the others beside it.
    """
    budget, declared = Budget(seconds), subject.implementation.dialect
    found: list[str] = []
    known = {one.deviation for one in beside}
    for name, deviation in (CATALOGUE | HIDDEN).items():
        if budget.spent or len(found) > 3:
            break
        if name in known or subject.dtype not in deviation.dtypes or not deviation.applies(declared):
            continue
        part = of_deviation(name)
        for parts in ([part], [*beside, part]) if beside else ([part],):
            explaining = made(parts, declared)
            if explaining is not None and belongs(law, subject, case, broken, explaining) == "shown":
                found.append(name)
                break
    if not found:
        return []
    first = of_deviation(found[0])
    return [
        Part(first.fields, first.deviation, None, first.stage, first.words, tuple(f"deviation {n}" for n in found[1:]))
    ]
