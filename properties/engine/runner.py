"""Examine one law on one implementation: search, save, shrink, confirm, explain."""

from __future__ import annotations

import hashlib
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.database import DirectoryBasedExampleDatabase
from hypothesis.errors import FailedHealthCheck, FlakyFailure, NonInteractiveExampleWarning, Unsatisfiable
from safetensors import SafetensorError

from properties.bounds import Rounding
from properties.core.case import Case, describe, streams_of
from properties.core.device import device_of
from properties.core.implementation import Implementation, Products
from properties.core.law import Law, Schedule
from properties.core.trial import (
    ContractBroken,
    FloatTruth,
    HarnessError,
    LawBroken,
    NoRoom,
    TapeEnds,
    TargetRaised,
    Trial,
)
from properties.engine.counterexample import Counterexample, versions
from properties.engine.names import file_name, identity
from properties.guards.faults import described, placed
from properties.guards.interruption import Interrupted, checkpoint, settled, watched
from properties.guards.printable import message_of
from properties.guards.surroundings import Chance, drawn_alike, usual
from properties.strategies import Setting
from properties.targets.process.protocol import NoAnswer
from properties.targets.trust import replay_line

Status = Literal["passed", "failed", "known", "not-applicable", "error"]


@dataclass(frozen=True)
class Profile:
    """How long to search.

    Attributes:
        examples: examples a law, before its `cost`.
        derandomise: the same examples in every run.
        shrink: minimise what was found.
        remember: keep Hypothesis's own database of failing inputs.
        thorough: laws that take seconds an example are exercised on the CPU too.
    """

    examples: int
    derandomise: bool = False
    shrink: bool = True
    remember: bool = False
    thorough: bool = False


PROFILES = {
    "dev": Profile(examples=10, remember=True),
    "ci": Profile(examples=16, derandomise=True),
    "thorough": Profile(examples=1500, remember=True, thorough=True),
}


@dataclass(frozen=True)
class Subject:
    """One implementation in one dtype on one device, and how to name it again."""

    target: str
    implementation: Implementation
    dtype: torch.dtype
    device: torch.device
    dialect_option: str | None = None

    @property
    def dtype_name(self) -> str:
        """float64, float32, bfloat16, ..."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def id(self) -> str:
        """implementation-dtype-device, as in test ids."""
        return f"{self.implementation.name}-{self.dtype_name}-{self.device.type}"

    def setting(self, law: Law) -> Setting:
        """What the strategies of a law may draw for this subject."""
        accepted = tuple(n for n in self.implementation.streams if n >= law.least_streams)
        flood = device_of(self.device).flood
        return Setting.of(self.implementation, name="", streams=accepted, dtype=self.dtype, flood=flood)

    def trial(self) -> Trial:
        """A fresh bench. float64 outputs are judged by mpmath where a law asks for values, see `Law.judge`."""
        return Trial(self.implementation, self.dtype, self.device, FloatTruth(self.implementation.dialect))


@dataclass(frozen=True)
class Verdict:
    """What came of one law on one subject.

    `worst_ratio` is the largest error / bound seen; `claims` counts the numbers and facts that something was claimed
    of, `abstentions` the numbers whose bound was infinite, over all examples that held.
    """

    law: str
    subject: Subject
    status: Status
    reason: str = ""
    examples: int = 0
    worst_ratio: float = 0.0
    counterexample: Path | None = None
    message: str = ""
    executed_law: str = ""
    case: Case | None = None
    """The smallest failing input that was found."""
    claims: int = 0
    abstentions: int = 0


@usual()
def examine(law: Law, subject: Subject, profile: Profile, *, directory: Path, randomness: int | None = None) -> Verdict:
    """Search for a counterexample of `law` and shrink it.

    Every failing input is on disk before Hypothesis goes on; the file in the end holds the smallest.

    Raises:
        HarnessError: the strategy, the law or the truth failed, not the implementation; or a timeout ended the search,
            and nothing is said of the law.
        KeyboardInterrupt, or whatever else the handler of a signal raises that asks the run to end: `verdict_before`
            gives the failure that had been found until then.
    """
    inapplicable = law.inapplicable(subject.implementation, subject.dtype, subject.device)
    if inapplicable is None and law.schedule.thorough and subject.device.type == "cpu" and not profile.thorough:
        inapplicable = f"{law.schedule.thorough}: on a CPU with --hypothesis-profile thorough"
    if inapplicable:
        return Verdict(law.id, subject, "not-applicable", inapplicable)
    path = directory / f"{_name_in(directory, law, subject)}.safetensors"
    state, chance, begun = _Progress(), Chance(), time.monotonic()
    remembered = profile.remember and _database(law, subject).exists()

    def attempt(case: Case) -> None:
        checkpoint()
        state.examples += 1
        try:
            with chance.lived():
                trial = try_case(law, subject, case)
            state.worst = max(state.worst, trial.worst)
            state.claims += trial.claims
            state.abstentions += trial.abstentions
        except NoRoom as error:
            state.examples -= 1
            state.no_room = str(error)
        except LawBroken as broken:
            if not state.clear_enough(broken.ratio):
                return
            state.failure = broken
            state.case = case
            state.unsaved = _unsaved(counterexample(law, subject, case, broken), path)
            if isinstance(broken, TargetRaised) and issubclass(type(broken.raised), NoAnswer):
                state.hangs += 1
                if state.hangs > _HANGS:
                    raise _Enough(broken) from broken
            raise
        except Exception as fault:
            # Shrinking goes on among the inputs at which the law is broken. A fault that came first is raised at its
            # input every time: Hypothesis would take anything else for a test that changes its mind.
            state.complain(fault)
            if state.failure is None or state.faulted:
                state.faulted = True
                raise

    # Hypothesis reads the source of a test, several times in every run: an eighth of the time of a cheap law.
    def one(case: Case) -> None:
        attempt(case)

    def search(frame: Setting, examples: int, index: int, skip: bool) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NonInteractiveExampleWarning)
            test = given(law.draw(frame))(_after_the_simplest(one) if skip else one)
        test = _settings(profile, examples + skip, law, subject)(test)
        if profile.derandomise or randomness is not None:
            test = seed(_seed(law, subject, index, randomness))(test)
            with drawn_alike():
                test()
        else:
            test()

    frames = _frames(subject.setting(law), profile.examples, law.schedule)

    def searched() -> Verdict:
        try:
            for index, (frame, examples) in enumerate(frames):
                search(frame, examples, index, bool(index) and not remembered)
        except LawBroken as broken:
            return _smallest(law, subject, profile, state, path, broken, search)
        except _Enough as enough:
            return _failed(law, subject, state, path, enough.broken)
        except FlakyFailure:
            if state.failure is None:
                raise
            broken = LawBroken(
                "the same input gave different results when it was tried again (execution.deterministic)",
                ratio=math.inf,
                got="a failure of this law once, and none on the next call",
                exact="the same result on every call",
                against="wanted",
            )
            return _failed(law, subject, state, path, broken, executed="execution.deterministic")
        except Unsatisfiable as error:
            raise HarnessError(f"{law.id}: no example can be drawn for {subject.id}: {error}") from error
        except Exception as fault:
            # While it is shrunk, a failure can slip into a fault of the harness: the law is broken all the same.
            if state.failure is not None:
                state.complain(fault)
                return _failed(law, subject, state, path, state.failure)
            if isinstance(fault, FailedHealthCheck):
                raise HarnessError(_wasteful(law, subject, fault)) from fault
            raise
        if state.no_room and not state.examples:
            return Verdict(law.id, subject, "not-applicable", state.no_room)
        if not state.claims and law.kind != "contract":
            reason = f"nothing could be claimed of any of {state.examples} examples: every bound was infinite there"
            return Verdict(law.id, subject, "not-applicable", reason, state.examples, abstentions=state.abstentions)
        found = Verdict(law.id, subject, "passed", "", state.examples, state.worst)
        return replace(found, claims=state.claims, abstentions=state.abstentions)

    with watched():
        try:
            verdict = searched()
            checkpoint()
            return verdict
        except Interrupted as stop:
            settled()
            found = None
            if state.failure is not None:
                state.also.append(f"{_stopped(stop, begun)}: there may be a smaller input")
                found = _failed(law, subject, state, path, state.failure, quick=True)
            if stop.final:
                vars(stop.error)[_BEFORE] = found
                raise
            if found is None:
                told = f"{law.id} on {subject.id} was {_stopped(stop, begun)}; nothing is said of the law"
                raise HarnessError(told) from None
            return found
        finally:
            chance.keep()


def _frames(setting: Setting, most: int, schedule: Schedule) -> list[tuple[Setting, int]]:
    """A quarter of the examples over every accepted n, the rest n by n: none is left to chance."""
    examples = most / schedule.cost
    if schedule.most:
        return [(setting, max(1, min(schedule.most, round(examples))))]
    if not schedule.by_streams:
        return [(setting, max(3, round(examples)))]
    each = max(2, round(0.75 * examples / len(setting.streams)))
    if len(setting.streams) == 1:
        return [(setting, max(3, round(examples)))]
    return [(setting, max(3, round(examples / 4))), *((setting.with_(streams=(n,)), each) for n in setting.streams)]


_HANGS = 5
"""How many calls without an answer shrinking may cost: each of them takes the whole time limit."""


class _Enough(BaseException):
    """A hang has been shrunk for long enough; through Hypothesis, which takes an `Exception` for a failure."""

    def __init__(self, broken: LawBroken) -> None:
        super().__init__()
        self.broken = broken


_TRIED_WITH_FEWER = 40
"""Examples for each smaller n, once something has failed: a second or two for a smaller counterexample."""


def _fewer_streams(case: Case, setting: Setting) -> list[Setting]:
    """The frames of every accepted n below that of the case, smallest first."""
    n = streams_of(case, setting.dialect)
    return [setting.with_(streams=(k,)) for k in sorted(setting.streams) if n is not None and k < n]


Search = Callable[[Setting, int, int, bool], None]
"""Tries so many examples of a frame, with the number of a seed; whether the simplest is passed over."""


def _smallest(
    law: Law, subject: Subject, profile: Profile, state: _Progress, path: Path, broken: LawBroken, search: Search
) -> Verdict:
    """The verdict about a failure that has been shrunk, with fewer streams where that is possible."""
    if profile.shrink and state.case is not None and not state.hangs:
        fewer = _fewer_streams(state.case, subject.setting(law))
        broken = _with_fewer_streams(fewer, search, state, broken)
        state.unsaved = _unsaved(counterexample(law, subject, state.case, broken), path)
    return _failed(law, subject, state, path, broken)


def _with_fewer_streams(frames: list[Setting], search: Search, state: _Progress, broken: LawBroken) -> LawBroken:
    """A failure with fewer streams where there is one, otherwise the one that was found.

    Whatever is drawn depends on n, so that Hypothesis cannot shrink n without losing the failure.
    """
    kept = state.failure, state.case
    for number, frame in enumerate(frames):
        try:
            search(frame, _TRIED_WITH_FEWER, 1000 + number, False)
        except LawBroken as smaller:
            return smaller
        except (FlakyFailure, _Enough):  # a failure that does not stay, or hangs: the one that was found first stands
            state.failure, state.case = kept
        except Exception as fault:  # ours: it takes nothing away from the failure that was found first, and is told
            state.failure, state.case = kept
            state.complain(fault)
    return broken


_BEFORE = "_mhc_verdict"


def verdict_before(error: BaseException) -> Verdict | None:
    """The failed verdict that `examine` had reached when an interruption ended it; None where nothing had failed."""
    return getattr(error.error if isinstance(error, Interrupted) else error, _BEFORE, None)


def _stopped(stop: Interrupted, begun: float) -> str:
    said = described(stop.error)
    return f"stopped from outside after {time.monotonic() - begun:.1f} s ({stop.signal}: {said})"


def _wasteful(law: Law, subject: Subject, fault: FailedHealthCheck) -> str:
    return (
        f"{law.id} on {subject.id}: its strategy (`{law.module}`, `draw`) fails a health check of Hypothesis, so that "
        f"less may be tried than the report would say: {str(fault).partition(chr(10))[0]}"
    )


def _after_the_simplest(check: Callable[[Case], None]) -> Callable[[Case], None]:
    """The check, passing over its first example: Hypothesis always begins with the simplest, where phi is 0, all logits
    are 0 and no branch does anything. Seeing that for one n is enough; of two examples of each n it would be one."""
    begun = False

    def later(case: Case) -> None:
        nonlocal begun
        if begun:
            check(case)
        begun = True

    return later


def _seed(law: Law, subject: Subject, index: int, randomness: int | None) -> int:
    """The same in every run, and another one for every law, dtype and frame.

    Hypothesis derives its own from the source of the test, which is one function here: all frames would draw alike.
    """
    text = f"{law.id} {subject.dtype_name} {index} {randomness}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def _database(law: Law, subject: Subject) -> Path:
    """Hypothesis keys its database by the source of the test, which is the same for every law and subject."""
    folder = Path(".hypothesis") / "laws"
    return folder / _name_in(folder, law, subject)


def _settings(profile: Profile, examples: int, law: Law, subject: Subject) -> settings:
    database = None
    if profile.remember:
        database = DirectoryBasedExampleDatabase(_database(law, subject))
    return settings(
        max_examples=examples,
        deadline=None,  # shared machines; time is measured by the benchmarks, not here
        database=database,
        phases=(Phase.explicit, Phase.reuse, Phase.generate) + ((Phase.shrink,) if profile.shrink else ()),
        print_blob=False,
        report_multiple_bugs=False,
        # Left on: filter_too_much and data_too_large. A strategy of ours that throws inputs away tries less than is
        # reported. Off: too_slow and large_base_example, as examples are batches on purpose and machines are shared.
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example],
    )


def _name_in(folder: Path, law: Law, subject: Subject) -> str:
    """What the file of a law on a subject is called in a folder."""
    told_apart = identity(subject.target, folder), subject.dialect_option
    return file_name(f"{law.id}[{subject.id}]", *told_apart)


_COMPLAINT = "at another input the harness itself failed"


@dataclass
class _Progress:
    examples: int = 0
    worst: float = 0.0
    claims: int = 0
    abstentions: int = 0
    failure: LawBroken | None = None
    case: Case | None = None
    floor: float = 1.0
    no_room: str = ""
    hangs: int = 0
    faulted: bool = False
    """Whether the harness had failed before anything of the target did."""
    also: list[str] = field(default_factory=lambda: [])
    """What else the message of a failure has to say."""

    def complain(self, fault: Exception) -> None:
        """Note the first fault of the harness that was met on the way, for the message of a failure if there is one."""
        if not any(one.startswith(_COMPLAINT) for one in self.also):
            self.also.append(
                f"{_COMPLAINT}: {described(fault)}{placed(fault)}. It says nothing of the implementation; the input "
                "below is the smallest at which the law is known to be broken"
            )

    unsaved: str = ""

    def clear_enough(self, ratio: float) -> bool:
        """Whether a failure is as plain as the first one was, so that shrinking does not end at a ratio of 1.01.

        The first failure sets the floor, the root of its ratio and 10^6 at most: smaller inputs that fail by less are
        passed over. A law that holds is never affected.
        """
        if self.failure is None:
            self.floor = min(math.sqrt(ratio), 1e6)
        return ratio >= self.floor


@usual()
def try_case(law: Law, subject: Subject, case: Case) -> Trial:
    """Try one example; the bench afterwards, with the largest ratio and the number of claims.

    A failure against the float64 reference is judged again by mpmath, from the stored outputs.

    Raises:
        LawBroken: the law is broken, and mpmath agrees.
        HarnessError: the float64 reference says broken and mpmath says it is not.
    """
    trial = subject.trial()
    try:
        law.judge(trial, case)
        return trial
    except ContractBroken:
        raise
    except LawBroken as broken:
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
            raise confirmed from None
        except TapeEnds:  # mpmath does not agree, and the law went on
            pass
        raise HarnessError(
            f"{law.id} on {subject.id}: the float64 reference reports a ratio of {broken.ratio:.3g} ({broken.what}), "
            f"mpmath {judge.worst:.3g}: the reference or the bound is at fault, not the implementation. Case: {case!r}"
        ) from broken


def try_stored(law: Law, subject: Subject, case: Case) -> Trial:
    """`try_case` for one case by itself, outside of a search.

    Raises:
        LawBroken, HarnessError: as `try_case`; a timeout from outside is a HarnessError.
        KeyboardInterrupt: somebody asks the run to end; not what a target raises under that name.
    """
    begun = time.monotonic()
    with watched():
        try:
            return try_case(law, subject, case)
        except Interrupted as stop:
            if stop.final:
                raise
            settled()
            told = f"{law.id} on {subject.id} was {_stopped(stop, begun)}; nothing is said of the law"
            raise HarnessError(told) from None


def counterexample(law: Law, subject: Subject, case: Case, broken: LawBroken) -> Counterexample:
    """The file of a failure."""
    return Counterexample(
        law=law.id,
        target=subject.target,
        implementation=subject.implementation.name,
        dialect=subject.implementation.dialect,
        dtype=subject.dtype_name,
        device=subject.device.type,
        case=case,
        failure={
            "what": broken.what,
            "where": broken.where,
            "got": broken.got,
            "exact": broken.exact,
            "error": _finite(broken.error),
            "bound": _finite(broken.bound),
            "ratio": _finite(broken.ratio),
            "gap": broken.gap,
            "against": broken.against,
        },
        dialect_option=subject.dialect_option,
        versions=versions(),
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _unsaved(found: Counterexample, path: Path) -> str:
    """Save a counterexample; why that was not possible, or nothing: a broken law stays broken without a file."""
    try:
        found.save(path)
    except (OSError, SafetensorError) as error:  # safetensors has an exception of its own for a disk that is full
        return message_of(error)
    return ""


def _failed(
    law: Law,
    subject: Subject,
    state: _Progress,
    path: Path,
    broken: LawBroken,
    executed: str = "",
    quick: bool = False,
) -> Verdict:
    case = state.case or Case()
    lost = f"{path} could not be written: {state.unsaved}" if state.unsaved else ""
    return Verdict(
        law.id,
        subject,
        "failed",
        broken.what,
        state.examples,
        max(state.worst, broken.ratio),
        None if lost else path,
        explain(law, subject, case, broken, path, lost, also=state.also, quick=quick),
        executed,
        case,
        state.claims,
        state.abstentions,
    )


_BESIDE = {"other": "  (from further outputs of the implementation)", "limit": "  (the most that it may be)"}


def _measured(broken: LawBroken) -> list[tuple[str, str]]:
    """error, gap, bound and ratio, each with what it is."""
    numbers: list[tuple[str, str]] = []
    if not math.isfinite(broken.error):
        numbers.append(("error", "none: one of the two is no finite number, where the bound says that both are"))
    else:
        numbers.append(("error", f"{broken.error:.3g}"))
    near = broken.gap > 1e-3 * broken.bound  # otherwise it is nothing beside the bound
    if near:
        numbers.append(("gap", f"{broken.gap:.3g}  (how far exact arithmetic itself stays from that limit here)"))
    size = abs(float(broken.exact)) if broken.exact else 0.0
    far = math.isfinite(size) and size > 0 and not 1e-3 < size < 1e3  # a bound is large or small as its number is
    share = f", {broken.bound / size:.2g} of that number" if far else ""
    numbers.append(("bound", f"{broken.bound:.3g}  (the most that rounding can explain here{share})"))
    if math.isfinite(broken.ratio):
        counted = "(error - gap) / bound" if near else "error / bound"
        numbers.append(("ratio", f"{broken.ratio:.3g}  ({counted}; above 1 is a failure)"))
    return numbers


_NO_GRAPH = (
    "0 is the gradient of what has no graph (no_grad, detach, .data); what is forward only declares "
    "`differentiable = False`"
)


_BY_DEFAULT = (
    "this law is asked since `{0}` is True, as it is unless something else is said; what is not meant for it declares "
    "`{0} = False`"
)
_TF32 = (
    "for this input products of TensorFloat-32 would explain it (tl.dot of float32 operands, cuBLAS with TF32 on); who "
    "means them declares `products = {!r}`"
)


@usual()
def _read_as_tf32(law: Law, subject: Subject, case: Case) -> Products | None:
    """The declaration of coarser products than the declared ones under which the law would hold, where they are likely:
    on another device or in another process, with float32 parameters."""
    implementation = subject.implementation
    elsewhere = subject.device.type != "cpu" or not implementation.in_process
    if not elsewhere or subject.dtype == torch.float64:
        return None
    ladder: tuple[Products, ...] = ("compute", "tf32", "tf32-truncated")
    for products in ladder[ladder.index(implementation.products) + 1 :]:
        trial = subject.trial()
        trial.rounding = Rounding.of(
            subject.dtype, products, implementation.mixing
        )  # the judge's alone: the call is the one that failed
        try:
            law.judge(trial, case)
        except Exception:  # broken here too; and nothing that goes wrong may take the place of the failure explained
            continue
        return products
    return None


def explain(
    law: Law,
    subject: Subject,
    case: Case,
    broken: LawBroken,
    path: Path,
    lost: str = "",
    *,
    also: Sequence[str] = (),
    quick: bool = False,
) -> str:
    """The message of a failure, for somebody who has never read this code.

    Arguments:
        lost: why there is no file at `path`.
        also: what else there is to say of how it was found.
        quick: call nothing for it.
    """
    numbers: list[tuple[str, str]] = []
    if broken.got:
        numbers.append(("got", broken.got))
    if broken.exact:
        numbers.append((broken.against, broken.exact + _BESIDE.get(broken.against, "")))
    if math.isfinite(broken.bound):
        numbers += _measured(broken)
    if "differentiable" in law.declared and broken.got == "0":
        numbers.append(("hint", _NO_GRAPH))
    elif not quick and math.isfinite(broken.ratio) and (products := _read_as_tf32(law, subject, case)):
        numbers.append(("hint", _TF32.format(products)))
    promises = [one for one in law.declared if one != "differentiable" and getattr(Implementation, one) is True]
    numbers += [("hint", _BY_DEFAULT.format(promise)) for promise in promises]
    numbers += [("also", text) for text in also]
    inputs = "\n".join(f"    {name} = {describe(value)}" for name, value in case.items())
    body = "\n".join(f"  {name:<6} {text}" for name, text in numbers)
    apart = not subject.implementation.in_process
    return (
        f"{subject.implementation.name} breaks {law.id} in {subject.dtype_name} on {subject.device.type}\n"
        f"  law    {law.statement}\n"
        f"  found  {broken.what}{' at ' + broken.where if broken.where else ''}\n"
        f"{body}{chr(10) if body else ''}"
        f"  smallest input found:\n{inputs}\n"
        f"  dialect: {_dialect_words(subject)}\n"
        + (f"  no replay: {lost}" if lost else f"  replay: {replay_line(path, subject.target, apart=apart)}")
    )


def _dialect_words(subject: Subject) -> str:
    from mhc_ref import PRESETS

    dialect = subject.implementation.dialect
    name, difference = min(
        ((name, dialect.difference(preset)) for name, preset in PRESETS.items()), key=lambda pair: len(pair[1])
    )
    changed = ", ".join(f"{field}={mine!r}" for field, (mine, _) in difference.items())
    return name + (f" with {changed}" if changed else "")
