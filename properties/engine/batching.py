"""A law at thousands of cases, hundreds in one pass; the law by itself has the last word on every case that may fail.

What a pass finds is a suspicion. The suspected case is tried alone, by the ordinary law: where it fails, that is the
failure, saved at once and shrunk in Hypothesis's own search. Where it holds alone, the law judges what was answered to
it among the others: if that is wrong, the answer depends on the batch, which is a lead for the laws about tokens and
sizes (`execution.every-token-is-computed` and its like) and no accusation by this one.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError

from properties.core.case import Case
from properties.core.family import declared_bounds
from properties.core.law import Law
from properties.core.trial import LawBroken, NoRoom
from properties.engine.applying import inapplicable
from properties.engine.batches import Batch, drawn, judged, reheard, widened
from properties.engine.message import counterexample
from properties.engine.search import Search
from properties.engine.spread import name_in
from properties.engine.subject import Profile, Subject, Verdict
from properties.engine.trying import try_case
from properties.guards.faults import HarnessError
from properties.guards.interruption import checkpoint, watched
from properties.laws.batches import alone

PER_LAUNCH = 512
"""Tokens of a pass on the CPU, where nothing else is said."""
PER_LAUNCH_ON_A_DEVICE = 4096
"""The same on a device: few tokens cost the host as much time as many."""
_LEADS = 3
"""Cases whose answers depend on the batch that are looked into, for one law."""


@dataclass
class Tally:
    """What came of a law at many cases.

    Attributes:
        status: "lead": nothing failed alone, but answers depend on the batch.
        reason: why it does not apply, or what was broken.
        cases, tokens, launches: how many; a pass that was taken apart counts once.
        worst: the largest ratio of a case that holds.
        claims, abstentions: of how many numbers something was claimed, and of how many nothing was.
        asked: how many cases the law judged by itself, and `cleared` how many of those hold after all.
        left: how many suspects were not looked at, since the law had failed, or there were leads enough.
        leads: what depends on the batch, in words.
        verdict: of a failure.
        seconds: the time that it took to draw the cases, to judge them, and to look at suspects.
    """

    law: str
    status: Literal["passed", "failed", "lead", "not-applicable"] = "passed"
    reason: str = ""
    cases: int = 0
    tokens: int = 0
    launches: int = 0
    worst: float = 0.0
    claims: int = 0
    abstentions: int = 0
    asked: int = 0
    cleared: int = 0
    left: int = 0
    leads: list[str] = field(default_factory=lambda: [])
    verdict: Verdict | None = None
    seconds: dict[str, float] = field(default_factory=lambda: {"draw": 0.0, "judge": 0.0, "suspects": 0.0})

    @property
    def rate(self) -> float:
        """Tokens a second, drawn and judged."""
        spent = sum(self.seconds.values())
        return self.tokens / spent if spent else 0.0


class Found(Search):
    """The ordinary search, which begins with a case that is known to fail."""

    def __init__(self, law: Law, subject: Subject, profile: Profile, path: Path, found: Case) -> None:
        super().__init__(law, subject, profile, path)
        self._found = found

    def _everywhere(self) -> None:
        self._attempt(self._found)

    def _smallest(self, broken: LawBroken) -> LawBroken:
        if self.profile.shrink and self.case is not None:
            broken = self._with_fewer_streams(broken, self.case, also_as_many=True)
            self._save(broken, self.case)
        return broken


def not_here(law: Law, subject: Subject) -> str | None:
    """Why a law is not judged for many cases at once on this subject; None where it is."""
    if reason := inapplicable(law, subject, Profile(1, thorough=True)) or alone(law):
        return reason
    if subject.device.type != "cpu" and (declared := declared_bounds(subject.implementation.dialect)):
        return f"the declared bound of {' and '.join(declared)} is made on the CPU alone"
    return None


def per_pass(subject: Subject) -> int:
    """Tokens of a pass, where nothing else is said."""
    return PER_LAUNCH if subject.device.type == "cpu" else PER_LAUNCH_ON_A_DEVICE


def examine_many(
    law: Law,
    subject: Subject,
    *,
    tokens: int,
    directory: Path,
    at_once: int = 0,
    randomness: int = 0,
    shrink: bool = True,
) -> Tally:
    """Judge a law at so many tokens at least, `at_once` of them in a pass (0: `per_pass`), until it fails.

    Raises:
        HarnessError: a pass finds what the law by itself does not.
    """
    tally, at_once = Tally(law.id), at_once or per_pass(subject)
    if reason := not_here(law, subject):
        tally.status, tally.reason = "not-applicable", reason
        return tally
    path = directory / f"{name_in(directory, law, subject)}.safetensors"
    look = _Look(law, subject, tally, path, shrink)
    setting = subject.setting(law)
    with watched():
        while tally.tokens < tokens and not look.failed:
            begun = _now(subject)
            dice = random.Random(f"{law.id} {subject.dtype_name} {randomness} {tally.launches}")
            cases = drawn(law, subject, max(1, -(-(tokens - tally.tokens) // at_once)), randomness + tally.launches)
            each = min(at_once, max(1, -(-(tokens - tally.tokens) // len(cases))))
            tally.seconds["draw"] += _now(subject) - begun
            for case in cases:
                checkpoint()
                begun = _now(subject)
                batch = widened(law, setting, case, each, dice)
                tally.seconds["draw"] += _now(subject) - begun
                look.at(batch)
                if look.failed:
                    break
    return tally


def clock_of(subject: Subject) -> Callable[[], float]:
    """Seconds of this process's processor; where a device computes meanwhile, of the clock."""
    return time.process_time if subject.device.type == "cpu" else time.perf_counter


def _now(subject: Subject) -> float:
    return clock_of(subject)()


@dataclass
class _Look:
    """The look at one batch after the other."""

    law: Law
    subject: Subject
    tally: Tally
    path: Path
    shrink: bool

    @property
    def failed(self) -> bool:
        """Whether the law has failed."""
        return self.tally.status == "failed"

    def at(self, batch: Batch) -> None:
        """Judge a batch, and what is suspected in it."""
        tally, begun = self.tally, _now(self.subject)
        suspects = self._suspects(batch, range(batch.cases))
        tally.cases, tally.tokens, tally.launches = (
            tally.cases + batch.cases,
            tally.tokens + batch.tokens,
            tally.launches + 1,
        )
        between = _now(self.subject)
        tally.seconds["judge"] += between - begun
        for number, (case, among, ratio) in enumerate(suspects):
            if self.failed or len(tally.leads) > _LEADS:
                tally.left += len(suspects) - number
                break
            self._look_at(batch, case, among, ratio)
        if tally.leads and tally.status == "passed":
            tally.status, tally.reason = "lead", tally.leads[0]
        tally.seconds["suspects"] += _now(self.subject) - between

    def _suspects(self, batch: Batch, cases: Sequence[int]) -> list[tuple[int, Any, float]]:
        """The cases that may fail, each with what was answered to it, where the call as a whole did not break, and with
        its ratio."""
        some = batch if len(cases) == batch.cases else batch.some(cases)
        try:
            trial = judged(self.law, self.subject, some)
        except (LawBroken, NoRoom, torch.OutOfMemoryError) as broken:
            if len(cases) == 1:
                return [(cases[0], None, math.inf)]
            half = len(cases) // 2
            found = self._suspects(batch, cases[:half])
            if not any(among is None for _, among, _ in found):  # one that breaks a call is enough
                found += self._suspects(batch, cases[half:])
            if not found and isinstance(broken, LawBroken):
                self.tally.leads.append(
                    f"a call with {some.tokens} tokens broke ({broken}), and none with half of them did: that depends "
                    "on the batch"
                )
            return found
        suspects = trial.suspects()
        ratios = trial.ratios.masked_fill(trial.ratios > trial.limit, 0.0)
        self.tally.worst = max(self.tally.worst, ratios.max().item())
        self.tally.claims += int(trial.said.sum().item())
        self.tally.abstentions += int(trial.unsaid.sum().item())
        return [(cases[k], trial.answers_to([k]), trial.ratios[k].item()) for k in suspects]

    def _agrees(self, heard: float, ratio: float, case: Case) -> None:
        """That the law by itself found as large a ratio as the pass, but where mpmath was the judge.

        Raises:
            HarnessError: it did not.
        """
        if self.subject.dtype != torch.float64 and not math.isclose(heard, ratio, rel_tol=1e-5):
            raise HarnessError(
                f"{self.law.id} on {self.subject.id}: among others a case has a ratio of {ratio:.6g}, and the law by "
                f"itself finds {heard:.6g} in the same answer: the pass over many cases is at fault, not the "
                f"implementation. Case: {case!r}"
            )

    def _look_at(self, batch: Batch, number: int, among: Any, ratio: float) -> None:
        """The law at a suspected case, alone, and then at what was answered to it among others."""
        case, tally = batch.alone(number), self.tally
        tally.asked += 1
        try:
            trial = try_case(self.law, self.subject, case)
        except LawBroken as broken:
            self._failed(case, broken)
            return
        except NoRoom as error:
            raise HarnessError(f"{self.law.id}: there is no room for a single case: {error}") from error
        if among is not None:
            try:
                heard = reheard(self.law, self.subject, case, among)
            except LawBroken as broken:
                self._lead(batch, number, broken)
                return
            self._agrees(heard.worst, ratio, case)
            trial = heard if heard.worst > trial.worst else trial
        tally.cleared += 1
        tally.worst = max(tally.worst, trial.worst)

    def _failed(self, case: Case, broken: LawBroken) -> None:
        """A case that fails alone: saved at once, then shrunk."""
        self._save(self.path, case, broken)
        profile = Profile(examples=16, derandomise=True, shrink=self.shrink)
        verdict = Found(self.law, self.subject, profile, self.path, case).verdict()
        if verdict.status != "failed":
            self._save(self.path, case, broken)
            self.tally.leads.append(
                f"{broken.what} was off by a ratio of {broken.ratio:.3g} once, and not when the same case was tried "
                f"again: what is computed changes from call to call (saved in {self.path})"
            )
            return
        self.tally.status, self.tally.reason, self.tally.verdict = "failed", verdict.reason, verdict

    def _lead(self, batch: Batch, number: int, broken: LawBroken) -> None:
        """An answer that is wrong among others and right alone: the fewest cases that show it are kept on disk."""
        cases = self._fewest(batch, number)
        path = self.path.with_name(f"{self.path.stem}-batch{len(self.tally.leads)}.safetensors")
        whole = batch.some(cases)
        self._save(path, whole.whole, broken)
        ratio = "infinite" if math.isinf(broken.ratio) else f"{broken.ratio:.3g}"
        self.tally.leads.append(
            f"{broken.what} of one case is off (ratio {ratio}) in a call with {whole.tokens} tokens, and right in a "
            f"call of its own: what is computed depends on the batch. {self.law.id} holds for the case alone; this is "
            f"a lead for the laws about tokens and sizes (the call is saved in {path})"
        )

    def _fewest(self, batch: Batch, number: int) -> list[int]:
        """About as few cases as still show that one of them is answered otherwise."""
        cases = list(range(batch.cases))
        for _ in range(12):
            others = [case for case in cases if case != number]
            smaller = sorted([*others[: len(others) // 2], number])
            if len(smaller) == len(cases) or not self._shows(batch, smaller, number):
                break
            cases = smaller
        return cases

    def _shows(self, batch: Batch, cases: list[int], number: int) -> bool:
        try:
            trial = judged(self.law, self.subject, batch.some(cases))
        except LawBroken:
            return False
        return cases.index(number) in trial.suspects()

    def _save(self, path: Path, case: Case, broken: LawBroken) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            counterexample(self.law, self.subject, case, broken).save(path)
        except (OSError, SafetensorError) as error:
            self.tally.leads.append(f"{path} could not be written: {error}")
