"""Known failures: a TOML file of what is known to fail, each entry with the counterexample that proves it.

    [[known]]
    law = "manifold.last-axis-sums"
    implementation = "somebody-elses-kernel"
    dtype = "float32"                               # left out: every dtype, with the file tried in the dtype it holds
    device = "cpu"                                  # left out: every device
    reason = "stops when the largest sum is within 1e-3 of 1"
    link = "https://example.org/issues/12"
    counterexample = "known/last-axis-sums.safetensors"   # relative to the TOML file

A known failure replays that file instead of searching: the same on every run, in one call, and strict. When the law
holds for the stored case the entry must go. What cannot be tried, because the law was renamed or the file is lost or
no longer fits the law, is an error of the harness and never a silent pass.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from properties.core.case import MissingValue
from properties.core.law import all_laws
from properties.core.trial import LawBroken
from properties.engine.counterexample import Counterexample, CounterexampleError
from properties.engine.fitting import unfit
from properties.engine.known_file import PUBLISHED as PUBLISHED
from properties.engine.known_file import Known as Known
from properties.engine.known_file import KnownError as KnownError
from properties.engine.known_file import load as load
from properties.engine.known_file import located as located
from properties.engine.known_file import write as write
from properties.engine.message import explain
from properties.engine.picturing import failure
from properties.engine.subject import Status, Subject, Verdict
from properties.engine.trying import try_stored
from properties.guards.faults import HarnessError
from properties.report.report import Line
from properties.report.report import lines_of as lines_of  # where it was before
from properties.targets.trust import replay_line


def entry_for(entries: Iterable[Known], law: str, subject: Subject) -> Known | None:
    """The entry about this law on this subject, if there is one."""
    name, dtype, device = subject.implementation.name, subject.dtype_name, subject.device.type
    return next((entry for entry in entries if entry.covers(law, name, dtype, device)), None)


def verdict_for(known: Known, subject: Subject) -> Verdict:
    """Replay the stored case, and nothing else.

    status ``known``: it still fails, with the entry's reason; ``failed``: it does not, and the entry must go;
    ``error``: that could not be found out.
    """

    def verdict(
        status: Status, reason: str, ratio: float = 0.0, message: str = "", drawn: dict[str, Any] | None = None
    ) -> Verdict:
        path = known.counterexample if status == "known" else None
        return Verdict(known.law, subject, status, reason, int(status != "error"), ratio, path, message, failure=drawn)

    law = all_laws().get(known.law)
    if law is None:
        return verdict("error", _renamed(known))
    try:
        stored = Counterexample.load(known.counterexample)
    except CounterexampleError as error:
        return verdict("error", f"{known.origin}: {error}")
    if stored.law != known.law:
        return verdict("error", f"{known.origin} is about {known.law}, its counterexample about {stored.law}")
    # The case was drawn for one dtype; an entry without one vouches with it for the others.
    tried = Subject(
        subject.target, subject.implementation, getattr(torch, stored.dtype), subject.device, subject.dialect_option
    )
    inapplicable = law.inapplicable(subject.implementation, tried.dtype, tried.device)
    if inapplicable:
        reason = f"fixed: remove this entry ({known.origin}): {known.law} does not apply any more: {inapplicable}"
        return verdict("failed", reason, message=reason)
    case = stored.case
    try:
        if (misfit := unfit(law, tried, case)) is not None:
            return verdict("error", f"{known.origin}: its counterexample fits no longer: {misfit}")
        ratio = try_stored(law, tried, case).worst
    except LawBroken as broken:
        because = known.reason + (f" ({known.link})" if known.link else "")
        said = explain(law, tried, case, broken, known.counterexample)
        return verdict("known", because, broken.ratio, said, failure(case, broken))
    except MissingValue as error:
        return verdict("error", _outgrown(known, error))
    except HarnessError as error:
        return verdict("error", f"{known.origin}: {error}")
    except Exception as error:  # a case that the law cannot digest is a harness error, not a verdict
        return verdict("error", f"{known.origin}: {known.law} could not be tried: {type(error).__name__}: {error}")
    reason = f"fixed: remove this entry ({known.origin})"
    return verdict(
        "failed",
        reason,
        ratio,
        f"{subject.implementation.name} satisfies {known.law} for the case of a known failure (ratio {ratio:.3g})\n"
        f"  {reason}\n  it said: {known.reason}\n  replay: {replay_line(known.counterexample, subject.target)}",
    )


def _outgrown(known: Known, missing: MissingValue) -> str:
    return (
        f"{known.origin}: {known.law} now reads {missing.value}, which its counterexample does not have: "
        "find it again with --write-known"
    )


def _renamed(known: Known) -> str:
    import difflib

    near = difflib.get_close_matches(known.law, all_laws(), 1)
    return f"{known.origin}: there is no law {known.law!r}" + (f"; was it renamed to {near[0]!r}?" if near else "")


@dataclass(frozen=True)
class Orphan:
    """An entry that no run has tried. `error`: the harness's, so the run may not exit 0."""

    known: Known
    message: str
    error: bool


def orphans(entries: Iterable[Known], lines: Iterable[Line]) -> list[Orphan]:
    """The entries that nothing in a report answers: there is no such law, or no such implementation in the run."""
    seen = list(lines)
    found: list[Orphan] = []
    for entry in entries:
        if entry.law not in all_laws():
            found.append(Orphan(entry, _renamed(entry), error=True))
        elif not any(line.implementation == entry.implementation for line in seen):
            message = f"{entry.origin}: {entry.implementation} was not in this run, so {entry.law} was not tried"
            found.append(Orphan(entry, message, error=False))
        elif not any(entry.covers(line.law, line.implementation, line.dtype, line.device) for line in seen):
            where = " ".join(part for part in (entry.dtype, entry.device) if part)
            message = f"{entry.origin}: {entry.law} of {entry.implementation} {where} was not in this run".replace(
                "  ", " "
            )
            found.append(Orphan(entry, message, error=False))
    return found
