"""The questions of an exam that a target refuses: an undeclared limit, which is found out, or an exception of its own.

A question that raises makes every explanation impossible, as nothing else raises there. So the exam is asked again
within the limits that are found, and what raises all the same is set aside and told.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mhc_ref import Dialect
from properties.catalogue.deviations import CATALOGUE, Deviant
from properties.core.declaration import Declaration
from properties.diagnosis.answers import Answer, answer
from properties.diagnosis.composing import compose
from properties.diagnosis.limits import Limit, limits_of, narrowed
from properties.diagnosis.probing import Probing, hangs
from properties.diagnosis.view import BadOutput, Frame, Unanswered, View

if TYPE_CHECKING:
    from properties.diagnosis.explanation import Search


_RAISING = ("execution", "gradient")
"""Kinds of slips of which some raise."""


class Narrower(Exception):  # nobody's fault
    """The target has limits that it does not declare, and the exam is to be asked in another frame; `calls` have been
    made."""

    def __init__(self, frame: Frame, limits: tuple[Limit, ...], calls: int) -> None:
        super().__init__("; ".join(one.words for one in limits))
        self.frame, self.limits, self.calls = frame, limits, calls


def narrow(view: View, declared: Frame) -> None:
    """Find out what a target refuses of what it declares.

    Raises:
        Narrower: it has limits that it does not declare.
        Unanswered: calls do not come back, whatever they are.
    """
    probing = Probing(view, declared)
    try:
        met = probing.met()
    finally:
        view.calls += probing.calls
    if met:
        limits = limits_of(met, Declaration.of(view.implementation))
        raise Narrower(narrowed(declared, met), limits, view.calls)


def survived(view: View, declared: Frame, failure: Unanswered) -> Narrower | None:
    """What was found out of a target that a call ended: whether other calls come back. None where they do not, or where
    it hangs, as each call would take its whole time."""
    if hangs(failure):
        return None
    try:
        narrow(view, declared)
    except Narrower as found:
        return found
    except Unanswered:
        return None
    return None


def refused(search: Search, declared: Frame, bases: Sequence[Dialect], *, narrowly: bool) -> tuple[Limit, ...]:
    """What the target raises at questions that it should answer, which are set aside where no slip raises there too.

    `narrowly`: its limits have been found out.

    Raises:
        Narrower: its limits have just been found out.
    """
    raised = [one for one in search.answers if one.error or _odd(one)]
    if not raised:
        return ()
    each = list({(*one.outcome, one.place): one for one in reversed(raised)}.values())
    slips = [n for n, one in CATALOGUE.items() if one.kind in _RAISING and _raises(n, bases[-1], each, search)]
    made = [one for name in slips if (one := compose((name,), bases[-1])) is not None]
    explained = any(_explains(search, name, base) for name in slips for base in bases)
    if explained and any(_in_its_code(one, search.frame, each) for one in made):
        return ()
    if not narrowly:  # where somebody's own code refuses it, the attribute tells more than the slip
        narrow(search.view, declared)
    if explained:
        return ()
    strange = [one for one in raised if not any(_alike(one, other, search.frame) for other in made)]
    if all(one.error for one in search.answers if one not in strange):
        return ()
    search.set_aside(strange)
    return tuple(_told(strange))


def _odd(given: Answer) -> bool:
    """Whether an answer about no token is of another dtype than the state."""
    pairs = zip(given.values, given.probe.narrow, strict=False)  # a branch may have been called once too often
    return any(narrow and not value.numel() and value.dtype != given.probe.dtype for value, narrow in pairs)


def _raises(name: str, base: Dialect, answers: Sequence[Answer], search: Search) -> bool:
    """Whether a slip raises, or gives the wrong form, at one of these questions, and only where the target does."""
    made = compose((name,), base)
    if made is None or not any(_alike(one, made, search.frame) for one in answers):
        return False
    return not any(answer(one.probe, View(made, search.frame)).error for one in search.answers if not one.error)


def _alike(given: Answer, made: Deviant, frame: Frame) -> bool:
    found = answer(given.probe, View(made, frame))
    return bool(found.error) and found.outcome == given.outcome


def _in_its_code(made: Deviant, frame: Frame, answers: Sequence[Answer]) -> bool:
    """Whether it is the very code of a slip that raises."""
    return all(answer(one.probe, View(made, frame)).place == one.place for one in answers)


def _explains(search: Search, name: str, base: Dialect) -> bool:
    """Whether a slip by itself gives every answer."""
    made = compose((name,), base)
    return made is not None and search.distance(made, base, []) <= 1 and search.confirmed((name,), base) <= 1


def _told(answers: Sequence[Answer]) -> Iterator[Limit]:
    """What is set aside, one for each exception and place."""
    groups: dict[tuple[str, str], list[Answer]] = {}
    for one in answers:
        groups.setdefault((one.error, one.place), []).append(one)
    for (error, place), group in groups.items():
        more = f" (and at {len(group) - 1} more of the questions)" if len(group) > 1 else ""
        words = f"{group[0].probe.name} {group[0].told}{more}"
        of = group[0].probe.of or group[0].probe.stage
        method = "layers" if of == "depth" else of
        yield Limit("", "", words, "" if error == BadOutput.__name__ else error, place, method=method)
