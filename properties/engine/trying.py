"""One law at one input: the implementation is called, and mpmath has the last word on what is broken."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from properties.core.case import Case
from properties.core.law import Law
from properties.core.rounding import example
from properties.core.trial import ContractBroken, LawBroken, TapeEnds, Trial
from properties.core.ways import PLAIN, WAYS
from properties.engine.subject import Subject
from properties.guards.faults import HarnessError, described
from properties.guards.interruption import Interrupted, settled, watched
from properties.guards.surroundings import usual


@usual()
def try_case(
    law: Law, subject: Subject, case: Case, settled: Callable[[LawBroken], bool] | None = None, way: str | None = None
) -> Trial:
    """Try one example; the bench afterwards, with the largest ratio and the number of claims.

    A failure against the float64 reference is judged again by mpmath, from the stored outputs, unless `settled` says
    that no verdict hangs on it: one of a known cause, of a law that is known to be broken. With a `way` no call takes
    turns (`properties.core.ways`): each is made so.

    Raises:
        LawBroken: the law is broken, and mpmath agrees.
        HarnessError: the float64 reference says broken and mpmath says it is not.
    """
    trial = subject.trial(law, case)
    trial = trial if way is None else replace(trial, allowed=(way,))
    try:
        with example():
            law.judge(trial, case)
        return trial
    except ContractBroken as broken:
        broken.trial = trial
        raise
    except LawBroken as broken:
        broken.trial = trial
        if settled is not None and settled(broken):
            raise
        judge = trial.confirming()
        try:
            law.judge(judge, case)
        except LawBroken as confirmed:
            if law.kind == "oracle" and not judge.truth.asked:
                raise HarnessError(
                    f"{law.id} is an oracle law, and it broke on {subject.id} ({confirmed.what}, ratio "
                    f"{confirmed.ratio:.3g}) without asking the exact truth for anything. What such a law expects "
                    "comes from trial.truth alone: the law is at fault, not the implementation"
                ) from confirmed
            confirmed.trial = trial
            raise confirmed from None
        except TapeEnds:  # mpmath does not agree, and the law went on
            pass
        raise HarnessError(
            f"{law.id} on {subject.id}: the float64 reference reports a ratio of {broken.ratio:.3g} ({broken.what}), "
            f"mpmath {judge.worst:.3g}: the reference or the bound is at fault, not the implementation. Case: {case!r}"
        ) from broken


@usual()
def only_so(law: Law, subject: Subject, case: Case, broken: LawBroken) -> Sequence[str]:
    """The ways in which calls were made (`properties.core.ways`), where the law holds if torch is as by default.

    Of several the first that breaks the law by itself. It is tried again and the other way about, since what is wrong
    by chance, or in every other call, would otherwise be said to hang on a mode.
    """
    ways: Sequence[str] = getattr(broken.trial, "ways", ())
    if not ways or not _holds(law, subject, case):
        return ()
    so = tuple(ways) if len(ways) == 1 else next(((w,) for w in ways if not _holds(law, subject, case, (w,))), WAYS)
    again = [_holds(law, subject, case, one) for one in (so, so, (PLAIN,))]
    return (so if so != WAYS else ways) if again == [False, False, True] else ()


def _holds(law: Law, subject: Subject, case: Case, allowed: tuple[str, ...] = (PLAIN,)) -> bool:
    """Whether the law holds where calls are made in this way, or of several take turns in them; nothing that goes wrong
    may take the place of the failure that is explained."""
    try:
        law.judge(replace(subject.trial(law, case), allowed=allowed), case)
    except Exception:
        return False
    return True


def try_stored(law: Law, subject: Subject, case: Case) -> Trial:
    """`try_case` for one case by itself, outside of a search.

    Where calls take turns the law must hold in every other way, too: a file may be of a release in which turns were
    others, or of a place in which nothing is recorded.

    Raises:
        LawBroken, HarnessError: as `try_case`; a timeout from outside is a HarnessError.
        KeyboardInterrupt: somebody asks the run to end; not what a target raises under that name.
    """
    begun = time.monotonic()
    with watched():
        try:
            trial = try_case(law, subject, case)
            others = [try_case(law, subject, case, way=way) for way in WAYS] if trial.varied else []
            return max(trial, *others, key=lambda one: one.worst) if others else trial
        except Interrupted as stop:
            if stop.final:
                raise
            settled()
            told = f"{law.id} on {subject.id} was {stopped(stop, begun)}; nothing is said of the law"
            raise HarnessError(told) from None


def stopped(stop: Interrupted, begun: float) -> str:
    """After what time something from outside stopped it, in words."""
    said = described(stop.error)
    return f"stopped from outside after {time.monotonic() - begun:.1f} s ({stop.signal}: {said})"
