"""The search for an input at which a law is broken: found, saved, shrunk, and tried with fewer streams."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from hypothesis import Phase, given, seed, settings
from hypothesis.errors import FailedHealthCheck, FlakyFailure, NonInteractiveExampleWarning, Unsatisfiable
from safetensors import SafetensorError

from properties.core.case import Case
from properties.core.law import Law
from properties.core.picture import behaviours
from properties.core.trial import LawBroken, NoRoom, TargetRaised
from properties.engine.attribution import Attribution, Belonging
from properties.engine.endings import Enough as Enough
from properties.engine.endings import Settled
from properties.engine.message import counterexample, explain, replaying, wasteful
from properties.engine.picturing import failure
from properties.engine.readable import example, readable
from properties.engine.sharing import Drawn, Given, drawn_now
from properties.engine.spread import database, fewer_streams, passes_over, seed_of, settings_of, some_frames, tried
from properties.engine.subject import Profile, Status, Subject, Verdict
from properties.engine.tally import Tally
from properties.engine.tokens import fewer_tokens
from properties.engine.trying import try_case
from properties.guards.faults import HarnessError, described, placed
from properties.guards.interruption import checkpoint
from properties.guards.printable import message_of
from properties.guards.surroundings import Chance, drawn_alike
from properties.report.cause import Cause, joined
from properties.strategies import Setting
from properties.targets.process.protocol import NoAnswer

_HANGS = 5
"""How many calls without an answer shrinking may cost: each of them takes the whole time limit."""
_TRIED_WITH_FEWER = 40
"""Examples for each smaller n, once something has failed: a second or two for a smaller counterexample."""
_FURTHER = 3
"""Examples after the first failure that belongs to a known cause: another cause may show at one of them."""
_PLAINLY = 1e3
"""Bounds by which a failure is plain, so that smaller inputs which fail by less than the first are as good."""
_COMPLAINT = "at another input the harness itself failed"


class Search:
    """The search for one law on one subject, and what it has found so far.

    A failure that belongs to a known cause is kept, and a few more examples are tried for another one; it is not
    shrunk.

    Attributes:
        failure, case: the smallest failure that was found, and its input.
        also: what else the message of a failure has to say.
        no_room: why an example was given up that would not have fit in memory.
    """

    def __init__(
        self,
        law: Law,
        subject: Subject,
        profile: Profile,
        path: Path,
        randomness: int | None = None,
        attribution: Attribution | None = None,
    ) -> None:
        self.attribution = attribution
        self._causes: dict[str, Cause] = {}
        self._belongs: dict[str, str] = {}
        self.law, self.subject, self.path, self.randomness = law, subject, path, randomness
        self.profile = replace(profile, shrink=False) if law.schedule.once else profile
        self.chance = Chance()
        self.failure: LawBroken | None = None
        self.case: Case | None = None
        self.also: list[str] = []
        self.no_room = ""
        self._tally = Tally()
        self._showing: dict[str, Drawn] = {}
        self._frame: tuple[tuple[int, ...], int] = (), 0
        self._floor = 1.0
        self._shrinking = False
        self._known: dict[LawBroken, Belonging] = {}
        self._several = False
        self._new: frozenset[str] = frozenset()
        self._further = _FURTHER
        self._hangs = 0
        self._faulted = False  # whether the harness had failed before anything of the target did
        self._unsaved = ""

    def verdict(self) -> Verdict:
        """Search, and say what came of it.

        Raises:
            HarnessError: the strategy, the law or the truth failed, not the implementation.
        """
        try:
            self._everywhere()
        except LawBroken as broken:
            return self.failed(self._smallest(broken))
        except Enough as enough:
            return self.failed(enough.broken)
        except Settled:
            assert self.failure is not None
            return self.failed(self._plain(self.failure))
        except FlakyFailure:
            if self.failure is None:
                raise
            broken = LawBroken(
                "the same input gave different results when it was tried again (execution.deterministic)",
                ratio=math.inf,
                got="a failure of this law once, and none on the next call",
                exact="the same result on every call",
                against="wanted",
                kind="randomness",
            )
            return self.failed(broken, executed="execution.deterministic")
        except Unsatisfiable as error:
            raise HarnessError(f"{self.law.id}: no example can be drawn for {self.subject.id}: {error}") from error
        except Exception as fault:
            # While it is shrunk, a failure can slip into a fault of the harness: the law is broken all the same.
            if self.failure is not None:
                self._complain(fault)
                return self.failed(self.failure)
            if isinstance(fault, FailedHealthCheck):
                raise HarnessError(wasteful(self.law, self.subject, fault)) from fault
            raise
        if self.failure is not None:  # of a known cause
            return self.failed(self._plain(self.failure))
        if not self._tally.examples and (self.no_room or not self.profile.examples):
            nothing = self.no_room or "none of the examples that were given can be drawn for it"
            return Verdict(self.law.id, self.subject, "not-applicable", nothing)
        if not self._tally.claims and self.law.kind != "contract":
            nothing = (
                f"nothing could be claimed of any of {self._tally.examples} examples: every bound was infinite there"
            )
            return self._said("not-applicable", nothing, 0.0)
        return self._said("passed", "", self._tally.worst)

    def failed(self, broken: LawBroken, executed: str = "", quick: bool = False) -> Verdict:
        """The verdict about a failure; `quick`: the implementation is not called for it."""
        case = self.case or Case()
        named = not (quick or self._hangs) and any(one.explanation for one in self._causes.values())
        if self.attribution is not None and named:
            self._settled(self.attribution.settled(self.law, self.subject, case, broken, self._causes))
        lost = f"{self.path} could not be written: {self._unsaved}" if self._unsaved else ""
        message = explain(self.law, self.subject, case, broken, self.path, lost, also=self.also, quick=quick)
        score = readable(case, broken)
        if self.attribution is not None and len(self._causes) == 1:  # what shows two at once is shown for neither
            self.attribution.noted(self._causes, score)
        return replace(
            self._said("failed", broken.what, max(self._tally.worst, broken.ratio)),
            counterexample=None if lost else self.path,
            message=message,
            executed_law=executed,
            case=case,
            readable=score,
            failure=failure(case, broken),
            example=(*example(case, broken), replaying(self.law, self.subject, self.path, lost)),
            causes=tuple(self._causes.values()),
            belongs=tuple(self._belongs.values()),
        )

    def _said(self, status: Status, reason: str, worst: float) -> Verdict:
        found = Verdict(self.law.id, self.subject, status, reason, self._tally.examples, worst)
        return replace(found, **self._tally.counts(), showing=self._showing)

    def _everywhere(self) -> None:
        setting, shared = self.subject.setting(self.law), self.profile.shared or ()
        for number, streams in enumerate(dict.fromkeys(one.streams for one in shared)):
            if both := tuple(n for n in streams if n in setting.streams):
                these = [one for one in shared if one.streams == streams]
                with contextlib.suppress(Unsatisfiable):  # what is drawn otherwise here may come to nothing
                    self._among(setting.with_(streams=both), len(these), -1 - number, shared=these)
        if not self.profile.examples:
            return
        remembered = self.profile.remember and database(self.law, self.subject).exists()
        frames = some_frames(self.law, self.subject.setting(self.law), self.profile, self.randomness)
        for index, (frame, examples) in frames:
            skip = bool(index) or (examples > 1 and passes_over(self.law))  # one at least is tried
            self._among(frame, examples + bool(index), index, skip and not remembered)

    def _among(
        self, frame: Setting, examples: int, index: int, skip: bool = False, shared: Sequence[Drawn] = ()
    ) -> None:
        """Try so many examples of a frame, with the number of a seed; whether the simplest is passed over; of `shared`
        each, and no other."""
        parted = index > 0
        self._frame = frame.streams, int(parted)

        # Hypothesis reads the source of a test, several times in every run: an eighth of the time of a cheap law.
        def one(case: Case | None) -> None:
            if case is not None:
                self._attempt(case)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NonInteractiveExampleWarning)
            test = given(tried(self.law, frame, parted, skip))(one)
        usual = settings_of(self.profile, examples, self.law, self.subject, frame)
        if shared:  # Hypothesis takes a test with a seed to have no database, unless it is told so afterwards
            phases = tuple(one for one in usual.phases if one is not Phase.generate)
            test = seed(seed_of(self.law, self.subject, index, self.randomness))(test)
            with drawn_alike():
                settings(usual, database=Given(shared), phases=phases)(test)()
            return
        test = usual(test)
        if self.profile.derandomise or self.randomness is not None:
            test = seed(seed_of(self.law, self.subject, index, self.randomness))(test)
            with drawn_alike():
                test()
        else:
            test()

    def _attempt(self, case: Case) -> None:
        """One example. Every failing input is on disk before Hypothesis goes on."""
        checkpoint()
        self._tally.examples += 1
        try:
            with self.chance.lived():
                trial = try_case(self.law, self.subject, case, lambda broken: self._settles(broken, case))
            if self.profile.shared is not None:
                self._note(*behaviours(trial.nearness) - behaviours(self._tally.nearness))
            self._tally.add(trial)
        except NoRoom as error:
            self._tally.examples -= 1
            self.no_room = str(error)
        except LawBroken as broken:
            if self._passed_over(broken) or self._of_a_known_cause(broken, case):
                return
            self.failure, self.case = broken, case
            self._save(broken, case)
            self._note("failed", *(() if self._shrinking else ("failed at first",)))
            if self.attribution is not None and not self._shrinking:
                self._joined(self.attribution.found(self.law, self.subject, case, broken))
                self._several = self.attribution.several(self.subject)
            self._shrinking = True
            if isinstance(broken, TargetRaised) and issubclass(type(broken.raised), NoAnswer):
                self._hangs += 1
                if self._hangs > _HANGS:
                    raise Enough(broken) from broken
            raise
        except Exception as fault:
            # Shrinking goes on among the inputs at which the law is broken. A fault that came first is raised at its
            # input every time: Hypothesis would take anything else for a test that changes its mind.
            self._complain(fault)
            if self.failure is None or self._faulted:
                self._faulted = True
                raise

    def _note(self, *words: str) -> None:
        """Keep the example that is tried now, as the one that shows this, for other searches."""
        if self.profile.shared is not None and words and (drawn := drawn_now(*self._frame)) is not None:
            self._showing |= dict.fromkeys(words, drawn)

    def _passed_over(self, broken: LawBroken) -> bool:
        """Whether a failure, while another is shrunk, is not as plain, or of another kind.

        The first sets the floor, the root of its ratio and `_PLAINLY` at most: shrinking does not end at 1.01.
        """
        if not self._shrinking:
            self._floor = min(math.sqrt(broken.ratio), _PLAINLY)
            return False
        kept = self.failure
        alike = kept is None or (type(kept), kept.kind) == (type(broken), broken.kind)
        return not (alike and broken.ratio >= self._floor)

    def _of_a_known_cause(self, broken: LawBroken, case: Case) -> bool:
        """Whether a failure belongs to a known cause: the first is kept, and the search goes on a little.

        Raises:
            Settled: it has gone on for long enough.
        """
        if self.attribution is None or (self._shrinking and not self._several):
            return False
        if self.failure is None:  # it is on disk before anything else is asked
            self.failure, self.case = broken, case
            self._save(broken, case)
        found = self._known.pop(broken, None) or self.attribution.known(self.law, self.subject, case, broken)
        if self._shrinking:  # it may have slipped into another cause
            return found is not None and self._new.isdisjoint(found.keys)
        if found is None:
            return False
        plainer = readable(case, broken) < readable(self.case or case, self.failure)
        if plainer and (found.how == "shown" or not self._causes):
            self.failure, self.case = broken, case
            self._save(broken, case)
        self._joined(found)
        self._further -= 1
        if self._further < 0:
            raise Settled
        return True

    def _settles(self, broken: LawBroken, case: Case) -> bool:
        """Whether nothing hangs on a failure: the law has failed at another input, for a cause that is this one's."""
        if self.attribution is None or self.failure is None or self._shrinking:
            return False
        if readable(case, broken) < readable(self.case or case, self.failure):
            return False  # it would be shown in the place of the other
        found = self.attribution.known(self.law, self.subject, case, broken)
        if found is not None:
            self._known[broken] = found
        return found is not None

    def _joined(self, found: Belonging) -> None:
        """What a failure belongs to, beside what earlier ones of this law do."""
        self._new = frozenset(found.keys)
        for one in found.causes:
            self._causes[one.key] = joined(self._causes.get(one.key), one)
            if self._belongs.get(one.key) in (None, "not told apart"):
                self._belongs[one.key] = found.how

    def _settled(self, causes: Mapping[str, Cause]) -> None:
        """What causes have become, by the keys that they had."""
        self._belongs = {causes[key].key: how for key, how in self._belongs.items()}
        self._causes = {one.key: one for one in causes.values()}

    def _save(self, broken: LawBroken, case: Case) -> None:
        """Save a counterexample; why that was not possible is kept: a broken law stays broken without a file."""
        try:
            counterexample(self.law, self.subject, case, broken).save(self.path)
            self._unsaved = ""
        except (OSError, SafetensorError) as error:  # safetensors has an exception of its own for a disk that is full
            self._unsaved = message_of(error)

    def _smallest(self, broken: LawBroken) -> LawBroken:
        """A failure that has been shrunk, with fewer streams where that is possible."""
        if self.profile.shrink and self.case is not None and not self._hangs:
            broken = self._with_fewer_tokens(self._with_fewer_streams(broken, self.case))
            self._save(broken, self.case)
        return broken

    def _plain(self, broken: LawBroken) -> LawBroken:
        """A failure that was shown to be of a known cause, shrunk where none of that cause is as readable."""
        case = self.case
        if self.attribution is None or case is None or not self.profile.shrink or self._hangs:
            return broken
        if set(self._belongs.values()) != {"shown"} or not self.attribution.plainest(
            self._causes, readable(case, broken)
        ):
            return broken
        self._shrinking, self._floor = True, min(math.sqrt(broken.ratio), _PLAINLY)
        found = self._with_fewer_tokens(self._with_fewer_streams(broken, case, also_as_many=True))
        smaller = self.case or case
        if found is not broken:
            now = self.attribution.known(self.law, self.subject, smaller, found)
            if (
                now is None or now.how != "shown" or set(now.keys) != self._causes.keys()
            ):  # it has slipped into something else
                found, self.failure, self.case = broken, broken, case
        self._save(found, self.case or case)
        return found

    def _with_fewer_streams(self, broken: LawBroken, case: Case, also_as_many: bool = False) -> LawBroken:
        """A failure with fewer streams where there is one, otherwise the one that was found.

        Whatever is drawn depends on n, so that Hypothesis cannot shrink n without losing the failure.
        """
        kept = self.failure, case
        for number, frame in enumerate(fewer_streams(case, self.subject.setting(self.law), also_as_many)):
            try:
                self._among(frame, _TRIED_WITH_FEWER, 1000 + number)
            except LawBroken as smaller:
                return smaller
            except (FlakyFailure, Enough):  # a failure that does not stay, or hangs: the one found first stands
                self.failure, self.case = kept
            except Exception as fault:  # ours: it takes nothing away from the failure found first, and is told
                self.failure, self.case = kept
                self._complain(fault)
        return broken

    def _with_fewer_tokens(self, broken: LawBroken) -> LawBroken:
        """A failure that has been shrunk, with as few of its tokens as fail as plainly."""
        left = fewer_tokens(self.case, self.subject) if self.case else iter(())
        while (smaller := next(left, None)) is not None:
            kept = self.failure, self.case
            try:
                self._attempt(smaller)
            except LawBroken as found:
                broken, left = found, fewer_tokens(smaller, self.subject)
            except Exception as fault:  # ours, as above
                self.failure, self.case = kept
                self._complain(fault)
        return broken

    def _complain(self, fault: Exception) -> None:
        """Note the first fault of the harness that was met on the way, for the message of a failure if there is one."""
        if not any(one.startswith(_COMPLAINT) for one in self.also):
            self.also.append(
                f"{_COMPLAINT}: {described(fault)}{placed(fault)}. It says nothing of the implementation; the input "
                "below is the smallest at which the law is known to be broken"
            )
