"""Examine one law on one implementation: whether it applies, the search, and what outlives an interruption."""

from __future__ import annotations

import time
from pathlib import Path

from properties.core.law import Law
from properties.engine.applying import inapplicable, unlocked_by
from properties.engine.attribution import Attribution
from properties.engine.crowding import Crowding
from properties.engine.message import explain as explain
from properties.engine.spread import name_in
from properties.engine.subject import PROFILES as PROFILES
from properties.engine.subject import Profile, Subject, Verdict
from properties.engine.subject import Status as Status
from properties.engine.sweeping import Sweeping
from properties.engine.trying import stopped
from properties.engine.trying import try_case as try_case
from properties.engine.trying import try_stored as try_stored
from properties.guards.faults import HarnessError as HarnessError
from properties.guards.interruption import Interrupted, checkpoint, settled, watched
from properties.guards.surroundings import usual


@usual()
def examine(
    law: Law,
    subject: Subject,
    profile: Profile,
    *,
    directory: Path,
    randomness: int | None = None,
    attribution: Attribution | None = None,
) -> Verdict:
    """Search for a counterexample of `law` and shrink it.

    With `attribution` a failure that belongs to a known cause is neither shrunk nor explained again. Every failing
    input is on disk before Hypothesis goes on; the file in the end holds the smallest.

    Raises:
        HarnessError: the strategy, the law or the truth failed, not the implementation; or a timeout ended the search,
            and nothing is said of the law.
        KeyboardInterrupt, or whatever else the handler of a signal raises that asks the run to end: `verdict_before`
            gives the failure that had been found until then.
    """
    if reason := inapplicable(law, subject, profile):
        return Verdict(law.id, subject, "not-applicable", reason, unlocked_by=unlocked_by(law, subject, profile))
    path = directory / f"{name_in(directory, law, subject)}.safetensors"
    kind = Crowding if law.sweep is None else Sweeping
    search = kind(law, subject, profile, path, randomness, attribution)
    begun = time.monotonic()
    with watched():
        try:
            verdict = search.verdict()
            checkpoint()
            return verdict
        except Interrupted as stop:
            settled()
            found = None
            if search.failure is not None:
                search.also.append(f"{stopped(stop, begun)}: there may be a smaller input")
                found = search.failed(search.failure, quick=True)
            if stop.final:
                vars(stop.error)[_BEFORE] = found
                raise
            if found is None:
                told = f"{law.id} on {subject.id} was {stopped(stop, begun)}; nothing is said of the law"
                raise HarnessError(told) from None
            return found
        finally:
            search.chance.keep()


_BEFORE = "_mhc_verdict"


def verdict_before(error: BaseException) -> Verdict | None:
    """The failed verdict that `examine` had reached when an interruption ended it; None where nothing had failed."""
    return getattr(error.error if isinstance(error, Interrupted) else error, _BEFORE, None)
