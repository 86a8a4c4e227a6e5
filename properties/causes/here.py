"""Which single slip of the catalogue gives a failure at the very case at which it was found."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from torch import Tensor

from mhc_ref import Dialect
from properties.catalogue.deviations import CATALOGUE, HIDDEN
from properties.causes.agreement import belongs, resembles
from properties.causes.stages import BEFORE, stage_of
from properties.core.case import Case
from properties.core.deviant import Deviant
from properties.core.family import mix_of
from properties.core.law import Law
from properties.core.trial import LawBroken
from properties.diagnosis.budget import Budget
from properties.diagnosis.parts import Part, made, of_deviation
from properties.diagnosis.ties import apart, decided
from properties.diagnosis.view import Frame, Unanswered, View
from properties.engine.subject import Subject
from properties.guards.faults import HarnessError

SECONDS = 6.0
"""Of computing, for one search: every slip there is at an ordinary case takes 1.1 on a quiet core, several times as
much where cores share their caches, and what ends early leaves a failure unexplained."""
_TIES = 3
_SLIP = re.compile(r"deviation ([^\s,]+)(?: \(.*\))?$")
"""A tie that is one slip of the catalogue, with the question that would decide it or without one."""
PLAIN = 9
"""Tokens and channels of the cases that the questions of an exam are like."""
DEEP = 2
"""Their layers."""


def slips_at(
    law: Law, subject: Subject, case: Case, broken: LawBroken, beside: Sequence[Part], seconds: float = SECONDS
) -> list[Part]:
    """The slip that the failure belongs to, by itself or beside the parts that are known; empty where none is shown to.

    Where several are, they are ties: the first is named, and the others beside it. Where the declared implementation
    itself fails alike, because the law asks for a promise that it does not make, every slip that makes no difference
    here would do: then only a slip that makes the promise explains anything.
    """
    if not mix_of(subject.implementation.dialect).known:  # there is no formula that a slip could change
        return []
    budget, declared = Budget(seconds), subject.implementation.dialect
    found: list[str] = []
    alone: bool | None = None
    for part in _likely(law, subject, beside):
        promising = _promises(law, part, declared)  # a compilation takes all of the time that there is
        if len(found) > _TIES or (budget.spent and not promising):
            break
        if not promising and alone is None:
            alone = _fails_alike(law, subject, case, broken, beside)
        if not promising and alone:
            break
        for parts in ([part], [*beside, part]) if beside else ([part],):
            explaining = made(parts, declared)
            if explaining is None or not (promising or resembles(law, subject, case, broken, explaining)):
                continue
            if belongs(law, subject, case, broken, explaining) == "shown" and not _refuted(subject, case, beside, part):
                found.append(str(part.deviation))
                break
    if not found:
        return []
    found = _settled(subject, beside, found) if len(found) > 1 else found
    return [replace(of_deviation(found[0]), ties=tuple(f"deviation {one}" for one in found[1:]))]


def narrowed(
    law: Law, subject: Subject, case: Case, broken: LawBroken, beside: Sequence[Part], part: Part
) -> Part | None:
    """What is left of a part and its ties at another failure that is one of theirs: those of them that it does not
    refute. None where it leaves them as they are: it refutes none, or all.

    A tie that is no single slip of the catalogue is not asked, and stays.
    """
    slips = {tie: found[1] for tie in part.ties if (found := _SLIP.match(tie)) and found[1] in CATALOGUE | HIDDEN}
    if not slips:
        return None

    def standing(one: Part) -> Literal["shown", "not told apart"] | None:
        for parts in ([one], [*beside, one]) if beside else ([one],):
            explaining = made(parts, subject.implementation.dialect)
            how = explaining and belongs(law, subject, case, broken, explaining)
            if how:
                return how
        return None

    own, others = standing(part), {tie: standing(of_deviation(name)) for tie, name in slips.items()}
    if sum(how is not None for how in (own, *others.values())) > 1:  # a question may refute some of these
        own = None if _refuted(subject, case, beside, part) else own
        for tie, how in others.items():
            refuted = how is not None and _refuted(subject, case, beside, of_deviation(slips[tie]))
            others[tie] = None if refuted else how
    if "shown" not in (own, *others.values()):
        return None
    kept = tuple(tie for tie in part.ties if others.get(tie, True))
    if own is not None:
        return replace(part, ties=kept) if kept != part.ties else None
    first = next(tie for tie in kept if others.get(tie) == "shown")
    return replace(of_deviation(slips[first]), ties=tuple(tie for tie in kept if tie != first))


def _rare(law: Law) -> list[str]:
    """What a law asks to be promised, and an implementation without a slip does not promise."""
    return [one for one in law.declared if not getattr(Deviant, one)]


def _promises(law: Law, part: Part, declared: Dialect) -> bool:
    """Whether a slip promises what a law asks to be promised and few promise."""
    rare = _rare(law)
    explaining = made([part], declared) if rare else None
    return explaining is not None and any(getattr(explaining, one) for one in rare)


def _fails_alike(law: Law, subject: Subject, case: Case, broken: LawBroken, beside: Sequence[Part]) -> bool:
    """Whether an implementation without a slip fails alike, of which the law asks a promise that it does not make."""
    without = made(beside, subject.implementation.dialect)
    if without is None or not _rare(law) or not resembles(law, subject, case, broken, without):
        return False
    return belongs(law, subject, case, broken, without) == "shown"


def plain(case: Case) -> bool:
    """Whether a case is like the questions of an exam. One of many tokens, channels or layers may fail for its size,
    be it of states [T, n, C], of streams [T, C], or of logits [T, ...]."""
    values = dict(case.items())
    given = [one for name in ("x", "h", "logits") if isinstance(one := values.get(name), Tensor)]
    wide = (one.shape[-1] for name, one in values.items() if name in ("x", "h") and isinstance(one, Tensor))
    few = all(one.shape[0] <= PLAIN for one in given if one.ndim) and all(size <= PLAIN for size in wide)
    return few and len(values.get("branches", ())) <= DEEP


def _refuted(subject: Subject, case: Case, beside: Sequence[Part], part: Part) -> bool:
    """Whether the target answers otherwise than a slip would have it where that makes a difference: at a plain case
    many slips come to the same."""
    if not plain(case):
        return False
    declared = subject.implementation.dialect
    view = View(subject.implementation, Frame.of(subject.implementation, subject.dtype, subject.device.type))
    one, two = made([*beside, part], declared), made(beside, declared)
    with contextlib.suppress(Unanswered, HarnessError):
        if one is None or two is None or (probe := apart(one, two, view.frame, declared, seed=4)) is None:
            return False
        return not decided(view, one, two, probe, declared)[0]
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
    """Every slip that makes a difference for the subject and is not known: first those that promise what the law asks
    to be promised and few promise, then those of the law's own stage, of these those of its family, and then those that
    no exam has asked for: what shows in ordinary calls has been looked for before."""
    known, every = {one.deviation for one in beside}, CATALOGUE | HIDDEN
    declared = subject.implementation.dialect
    found = [
        of_deviation(name)
        for name, deviation in every.items()
        if name not in known and subject.dtype in deviation.dtypes and deviation.applies(declared)
    ]
    own = stage_of(law)
    near = {own, *BEFORE.get(own, ()), *(["execution"] if law.tunes else [])}

    def order(part: Part) -> tuple[bool, ...]:
        kind = every[str(part.deviation)].kind
        ordinary = not _promises(law, part, declared)
        return ordinary, part.stage not in near, kind != law.family, part.deviation not in HIDDEN

    return sorted(found, key=order)
