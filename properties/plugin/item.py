"""One law on one subject as a test of pytest, and the line about it in the report."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from properties.guards.printable import message_of, printable
from properties.plugin.apart import apart, deadly, deaths
from properties.plugin.ending import UNREACHED, OutOfTime, ending_of
from properties.plugin.explaining import causes
from properties.plugin.gathering import GATHERING
from properties.plugin.options import counterexamples, profile, seed
from properties.plugin.subjects import known_failures

if TYPE_CHECKING:
    from properties.core.law import Law
    from properties.engine.subject import Subject, Verdict
    from properties.report.cause import Cause
    from properties.report.report import Line


LINE, CAUSE = "mhc_properties_line", "mhc_properties_cause"


class LawItem(pytest.Item):
    """One law on one subject."""

    def __init__(self, *, law: Law, subject: Subject, **rest: Any) -> None:
        super().__init__(**rest)
        self.law = law
        self.subject = subject

    def runtest(self) -> None:
        """Search for a counterexample; a law that does not apply is skipped with its reason, which is counted."""
        ending = ending_of(self.config)
        found = self._kept()
        if found is None and (why := ending.why()):
            self._not_reached(why)
        try:
            with contextlib.nullcontext() if found else ending.within():
                line, message = found or self._examined()
        except OutOfTime:
            self._not_reached(ending.why())
        if line.status == "failed":
            raise LawFailure(message)
        if line.status == "error":
            raise LawUndecided(message)
        if line.status == "not-applicable":
            pytest.skip(f"not applicable: {line.reason}")

    def _not_reached(self, why: str) -> NoReturn:
        """No law is begun any more, or this one was stopped before anything had failed."""
        self.user_properties.append((UNREACHED, why))
        pytest.skip(f"not reached {why}")

    def _kept(self) -> tuple[Line, str] | None:
        """What an earlier process of this run has found."""
        gathering = self.config.stash.get(GATHERING, None)
        if gathering is None or self.nodeid not in gathering.earlier.lines:
            return None
        line = gathering.earlier.lines[self.nodeid]
        self._leave(line)
        return line, gathering.earlier.messages[self.nodeid]

    def _examined(self) -> tuple[Line, str]:
        """The line of the report, and the message of a failure."""
        from properties.engine.runner import verdict_before
        from properties.engine.subject import Verdict

        gathering = self.config.stash.get(GATHERING, None)
        if gathering is not None:
            gathering.began(self.nodeid)

        def found(line: Line, message: str) -> tuple[Line, str]:
            if gathering is not None:
                gathering.add(self.nodeid, line)
                gathering.ended(self.nodeid, line, message)
            return line, message

        try:
            verdict = with_cause(self._verdict())
        except Exception as error:
            reason = f"{type(error).__name__}: {message_of(error)}"
            line, _ = found(line_of(Verdict(self.law.id, self.subject, "error", reason)), reason)
            self._leave(line)
            raise
        except BaseException as stop:  # the run is asked to end, once it has said what had failed until then
            if (verdict := verdict_before(stop)) is None:
                raise
            self._end_after_this(stop)  # without a cause: where the run was stopped first, none was looked for
        line, message = found(line_of(verdict), shown(verdict))
        if gathering is not None:
            for one in verdict.causes:
                gathering.cause(one)
        self._leave(line, verdict.causes)
        return line, message

    def _verdict(self) -> Verdict:
        from properties.engine.apart import examine_apart
        from properties.engine.known import entry_for, verdict_for
        from properties.engine.runner import examine

        subject = self.subject
        known = entry_for(known_failures(self.config), self.law.id, subject)
        where, randomness = counterexamples(self.config), seed(self.config)
        if before := deaths(self.config, self.nodeid):
            return examine_apart(
                self.law,
                subject,
                profile(self.config),
                directory=where,
                randomness=randomness,
                death=before[0],
                made=lambda one: apart(self.config, one),
                attribution=causes(self.config),
            )
        if subject.target in deadly(self.config) and not self.law.on.in_process:
            subject = apart(self.config, subject)
        if known is not None:
            return dataclasses.replace(verdict_for(known, subject), subject=self.subject)
        attribution = causes(self.config)
        verdict = examine(
            self.law, subject, profile(self.config), directory=where, randomness=randomness, attribution=attribution
        )
        return dataclasses.replace(verdict, subject=self.subject)

    def _end_after_this(self, stop: BaseException) -> None:
        """No other law is begun, and the message of this one is printed: of an interrupted one pytest would not."""
        if isinstance(stop, OutOfTime):  # whatever comes is skipped, and counted
            return
        self.session.shouldstop = self.session.shouldstop or f"stopped by {type(stop).__name__}"

    def _leave(self, line: Line, causes: Sequence[Cause] = ()) -> None:
        self.user_properties += properties_of(causes, line)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The message alone for a law that failed, and for an error that is a sentence of ours; else a traceback."""
        if isinstance(excinfo.value, LawFailure):
            return str(excinfo.value)
        if isinstance(excinfo.value, LawUndecided):
            return f"HARNESS ERROR (not a verdict on the implementation)\n{excinfo.value}"
        from properties.guards.faults import HarnessError, described, placed

        if isinstance(excinfo.value, HarnessError):
            why = excinfo.value.__cause__
            because = f"\n  because of {described(why)}{placed(why)}" if why is not None else ""
            return f"HARNESS ERROR (not a verdict on the implementation)\n{message_of(excinfo.value)}{because}"
        return "HARNESS ERROR (not a verdict on the implementation)\n" + str(super().repr_failure(excinfo, style))

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Where and what, for pytest's headings; not the name alone, whose dots pytest would show as colons."""
        return self.path, None, f"law {self.name}"


def properties_of(causes: Sequence[Cause], line: Line) -> list[tuple[str, str]]:
    """Causes and a line as they travel on the report of a test, between processes."""
    return [*((CAUSE, json.dumps(one.to_json())) for one in causes), (LINE, json.dumps(line.to_json()))]


class LawFailure(Exception):
    """Carries the message of a failed law to the terminal."""


class LawUndecided(Exception):
    """Carries to the terminal why there is no verdict on a law."""


def shown(verdict: Verdict) -> str:
    """The message of a failed law with its causes, or the reason for anything else, as a terminal may show it."""
    if verdict.status != "failed":
        return printable(verdict.reason, 20000)
    from properties.report.cause import wrong

    pairs = zip(verdict.causes, verdict.belongs, strict=True)
    causes = [
        f"\n  cause: {' '.join(one.summary.split())}{f', {wrong(one.where)}' if one.where else ''}{_HOW.get(how, '')}"
        for one, how in pairs
    ]
    return printable(f"{verdict.message}{''.join(causes)}", 20000)


_HOW = {
    "shown": " (shown: the reference with it breaks this law here, and answers as this implementation does)",
    "not told apart": " (not told apart from it at this input)",
}


def with_cause(verdict: Verdict) -> Verdict:
    """A failed verdict that nobody has explained, with a cause by its kind: no answer, or another one every time."""
    if verdict.status != "failed" or verdict.causes:
        return verdict
    from properties.report.cause import Cause

    kind = "randomness" if verdict.executed_law == "execution.deterministic" else "time"
    name = verdict.subject.implementation.name
    cause = Cause(f"{name}: {kind}", name, verdict.reason, stage="execution", kind=kind, first=verdict.law)
    return dataclasses.replace(verdict, causes=(cause,), belongs=("first",))


def line_of(verdict: Verdict) -> Line:
    """A verdict as a line of the report."""
    import math

    from properties.core.doubts import doubts
    from properties.core.family import declared_bounds
    from properties.core.law import all_laws
    from properties.report.report import Line

    subject = verdict.subject
    tunes = all_laws()[verdict.law].tunes if verdict.law in all_laws() else None
    exercised = verdict.status not in ("not-applicable", "error")
    tuned = tunes.changes(subject.implementation) if tunes and exercised else frozenset[str]()
    return Line(
        implementation=subject.implementation.name,
        dialect=subject.implementation.dialect.fields(),
        dtype=subject.dtype_name,
        device=subject.device.type,
        law=verdict.law,
        status=verdict.status,
        reason=printable(verdict.reason),
        examples=verdict.examples,
        worst_ratio=verdict.worst_ratio if math.isfinite(verdict.worst_ratio) else None,
        counterexample=str(verdict.counterexample) if verdict.counterexample else None,
        claims=verdict.claims,
        abstentions=verdict.abstentions,
        stages={stage: list(counts) for stage, counts in verdict.stages if counts[1]},
        declared_bounds=declared_bounds(subject.implementation.dialect),
        doubts=doubts(subject.implementation),
        causes=tuple(one.key for one in verdict.causes),
        belongs=verdict.belongs,
        readable=verdict.readable,
        example=tuple(printable(one, 2000) for one in verdict.example),
        unlocked_by=verdict.unlocked_by,
        sizes=verdict.sizes,
        visited=verdict.visited,
        nearness=_nearness(verdict.nearness),
        failure=verdict.failure,
        untuned=tuple(sorted(subject.implementation.tunable - tuned)) if tunes else (),
    )


def _nearness(counted: dict[str, dict[int, int]]) -> dict[str, list[list[int]]]:
    """How near each of what was judged most often came to its bounds, and all else together."""
    from properties.core.picture import add_nearness

    often = sorted(counted, key=lambda what: -sum(counted[what].values()))
    found: dict[str, dict[int, int]] = {}
    for place, what in enumerate(often):
        add_nearness(found, [(what if place < _STAGES else "all else", counted[what])])
    return {what: [[bin, bins[bin]] for bin in sorted(bins)] for what, bins in found.items()}


_STAGES = 8
"""How many of what a law judges have a line of their own in the report."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a target has printed is shown with its failed law, without what could steer a terminal."""
    report = yield
    if isinstance(item, LawItem):
        report.sections = [(title, printable(text, 4000)) for title, text in report.sections]
    return report
