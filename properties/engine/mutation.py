"""Mutants before the laws: which examples reach a mutant's condition, and which law is the first that sees its slip.

At an example that never reaches a mutant's condition the mutant is the reference, call by call, and passes as the
reference does. So the reference is put before the laws once for each thing that can be declared, while the conditions
of all mutants are watched, and a mutant is tried at the examples that reach it alone, in the order of a check, up to
the first that fails: the same verdict for a part of the time. Examples are those of one seed, and the memory of earlier
calls is at each example what it was when the reference began it.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from mhc_ref import PRESETS
from properties.catalogue.mutants import Mutant, Spec
from properties.catalogue.mutants.moments import Event, History, Moment
from properties.core.case import Case
from properties.core.law import Law, all_laws, scouts
from properties.core.premises import compilable as compilers
from properties.core.sweep import Point
from properties.core.trial import LawBroken, NoRoom
from properties.engine.applying import inapplicable
from properties.engine.crowding import Crowding
from properties.engine.subject import PROFILES, Subject, Verdict
from properties.engine.sweeping import Sweeping
from properties.engine.trying import try_case
from properties.guards.faults import HarnessError, described
from properties.guards.interruption import watched
from properties.guards.surroundings import Chance, usual

PROFILE = replace(PROFILES["dev"], derandomise=True, shrink=False, remember=False)
"""The default profile, with the same examples in every run: all that is asked is whether a law fails."""


class First(Crowding):
    """A search that ends with the first failure, as it is: neither confirmed, nor shrunk, nor written down."""

    def failed(self, broken: LawBroken, executed: str = "", quick: bool = False) -> Verdict:
        return Verdict(self.law.id, self.subject, "failed", broken.what, self._tally.examples, broken.ratio)

    def _settles(self, broken: LawBroken, case: Case) -> bool:
        return True  # whether a mutant is wrong is confirmed at a witness

    def _save(self, broken: LawBroken, case: Case) -> None:
        pass


class FirstSize(First, Sweeping):
    """The same for a law that goes through sizes."""

    def _fails(self, point: Point) -> bool | None:
        found = super()._fails(point)
        if found:
            raise LawBroken(f"a size fails: {point.size}", ratio=math.inf)
        return found


def laws_in_order() -> list[Law]:
    """Every law in the order of a check: scouts first."""
    return sorted(all_laws().values(), key=lambda law: law.id not in scouts())


def try_law(
    law: Law, mutant: Mutant, seed: int, kinds: tuple[type[First], type[First]] = (First, FirstSize)
) -> Verdict:
    """The verdict of one law in the default profile, with the examples of a seed; `kinds` of searches, see `First`.

    Raises:
        HarnessError: as `examine`.
    """
    subject = subject_of(mutant)
    if reason := inapplicable(law, subject, PROFILE):
        return Verdict(law.id, subject, "not-applicable", reason)
    search = kinds[law.sweep is not None](law, subject, PROFILE, Path("unwritten"), seed)
    with usual(), watched():
        try:
            return search.verdict()
        finally:
            search.chance.keep()


def methods_of(spec: Spec) -> set[str]:
    """The methods that run a mutant's stage where its conditions can hold."""
    if spec.stage == "layers" or any(one.kind == "position" or one.variable == "L" for one in spec.conditions):
        return {"layers"}
    method = {"read": "pre", "pre": "pre", "write": "post", "post": "post", "collapse": "collapse"}.get(spec.stage)
    return {method or "mappings"} | ({"project"} if spec.stage in ("h_res", "project") else set())


def subject_of(mutant: Mutant) -> Subject:
    """A mutant as the laws know it."""
    return Subject(mutant.name, mutant, mutant.dtypes[0], torch.device("cpu"))


class Watching:
    """Whose conditions have held in the calls of one example.

    Attributes:
        reached: the indices of their mutants.
        seconds: of processor time that watching took, which a check does not take.
    """

    def __init__(self, specs: Iterable[Spec]) -> None:
        self._waiting: dict[str, list[Spec]] = {}
        for one in specs:
            self._waiting.setdefault(one.stage, []).append(one)
        self.reached: list[int] = []
        self.seconds = 0.0

    def __call__(self, moment: Moment) -> None:
        """One stage of one call."""
        waiting = self._waiting.get(moment.stage)
        if not waiting:
            return
        began = time.process_time()
        left: list[Spec] = []
        for spec in waiting:
            if spec.meets(moment, certainly=True):
                self.reached.append(spec.index)
            else:
                left.append(spec)
        self._waiting[moment.stage] = left
        self.seconds += time.process_time() - began


@dataclass(frozen=True)
class Example:
    """An input of a law, and how many events of the reference's history came before it."""

    law: Law
    case: Callable[[], Case]
    before: int


@dataclass
class Ground:
    """What the reference left on its way through the laws.

    Attributes:
        laws: the ids of those that apply, in the order of a check.
        reached: of each mutant, by its index, the examples that reach its condition, in that order.
        log: the history of the reference.
        wrong: what was said of the reference, which is a fault of the laws.
        seconds: of processor time.
    """

    laws: list[str] = field(default_factory=list[str])
    reached: dict[int, list[Example]] = field(default_factory=dict[int, list[Example]])
    log: list[Event] = field(default_factory=list[Event])
    wrong: list[str] = field(default_factory=list[str])
    seconds: float = 0.0


def ground(specs: list[Spec], seed: int, told: Callable[[str], None] = lambda text: None) -> Ground:
    """The reference before all laws, while the conditions of mutants that declare alike are watched.

    `told` hears how far it is. A law that goes through sizes has the profile's own time, without that of watching.
    """
    preset, streams, dtype, compilable = specs[0].group
    began = time.process_time()
    reference = Mutant(None, PRESETS[preset], streams=streams, dtype=dtype, compilable=compilable)
    found = Ground()
    reference.history.log = found.log
    watched_for = 0.0

    @contextmanager
    def noted(law: Law, case: Callable[[], Case]) -> Generator[None]:
        """Notes whom an example reaches."""
        nonlocal watched_for
        example = Example(law, case, len(found.log))
        reference.watch = watch = Watching(specs)
        yield
        watched_for += watch.seconds
        # A compiled call is not watched.
        reached = [one.index for one in specs] if compilable and compilers in law.premises else watch.reached
        for index in reached:
            found.reached.setdefault(index, []).append(example)

    class Recording(First):
        def _attempt(self, case: Case) -> None:
            with noted(self.law, lambda: case):
                super()._attempt(case)

    class RecordingSizes(FirstSize):
        def _now(self) -> float:
            return super()._now() - watched_for

        def _fails(self, point: Point) -> bool | None:
            with noted(self.law, point.case):
                return super()._fails(point)

    # Those that a compiler alone makes wrong are reached by laws that compile.
    laws = [law for law in laws_in_order() if not compilable or compilers in law.premises]
    for number, law in enumerate(laws):
        if number % 25 == 0:
            told(f"{number} of {len(laws)} laws, {time.process_time() - began:.0f} s")
        try:
            verdict = try_law(law, reference, seed, (Recording, RecordingSizes))
        except HarnessError as error:
            found.wrong.append(f"{law.id}: {described(error)}")
            continue
        if verdict.status == "failed":
            found.wrong.append(f"{law.id} fails for the reference: {verdict.reason}")
        if verdict.examples:
            found.laws.append(law.id)
    found.seconds = time.process_time() - began
    return found


@dataclass(frozen=True)
class Attempt:
    """What the laws made of a mutant.

    Attributes:
        killed: the first law that failed; empty where all of them passed.
        reached: how many laws reach the condition.
        fired: how often the slip was made in the examples that were tried.
        examples: how many of them there were.
        ratio: error / bound of the failure, or the largest among those that passed.
        errors: what went wrong in the harness.
    """

    killed: str
    reached: int
    fired: int
    examples: int
    ratio: float
    seconds: float
    errors: tuple[str, ...] = ()


def attempt(spec: Spec, found: Ground) -> Attempt:
    """A mutant at the examples that reach it, up to the first that fails."""
    began = time.process_time()
    every = found.reached.get(spec.index, [])
    mutant = Mutant(spec)
    subject = subject_of(mutant)
    random.seed(spec.index)  # of three of the four generators that chance comes from
    np.random.seed(spec.index)
    torch.manual_seed(spec.index)
    chance = Chance()
    examples, worst, killed = 0, 0.0, ""
    errors: dict[str, str] = {}
    past, place = History(), 0
    remembers = any(one.kind == "history" for one in spec.conditions)
    for example in every:
        law = example.law
        if law.id in errors:
            continue
        if remembers:
            for event in found.log[place : example.before]:
                past.note(*event)
            place, mutant.history = example.before, past.copy()
        examples += 1
        try:
            with usual(), watched(), chance.lived():
                worst = max(worst, try_case(law, subject, example.case(), lambda broken: True).worst)
        except NoRoom:
            continue
        except LawBroken as broken:
            worst, killed = broken.ratio, law.id
            break
        except HarnessError as error:
            errors[law.id] = f"{law.id}: {described(error)}"
    chance.keep()
    laws = len({example.law.id for example in every})
    seconds = round(time.process_time() - began, 3)
    return Attempt(killed, laws, mutant.fired, examples, worst, seconds, tuple(errors.values()))
