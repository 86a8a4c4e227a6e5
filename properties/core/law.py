"""What a law is: a sentence, the reason why it holds, whom it speaks about, and a judge that bites."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import torch

from properties.core.implementation import Implementation
from properties.core.premises import (
    ANYWHERE,
    AtLeast,
    Declares,
    Offers,
    OnDevice,
    Premise,
    TunesSome,
    known_mix,
    not_covered_by_float32,
)
from properties.guards.faults import HarnessError

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

    from properties.core.case import Case
    from properties.core.sweep import Sweep
    from properties.core.trial import Trial
    from properties.strategies import Setting

Kind = Literal["identity", "invariant", "oracle", "contract"]
"""identity: two outputs of the target are related exactly; invariant: one output satisfies an equation or inequality;
oracle: an output is compared with what `trial.truth` answers (a verdict that asked it nothing is refused); contract:
shapes, dtypes, purity, determinism."""

FAMILIES = (
    *("manifold", "mixing", "coefficients", "block", "depth", "gradient", "execution", "device", "precision"),
    "sizes",
)
"""The families of laws, in the order in which they are tried; the first word of a law's id."""

_MIXING = frozenset({"project", "mappings", "block", "layers", "stack"})
"""Methods whose values depend on the formula of h_res."""

Draw = Callable[["Setting"], "SearchStrategy[Case]"]
"""The strategy for one example, given what the implementation accepts."""

Judge = Callable[["Trial", "Case"], None]
"""Raises `LawBroken` where the law is broken."""


@dataclass(frozen=True)
class Schedule:
    """How many examples a law gets.

    Attributes:
        cost: their number is divided by it.
        by_streams: half of them go to each accepted n by itself; without, all go to one search over every n.
        most: as many at most; 0 for no limit.
        thorough: on a CPU only in the profile of that name; why it is too slow otherwise.
        once: on a CPU in one dtype of an implementation, and not in the profile ci; why it is too slow otherwise.
        crowds: whether it is tried once more each at sizes beyond a tile (`properties.strategies.setting.Crowd`).
    """

    cost: float = 1.0
    by_streams: bool = True
    most: int = 0
    thorough: str = ""
    once: str = ""
    crowds: bool = True


@dataclass(frozen=True)
class Law:
    """A property with an id.

    Attributes:
        id: family.name, stable: known failures and counterexample files refer to it.
        statement: one sentence.
        reason: why it holds, or where that is derived.
        kind: see `Kind`.
        needs: methods of the implementation that it calls.
        premises: when it holds; they are asked in this order.
        blind: deviations of the catalogue that it cannot see, as a warning to the reader; each is tried by
            tests/test_blindness.py.
        draw: see `Draw`.
        judge: see `Judge`.
        schedule: how many examples it gets.
        module: where it is written.
        sweep: the sizes that it goes through one by one, where it does; `draw` then gives some of them.
    """

    id: str
    statement: str
    reason: str
    kind: Kind
    needs: tuple[str, ...]
    premises: tuple[Premise, ...]
    blind: tuple[str, ...]
    draw: Draw
    judge: Judge
    schedule: Schedule = Schedule()
    module: str = ""
    sweep: Sweep | None = None

    @property
    def family(self) -> str:
        """The first word of the id."""
        return self.id.partition(".")[0]

    @property
    def least_streams(self) -> int:
        """The smallest n at which it says anything."""
        return max((one.streams for one in self.premises if isinstance(one, AtLeast)), default=1)

    @property
    def declared(self) -> tuple[str, ...]:
        """The attributes of an implementation that must be true."""
        return tuple(one.attribute for one in self.premises if isinstance(one, Declares))

    @property
    def on(self) -> OnDevice:
        """What it needs of the place where the implementation computes."""
        return next((one for one in self.premises if isinstance(one, OnDevice)), ANYWHERE)

    @property
    def tunes(self) -> TunesSome | None:
        """The fields of which it tunes some, where it is about that."""
        return next((one for one in self.premises if isinstance(one, TunesSome)), None)

    def inapplicable(
        self, implementation: Implementation, dtype: torch.dtype, place: torch.device | None = None
    ) -> str | None:
        """Why the law says nothing about this implementation in this dtype (on this device); None where it applies."""
        return next((reason for one in self.premises if (reason := one(implementation, dtype, place))), None)


def stripped() -> str | None:
    """Why no law can be made in this process, where Python removed the docstrings; None where they are there."""
    if sys.flags.optimize < 2:
        return None
    return (
        "Python runs with -OO (PYTHONOPTIMIZE=2), which removes docstrings, and a law states itself in one: run it "
        "without"
    )


def law(
    id: str,
    kind: Kind,
    draw: Draw,
    *premises: Premise,
    needs: Sequence[str],
    on: OnDevice = ANYWHERE,
    blind: Sequence[str] = (),
    schedule: Schedule = Schedule(),
    sweep: Sweep | None = None,
) -> Callable[[Judge], Law]:
    """Make a law of a function whose docstring is the statement, an empty line, and the reason.

    Arguments:
        premises: besides those that follow from `needs` and from `on`. They are asked in this order: what is
            emitted, the dialect, what is declared, the number of streams, the rest.

    Raises:
        TypeError: the docstring lacks one of them, or no family has that id.
        HarnessError: Python removed the docstrings.
    """
    if reason := stripped():
        raise HarnessError(reason)
    if id.partition(".")[0] not in FAMILIES:
        raise TypeError(f"law {id}: an id begins with one of {', '.join(FAMILIES)}, and a full stop")
    logits = tuple(needs) == ("project",)  # alone: float32 for every state dtype but float64
    every = (
        Offers(tuple(needs)),
        *([known_mix] if kind == "oracle" and _MIXING.intersection(needs) else []),
        *premises,
        *([not_covered_by_float32] if logits else []),
        replace(on, logits=logits),
    )

    def decorate(judge: Judge) -> Law:
        statement, _, reason = inspect.cleandoc(judge.__doc__ or "").partition("\n\n")
        if not statement or not reason:
            raise TypeError(f"law {id}: its docstring must state the law, and after an empty line why it holds")
        said = " ".join(statement.split())
        parts = id, said, reason, kind, tuple(needs), every, tuple(blind), draw, judge, schedule, judge.__module__
        return Law(*parts, sweep)

    return decorate


@cache
def all_laws() -> dict[str, Law]:
    """Every law by id: family by family, each in the order in which `properties.laws` reads its modules.

    Raises:
        HarnessError: two laws have one id.
    """
    found: dict[str, Law] = {}
    for one in _written():
        if one.id in found:
            raise HarnessError(f"two laws are called {one.id}, in {found[one.id].module} and {one.module}")
        found[one.id] = one
    return {id: one for family in FAMILIES for id, one in found.items() if one.family == family}


def _written() -> Iterator[Law]:
    """The laws of all modules of laws, those of a table among them."""
    for name in importlib.import_module("properties.laws").MODULES:
        module = importlib.import_module(f"properties.laws.{name}")
        for value in vars(module).values():
            several: Sequence[Any] = value if isinstance(value, tuple) else (value,)
            yield from (one for one in several if isinstance(one, Law) and one.module == module.__name__)


@cache
def family_laws(family: str) -> tuple[Law, ...]:
    """The laws of a family."""
    return tuple(one for one in all_laws().values() if one.family == family)


@cache
def scouts() -> frozenset[str]:
    """The ids of one oracle law of each family, in which most mistakes show: a run begins with them."""
    oracles = [[one for one in family_laws(family) if one.kind == "oracle"] for family in FAMILIES]
    return frozenset(max(laws, key=lambda one: one.id.endswith(".agrees-with-oracle")).id for laws in oracles if laws)
