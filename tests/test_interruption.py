"""Whatever a target raises is its failure, and whatever comes from outside is not: exits, skips, signals, timeouts."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import signal
import unittest
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import errors
from torch import Tensor
from torch.utils.checkpoint import checkpoint as checkpointed

import mhc_ref
from mhc_ref import PAPER, Branch, Params
from properties.causes import Causes
from properties.core.case import BranchSpec, Case
from properties.core.implementation import Implementation
from properties.core.law import Law, all_laws
from properties.core.trial import LawBroken, NoRoom, Trial
from properties.engine.counterexample import Counterexample
from properties.engine.runner import Profile, Subject, Verdict, examine, try_stored, verdict_before
from properties.guards.faults import AdapterError, HarnessError, TargetFault, answered
from properties.guards.interruption import Interrupted, checkpoint, watched
from properties.guards.printable import message_of

pytestmark = pytest.mark.usefixtures("usual_signals")

SUMS = all_laws()["manifold.last-axis-sums"]
BLOCK = all_laws()["block.agrees-with-oracle"]
QUICK = Profile(examples=4, derandomise=True)
THOROUGH = Profile(examples=30, derandomise=True)


class Given(Implementation):
    """Whatever function it is given, as one method."""

    def __init__(self, method: str, function: Callable[..., Any]) -> None:
        self.name = "given"
        self.streams = (2, 3)
        setattr(self, method, function)


def verdict(project: Callable[..., Any], where: Path, profile: Profile = QUICK, law: Law = SUMS) -> Verdict:
    subject = Subject("some.py:target", Given("project", project), torch.float32, torch.device("cpu"))
    return examine(law, subject, profile, directory=where)


def right(logits: Tensor) -> Tensor:
    return mhc_ref.project(logits, PAPER)


def doing(action: Callable[[], Any]) -> Callable[[Tensor], Tensor]:
    def project(logits: Tensor) -> Tensor:
        action()
        return right(logits)

    return project


def raising(make: Callable[[], BaseException]) -> Callable[[], None]:
    def action() -> None:
        raise make()

    return action


# -- whatever a target raises is its failure ---------------------------------------------------------------------------


class Unreadable(BaseException):
    """Raises whatever it is asked."""

    @property
    def __class__(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise RuntimeError("no class")

    def __str__(self) -> str:
        raise KeyboardInterrupt

    __repr__ = __str__

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparison")

    __hash__ = None  # pyright: ignore[reportAssignmentType]


class Text(str):
    """A text that counts as none."""

    def __len__(self) -> int:
        raise RuntimeError("no length")

    def __iter__(self) -> Any:
        raise RuntimeError("no letters")


class Foreign(Exception):
    """Its text is a str of a kind of its own."""

    def __str__(self) -> str:
        return Text("too many tokens")


def in_a_circle() -> BaseException:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    one.__context__, two.__context__ = two, one
    return one


def deeper() -> None:
    deeper()


RAISED: dict[str, tuple[Callable[[], Any], str]] = {
    "pytest.skip": (lambda: pytest.skip("not today"), "project raised Skipped: not today for"),
    "pytest.xfail": (lambda: pytest.xfail("known"), "project raised XFailed: known for"),
    "pytest.fail": (lambda: pytest.fail("no"), "project raised Failed: no for"),
    "pytest.exit": (lambda: pytest.exit("enough"), "project raised Exit: enough for"),
    "pytest.importorskip": (lambda: pytest.importorskip("no_such_module"), "project raised Skipped: could not import"),
    "a skip of unittest": (raising(lambda: unittest.SkipTest("no")), "project raised SkipTest: no for"),
    "an exit": (raising(lambda: SystemExit(0)), "project raised SystemExit: 0 for"),
    "KeyboardInterrupt": (raising(lambda: KeyboardInterrupt("mine")), "project raised KeyboardInterrupt: mine for"),
    "GeneratorExit": (raising(GeneratorExit), "project raised GeneratorExit for"),
    "a cancelled task": (raising(asyncio.CancelledError), "project raised CancelledError for"),
    "a MemoryError": (raising(MemoryError), "project raised MemoryError for"),
    "no memory of a device": (raising(lambda: torch.OutOfMemoryError("full")), "project raised OutOfMemoryError: full"),
    "our own word for it": (raising(lambda: NoRoom("full")), "project raised NoRoom: full for"),
    "our own error": (raising(lambda: HarnessError("yours")), "project raised HarnessError: yours for"),
    "our own word for this": (
        raising(lambda: TargetFault(ValueError("x"))),
        "project raised TargetFault: ValueError: x",
    ),
    "a recursion": (deeper, "project raised RecursionError: maximum recursion depth exceeded"),
    "assume": (lambda: hypothesis.assume(False), "project raised UnsatisfiedAssumption"),
    "reject": (hypothesis.reject, "project raised UnsatisfiedAssumption"),
    "a misuse": (raising(lambda: errors.HypothesisException("nested")), "project raised HypothesisException: nested"),
    "a health check": (raising(lambda: errors.FailedHealthCheck("slow")), "project raised FailedHealthCheck: slow for"),
    "no examples": (raising(lambda: errors.Unsatisfiable("none")), "project raised Unsatisfiable: none for"),
    "a stop": (raising(lambda: errors.StopTest(0)), "project raised StopTest: 0 for"),
    "flakiness": (raising(lambda: errors.FlakyFailure("odd", [ValueError("x")])), "project raised FlakyFailure: odd"),
    "a group": (
        raising(lambda: BaseExceptionGroup("both", [ValueError("a"), GeneratorExit()])),
        r"project raised BaseExceptionGroup: both (2 sub-exceptions): ValueError: a; GeneratorExit for",
    ),
    "a circle of causes": (raising(in_a_circle), "project raised ValueError: one for"),
    "what cannot be read": (
        raising(Unreadable),
        "project raised Unreadable: (its message cannot be read: __str__ raised KeyboardInterrupt) for",
    ),
    "a text of its own kind": (raising(Foreign), "project raised Foreign: too many tokens for"),
    "a message of megabytes": (raising(lambda: ValueError("x" * 10**7)), "(9999412 characters more)"),
    "escape sequences": (raising(lambda: ValueError("\x1b[31mred")), r"project raised ValueError: \x1b[31mred for"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", RAISED)
def test_whatever_a_target_raises_breaks_the_law_and_can_be_read(what: str, tmp_path: Path) -> None:
    action, message = RAISED[what]
    found = verdict(doing(action), tmp_path)
    assert found.status == "failed"
    assert message in found.reason
    assert found.reason in found.message
    assert len(found.reason) < 3000
    assert found.counterexample is not None
    assert Counterexample.load(found.counterexample).failure["what"] == found.reason


def test_what_a_target_raises_for_some_inputs_leaves_the_message_of_the_others(tmp_path: Path) -> None:
    """At two streams it is wrong, at three it skips: the smaller one is what is told."""

    def project(logits: Tensor) -> Tensor:
        if logits.shape[-1] == 3:
            pytest.skip("only two streams")
        return 2 * right(logits)

    found = verdict(project, tmp_path, THOROUGH)
    assert found.status == "failed"
    assert "a sum of h_res over dim -1" in found.reason


def test_the_class_of_a_hostile_exception_is_named_by_python_and_not_by_its_metaclass() -> None:
    class Meta(type):
        @property
        def __name__(cls) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
            raise RuntimeError("no name")

    class Odd(Exception, metaclass=Meta):
        pass

    assert TargetFault(Odd("x")).kind == "Odd"


def test_an_error_of_an_adapter_is_nobody_s_failure(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="declare the buffer"):
        verdict(doing(raising(lambda: AdapterError("declare the buffer"))), tmp_path)


def branching(wrapped: Callable[[Branch, Tensor], Tensor]) -> Implementation:
    def block(x: Tensor, params: Params, branch: Branch) -> Tensor:
        return mhc_ref.block(x, params, lambda u: wrapped(branch, u), PAPER)

    return Given("block", block)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["it passes", "it is wrapped", "it is swallowed"])
def test_a_fault_of_our_branch_is_ours_whatever_the_target_makes_of_it(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: BranchSpec, u: Tensor) -> Tensor:
        raise ZeroDivisionError("in the branch")

    def wrapped(branch: Branch, u: Tensor) -> Tensor:
        if way == "it passes":
            return branch(u)
        try:
            return branch(u)
        except Exception as error:
            if way == "it is wrapped":
                raise RuntimeError("my branch failed") from error
            return u

    monkeypatch.setattr(BranchSpec, "__call__", broken)
    subject = Subject("some.py:target", branching(wrapped), torch.float32, torch.device("cpu"))
    with pytest.raises(HarnessError, match="branch raised ZeroDivisionError: in the branch"):
        examine(BLOCK, subject, QUICK, directory=tmp_path)


@pytest.mark.slow
def test_a_branch_that_is_computed_again_may_be_ended_early(tmp_path: Path) -> None:
    """torch's checkpointing raises from a hook on saved tensors once all of them are there, within our branch."""

    def recomputed(branch: Branch, u: Tensor) -> Tensor:
        y: Any = checkpointed(branch, u, use_reentrant=False)
        return 1.01 * y

    subject = Subject("some.py:target", branching(recomputed), torch.float32, torch.device("cpu"))
    law = all_laws()["gradient.block-pulls-back-to-state-and-parameters"]
    found = examine(law, subject, QUICK, directory=tmp_path, attribution=Causes(seconds=20))
    assert found.status == "failed", found.reason
    (cause,) = found.causes
    assert cause.explanation, "who asks the target further questions calls its branch again backwards, too"
    assert cause.explanation["fields"] == {"post_scale": 2.02}


@pytest.mark.parametrize("whose", ["ours", "the target's"])
def test_what_fails_around_a_call_is_ours_where_it_fails_for_the_reference_too(whose: str, tmp_path: Path) -> None:
    """A law calls the target twice in code of its own, and the accident happens between the calls."""

    def check(trial: Trial, case: Case) -> None:
        def run(target: Implementation, place: Callable[[Any], Any]) -> Tensor:
            first = target.project(place(case.logits)).detach()
            return first if whose == "the target's" else first.missing  # pyright: ignore

        trial.observe("project", run)

    law = dataclasses.replace(SUMS, judge=check)
    if whose == "ours":
        with pytest.raises(
            HarnessError, match=r"no attribute 'missing' at test_interruption.py:\d+, in code of the suite"
        ):
            verdict(right, tmp_path, law=law)
    else:
        found = verdict(lambda logits: None, tmp_path, law=law)
        assert "project raised AttributeError: 'NoneType' object has no attribute 'detach'" in found.reason


def test_a_gradient_that_fails_in_code_of_a_law_is_no_failure_of_the_target(tmp_path: Path) -> None:
    def check(trial: Trial, case: Case) -> None:
        trial.pull("project", [case.logits], [case.logits], lambda target, z: target.project(z) / (1 // 0))

    with pytest.raises(HarnessError, match=r"ZeroDivisionError: .* in code of the suite around the calls of project"):
        verdict(right, tmp_path, law=dataclasses.replace(SUMS, judge=check))


# -- what comes from outside is not ------------------------------------------------------------------------------------


@contextlib.contextmanager
def handled(number: signal.Signals, error: Callable[[], BaseException]) -> Generator[None]:
    """A handler that raises, as a test runner has one for its timeout."""

    def handler(*_: Any) -> None:
        raise error()

    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def swallowed() -> None:
    with contextlib.suppress(BaseException):  # as many targets do
        interrupt()


def converted() -> None:
    try:
        interrupt()
    except BaseException as error:
        raise RuntimeError("cleaned up") from error


def in_a_callback() -> None:
    """What is raised in a callback of the garbage collector, as Hypothesis has one, is dropped by Python."""

    def callback(*_: Any) -> None:
        gc.callbacks.remove(callback)
        interrupt()

    gc.callbacks.append(callback)
    gc.collect()


class Dropped:
    """Whatever is raised in `__del__` is dropped too."""

    def __del__(self) -> None:
        interrupt()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("way", [interrupt, swallowed, converted, in_a_callback, Dropped])
def test_an_interrupt_ends_the_run_wherever_it_falls(way: Callable[[], Any], tmp_path: Path) -> None:
    calls: list[int] = []

    def project(logits: Tensor) -> Tensor:
        calls.append(1)
        way()
        return right(logits)

    with pytest.raises(KeyboardInterrupt) as caught:
        verdict(project, tmp_path)
    assert type(caught.value) is KeyboardInterrupt
    assert verdict_before(caught.value) is None
    assert len(calls) == 1


@pytest.mark.parametrize("place", ["drawing", "judging"])
def test_an_interrupt_outside_of_the_target_ends_the_run_too(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    law = SUMS
    if place == "drawing":
        law = dataclasses.replace(SUMS, draw=lambda s: SUMS.draw(s).map(lambda case: (swallowed(), case)[1]))
    else:
        monkeypatch.setattr("properties.core.judging.wide", lambda value: (swallowed(), value.detach().double())[1])
    with pytest.raises(KeyboardInterrupt):
        verdict(right, tmp_path, law=law)


def test_what_was_found_before_an_interrupt_goes_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[Tensor] = []

    def project(logits: Tensor) -> Tensor:
        if len(seen) == 2:
            interrupt()
        if logits.shape[-1] == 3:
            seen.append(logits.clone())
            return 2 * right(logits)
        return right(logits)

    with pytest.raises(KeyboardInterrupt) as caught:
        verdict(project, tmp_path, THOROUGH)
    assert capsys.readouterr().out == ""  # no advice of Hypothesis about a test that there is not
    found = verdict_before(caught.value)
    assert found is not None
    assert found.status == "failed"
    assert "a sum of h_res over dim -1" in found.message
    assert "stopped from outside after" in found.message
    assert "(SIGINT: KeyboardInterrupt): there may be a smaller input" in found.message
    assert found.counterexample is not None
    assert torch.equal(Counterexample.load(found.counterexample).case.logits, seen[-1])


@pytest.mark.parametrize("error", [lambda: SystemExit(15), KeyboardInterrupt, lambda: RuntimeError("terminated")])
def test_a_request_to_end_is_handed_on_as_it_is(error: Callable[[], BaseException], tmp_path: Path) -> None:
    with handled(signal.SIGTERM, error), pytest.raises(type(error())):
        verdict(doing(lambda: signal.raise_signal(signal.SIGTERM)), tmp_path)


needs_alarm = pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="this platform has no SIGALRM")
TIMEOUTS = [
    lambda: pytest.fail.Exception("Timeout (>1.0s) from pytest-timeout."),
    lambda: TimeoutError("too long"),
]


@needs_alarm
@pytest.mark.parametrize("error", TIMEOUTS)
def test_a_timeout_from_outside_says_nothing_of_the_law(error: Callable[[], BaseException], tmp_path: Path) -> None:
    with handled(signal.SIGALRM, error), pytest.raises(HarnessError) as caught:
        verdict(doing(lambda: signal.raise_signal(signal.SIGALRM)), tmp_path)
    told = str(caught.value)
    assert "manifold.last-axis-sums on given-float32-cpu was stopped from outside after" in told
    assert f"(SIGALRM: {type(error()).__name__}: {message_of(error())})" in told
    assert "nothing is said of the law" in told


@needs_alarm
@pytest.mark.parametrize("error", TIMEOUTS)
def test_a_timeout_while_a_failure_is_made_smaller_leaves_the_failure(
    error: Callable[[], BaseException], tmp_path: Path
) -> None:
    calls: list[int] = []

    def project(logits: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGALRM)
        return 2 * right(logits)

    with handled(signal.SIGALRM, error):
        found = verdict(project, tmp_path)
    assert found.status == "failed"
    assert found.executed_law == ""
    assert "there may be a smaller input" in found.message
    assert len(calls) == 3


@needs_alarm
def test_a_timeout_that_a_target_sets_itself_is_its_own_failure(tmp_path: Path) -> None:
    def timed() -> None:
        with handled(signal.SIGALRM, lambda: TimeoutError("my own limit")):
            signal.raise_signal(signal.SIGALRM)

    found = verdict(doing(timed), tmp_path)
    assert found.status == "failed"
    assert "project raised TimeoutError: my own limit" in found.reason


@needs_alarm
def test_a_stored_case_is_tried_under_the_same_watch(tmp_path: Path) -> None:
    """Whatever the target raises breaks the law, a timeout is an error, and Ctrl-C is Ctrl-C."""

    def tried(action: Callable[[], Any]) -> Any:
        subject = Subject("x.py:y", Given("project", doing(action)), torch.float32, torch.device("cpu"))
        return try_stored(SUMS, subject, Case(logits=torch.zeros(1, 2, 2)))

    with pytest.raises(LawBroken, match="project raised KeyboardInterrupt: mine"):
        tried(raising(lambda: KeyboardInterrupt("mine")))
    with pytest.raises(KeyboardInterrupt):
        tried(swallowed)
    with handled(signal.SIGALRM, TIMEOUTS[0]), pytest.raises(HarnessError, match="nothing is said of the law"):
        tried(lambda: signal.raise_signal(signal.SIGALRM))
    assert tried(lambda: None).worst <= 1


def test_handlers_are_as_before_once_nobody_is_called() -> None:
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    with watched(), watched():
        assert signal.getsignal(signal.SIGINT) is not before[signal.SIGINT]
    assert {number: signal.getsignal(number) for number in signal.valid_signals()} == before


def test_a_handler_that_a_target_leaves_behind_stays_and_ours_under_it_does_nothing() -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        with watched():
            ours = signal.getsignal(signal.SIGINT)
            assert callable(ours)
            signal.signal(signal.SIGINT, lambda number, frame: ours(number, frame))
        with pytest.raises(KeyboardInterrupt) as caught:
            interrupt()
        assert type(caught.value) is KeyboardInterrupt
        checkpoint()
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_of_a_watch_a_keyboard_interrupt_is_the_user_s() -> None:
    with pytest.raises(KeyboardInterrupt):
        answered(raising(KeyboardInterrupt))
    with watched(), pytest.raises(TargetFault, match="KeyboardInterrupt"):
        answered(raising(KeyboardInterrupt))


def test_an_interrupt_that_was_swallowed_comes_back_when_the_watch_ends() -> None:
    with pytest.raises(KeyboardInterrupt) as caught, watched():
        swallowed()
    assert not isinstance(caught.value, Interrupted)


# -- faults of the harness on the way to a smaller input ---------------------------------------------------------------


@pytest.mark.slow
def test_a_fault_of_ours_met_while_shrinking_is_told_and_takes_nothing_away(tmp_path: Path) -> None:
    def check(trial: Any, case: Case) -> None:
        got = trial.project(case.logits)
        if case.logits.shape[-1] < 3:
            raise HarnessError("the bound is at fault")
        trial.within("h_res", got, torch.zeros(1), torch.full_like(got, 1 / 64))

    drawn: list[int] = []

    def first_three(case: Case) -> bool:
        drawn.append(case.logits.shape[-1])
        return 3 in drawn or case.logits.shape[-1] > 2

    law = dataclasses.replace(SUMS, judge=check, draw=lambda s: SUMS.draw(s).filter(first_three))
    found = verdict(right, tmp_path, THOROUGH, law)
    assert found.status == "failed"
    assert found.reason == "h_res"
    assert found.counterexample is not None
    assert Counterexample.load(found.counterexample).case.logits.shape[-1] == 3
    assert "at another input the harness itself failed: HarnessError: the bound is at fault (test_" in found.message
    assert "the smallest at which the law is known to be broken" in found.message


@pytest.mark.slow
def test_a_fault_of_ours_that_comes_first_is_told_when_the_law_turns_out_to_be_broken(tmp_path: Path) -> None:
    def check(trial: Any, case: Case) -> None:
        got = trial.project(case.logits)
        if case.logits.shape[-1] == 3:
            raise HarnessError("the bound is at fault")
        trial.within("h_res", got, torch.zeros(1), torch.full_like(got, 1 / 64))

    begun: list[int] = []

    def three_first(case: Case) -> bool:
        begun.append(1)
        return len(begun) > 30 or case.logits.shape[-1] == 3

    law = dataclasses.replace(SUMS, judge=check, draw=lambda s: SUMS.draw(s).filter(three_first))
    found = verdict(right, tmp_path, THOROUGH, law)
    assert found.status == "failed"
    assert "HarnessError: the bound is at fault" in found.message


@pytest.mark.slow
@pytest.mark.parametrize("waste", [filter, "assume"])
def test_a_strategy_that_throws_most_inputs_away_is_an_error_that_names_it(waste: Any, tmp_path: Path) -> None:
    drawn: list[int] = []

    def one_in_forty(case: Case) -> bool:
        drawn.append(1)
        return len(drawn) % 40 == 0

    def assumed(case: Case) -> Case:
        hypothesis.assume(one_in_forty(case))
        return case

    def cases(setting: Any) -> Any:
        return SUMS.draw(setting).map(assumed) if waste == "assume" else SUMS.draw(setting).filter(one_in_forty)

    law = dataclasses.replace(SUMS, draw=cases)
    with pytest.raises(
        HarnessError, match=r"manifold\.last-axis-sums on .* its strategy \(`properties\.laws\.manifold`, `draw`\)"
    ):
        verdict(right, tmp_path, THOROUGH, law)
