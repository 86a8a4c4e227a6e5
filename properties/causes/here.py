"""Which single slip of the catalogue gives a failure at the very case at which it was found."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from properties.catalogue.deviations import CATALOGUE, HIDDEN
from properties.causes.agreement import belongs, resembles
from properties.causes.stages import BEFORE, stage_of
from properties.core.case import Case
from properties.core.family import mix_of
from properties.core.law import Law
from properties.core.trial import LawBroken
from properties.diagnosis.budget import Budget
from properties.diagnosis.circumstances import gradients
from properties.diagnosis.parts import Part, made, of_deviation
from properties.diagnosis.ties import apart, decided
from properties.diagnosis.view import Frame, Unanswered, View
from properties.engine.subject import Subject
from properties.guards.faults import HarnessError

SECONDS = 2.0
"""Of computing, for one search."""
_TIES = 3


def slips_at(
    law: Law, subject: Subject, case: Case, broken: LawBroken, beside: Sequence[Part], seconds: float = SECONDS
) -> list[Part]:
    """The slip that the failure belongs to, by itself or beside the parts that are known; empty where none is shown to.

    Where several are, they are ties: the first is named, and the others beside it.
    """
    if not mix_of(subject.implementation.dialect).known:  # there is no formula that a slip could change
        return []
    budget, declared = Budget(seconds), subject.implementation.dialect
    found: list[str] = []
    for part in _likely(law, subject, beside):
        if budget.spent or len(found) > _TIES:
            break
        for parts in ([part], [*beside, part]) if beside else ([part],):
            explaining = made(parts, declared)
            if explaining is None or not resembles(law, subject, case, broken, explaining):
                continue
            if belongs(law, subject, case, broken, explaining) == "shown" and not _refuted(subject, beside, part):
                found.append(str(part.deviation))
                break
    if not found:
        return []
    found = _settled(subject, beside, found) if len(found) > 1 else found
    first = of_deviation(found[0])
    return [
        Part(first.fields, first.deviation, None, first.stage, first.words, tuple(f"deviation {n}" for n in found[1:]))
    ]


def _refuted(subject: Subject, beside: Sequence[Part], part: Part) -> bool:
    """Whether the projection by itself pulls back as without a slip of the gradient: then it is another step of a block
    that gives such a gradient."""
    if part.stage != "gradient":
        return False
    declared = subject.implementation.dialect
    view = View(subject.implementation, Frame.of(subject.implementation, subject.dtype, subject.device.type))
    one, two = made([*beside, part], declared), made(beside, declared)
    probe = next((one for one in gradients(view.frame, seed=4) if one.of == "project"), None)
    if one is None or two is None or probe is None:
        return False
    with contextlib.suppress(Unanswered, HarnessError):
        return decided(view, one, two, probe, declared) == (False, True)
    return False


def _settled(subject: Subject, beside: Sequence[Part], names: Sequence[str]) -> list[str]:
    """What is left of slips that are alike at a case when a question is asked at which they are not; the first is not
    refuted by any of the others."""
    declared = subject.implementation.dialect
    view = View(subject.implementation, Frame.of(subject.implementation, subject.dtype, subject.device.type))
    first, *others = names
    kept: list[str] = []
    for other in others:
        one, two = (made([*beside, of_deviation(name)], declared) for name in (first, other))
        probe = apart(one, two, view.frame, declared, seed=4) if one and two else None
        stands = (True, True)
        if one and two and probe is not None:
            with contextlib.suppress(Unanswered, HarnessError):  # then it is a tie
                stands = decided(view, one, two, probe, declared)
        if stands == (False, True):
            first, kept = other, []
        elif stands[0] == stands[1]:
            kept.append(other)
    return [first, *kept]


def _likely(law: Law, subject: Subject, beside: Sequence[Part]) -> list[Part]:
    """Every slip that makes a difference for the subject and is not known, those of the law's own stage first."""
    known = {one.deviation for one in beside}
    found = [
        of_deviation(name)
        for name, deviation in (CATALOGUE | HIDDEN).items()
        if name not in known and subject.dtype in deviation.dtypes and deviation.applies(subject.implementation.dialect)
    ]
    own = stage_of(law)
    near = {own, *BEFORE.get(own, ())}
    return sorted(found, key=lambda part: part.stage not in near)
