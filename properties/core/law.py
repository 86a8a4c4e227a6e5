"""What a law is: a sentence, the reason why it holds, the dialects it holds for, and a check that bites."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

import torch

from mhc_ref import Dialect
from properties.core.device import Feature, device_of
from properties.core.implementation import Implementation, dtype_names, offers, parameter_dtype
from properties.guards.faults import HarnessError

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

    from properties.core.case import Case
    from properties.core.trial import Trial
    from properties.strategies import Setting

Kind = Literal["identity", "invariant", "oracle", "contract"]
"""identity: two outputs of the target are related exactly; invariant: one output satisfies an equation or inequality;
oracle: an output is compared with what `trial.truth` answers (a verdict that asked it nothing is refused); contract:
shapes, dtypes, purity, determinism."""

Stage = Literal["logits", "state"]
"""Whether a law feeds logits alone (float32 for every state dtype but float64) or states."""

FAMILIES = ("manifold", "mixing", "coefficients", "block", "depth", "gradient", "execution", "device", "precision")
"""The law families, one module of `properties.laws` each; what does not fit one file goes on in `FAMILY_*.py`."""

Applies = Callable[[Dialect], str | None]
"""None where the law holds for the dialect, otherwise the reason why it does not."""

Excuse = Callable[[Implementation, torch.dtype], str | None]
"""None where the law says something about what an implementation declares for states of a dtype, otherwise the reason
why it does not."""


def no_excuse(implementation: Implementation, dtype: torch.dtype) -> str | None:
    """Holds whatever is declared."""
    return None


@dataclass(frozen=True)
class Law:
    """A property with an id.

    Attributes:
        id: family.name, stable: known failures and counterexample files refer to it.
        statement: one sentence.
        reason: why it holds, or where that is derived.
        kind: see `Kind`.
        stage: see `Stage`.
        needs: methods of the implementation that it calls.
        applies: which dialects it holds for.
        blind: deviations of the catalogue that it cannot see, as a warning to the reader; each is tried by
            tests/test_blindness.py.
        cases: the strategy for one example, given what the implementation accepts.
        check: raises `LawBroken` where the law is broken.
        least_streams: the smallest n at which it says anything.
        gradient: it differentiates the implementation.
        parts: the mappings whose emission it needs.
        capability: the attribute of `Implementation` that must be true, if any.
        excuse: what else in a declaration puts the law out of place.
        cost: the number of examples is divided by it.
        by_streams: half of the examples go to each accepted n by itself; without, all go to one search over every n.
        most: as many examples at most; 0 for no limit.
        in_process: it sets up something about this process that a call in another one does not see.
        feature: what it needs of the device, see `properties.core.device.Feature`.
        giants: tensors of 2^31 elements in the dtype that it feeds, for which there must be room.
        thorough: on a CPU only in the profile of that name; why it is too slow otherwise.
    """

    id: str
    statement: str
    reason: str
    kind: Kind
    stage: Stage
    needs: tuple[str, ...]
    applies: Applies
    blind: tuple[str, ...]
    cases: Callable[[Setting], SearchStrategy[Case]]
    check: Callable[[Trial, Case], None]
    least_streams: int = 1
    gradient: bool = False
    parts: tuple[str, ...] = ()
    capability: str = ""
    excuse: Excuse = no_excuse
    cost: float = 1.0
    by_streams: bool = True
    most: int = 0
    in_process: bool = False
    feature: Feature | None = None
    giants: int = 0
    thorough: str = ""
    module: str = ""

    @property
    def family(self) -> str:
        """The first word of the id."""
        return self.id.partition(".")[0]

    def inapplicable(
        self, implementation: Implementation, dtype: torch.dtype, place: torch.device | None = None
    ) -> str | None:
        """Why the law says nothing about this implementation in this dtype (on this device); None where it applies."""
        offered = offers(implementation)
        missing = [method for method in self.needs if method not in offered]
        if missing:
            return f"does not offer {', '.join(missing)}"
        silent = [part for part in self.parts if part not in implementation.emits]
        if silent:
            return f"mappings does not emit {', '.join(silent)}"
        reason = self.applies(implementation.dialect)
        if reason:
            return reason
        if self.gradient and not implementation.differentiable:
            return "declared as not differentiable"
        if self.capability and not getattr(implementation, self.capability):
            return f"{self.capability} is not declared"
        if max(implementation.streams) < self.least_streams:
            return f"says nothing below n = {self.least_streams}"
        reason = self.excuse(implementation, dtype)
        if reason:
            return reason
        name = str(dtype).removeprefix("torch.")
        if self.stage == "logits" and name not in ("float64", "float32") and "float32" in dtype_names(implementation):
            return f"logits are float32 for {name} states: covered by float32"
        return None if place is None else self._out_of_place(implementation, dtype, place)

    def _out_of_place(self, implementation: Implementation, dtype: torch.dtype, place: torch.device) -> str | None:
        if place.type not in implementation.devices:
            return f"does not compute on {place.type}: its devices are {', '.join(implementation.devices)}"
        if self.in_process and not implementation.in_process:
            return "computes in another process"
        device = device_of(place)
        if self.feature and (reason := device.lacks(self.feature)):
            return reason
        if self.feature == "accelerator" and "cpu" not in implementation.devices:
            return f"does not compute on cpu: its devices are {', '.join(implementation.devices)}"
        if self.giants:
            if self.stage == "logits" and implementation.max_tokens < device.giant:
                return f"takes {implementation.max_tokens} tokens a call"
            size = (parameter_dtype(dtype) if self.stage == "logits" else dtype).itemsize
            return device.short_of(self.giants * device.giant * size)
        return None


def always(dialect: Dialect) -> str | None:
    """Holds for every dialect."""
    return None


def stripped() -> str | None:
    """Why no law can be made in this process, where Python removed the docstrings; None where they are there."""
    if sys.flags.optimize < 2:
        return None
    return (
        "Python runs with -OO (PYTHONOPTIMIZE=2), which removes docstrings, and a law states itself in one: run it "
        "without"
    )


def law(
    *,
    kind: Kind,
    stage: Stage,
    needs: Sequence[str],
    cases: Callable[[Setting], SearchStrategy[Case]],
    applies: Applies = always,
    blind: Sequence[str] = (),
    least_streams: int = 1,
    gradient: bool = False,
    parts: Sequence[str] = (),
    capability: str = "",
    excuse: Excuse = no_excuse,
    cost: float = 1.0,
    by_streams: bool = True,
    most: int = 0,
    in_process: bool = False,
    feature: Feature | None = None,
    giants: int = 0,
    thorough: str = "",
) -> Callable[[Callable[[Trial, Case], None]], Law]:
    """Make a law of a function whose docstring is the statement, an empty line, and the reason.

    Raises:
        TypeError: the docstring lacks one of them.
        HarnessError: Python removed the docstrings.
    """

    if reason := stripped():
        raise HarnessError(reason)

    def decorate(check: Callable[[Trial, Case], None]) -> Law:
        statement, _, reason = inspect.cleandoc(check.__doc__ or "").partition("\n\n")
        if not statement or not reason:
            raise TypeError(
                f"law {check.__name__}: its docstring must state the law, and after an empty line why it holds"
            )
        family = check.__module__.rpartition(".")[2].partition("_")[0]
        return Law(
            id=f"{family}.{check.__name__.replace('_', '-')}",
            statement=" ".join(statement.split()),
            reason=reason,
            kind=kind,
            stage=stage,
            needs=tuple(needs),
            applies=applies,
            blind=tuple(blind),
            cases=cases,
            check=check,
            least_streams=least_streams,
            gradient=gradient,
            parts=tuple(parts),
            capability=capability,
            excuse=excuse,
            cost=cost,
            by_streams=by_streams,
            most=most,
            in_process=in_process,
            feature=feature,
            giants=giants,
            thorough=thorough,
            module=check.__module__,
        )

    return decorate


@cache
def family_laws(family: str) -> tuple[Law, ...]:
    """The laws of the modules of a family, in the order of the files."""
    package = importlib.import_module("properties.laws")
    here = [one.name for one in pkgutil.iter_modules(package.__path__) if one.name.partition("_")[0] == family]
    modules = [importlib.import_module(f"properties.laws.{name}") for name in sorted(here)]
    return tuple(
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, Law) and value.module == module.__name__
    )


@cache
def all_laws() -> dict[str, Law]:
    """Every law by id."""
    return {one.id: one for family in FAMILIES for one in family_laws(family)}


@cache
def scouts() -> frozenset[str]:
    """The ids of one oracle law of each family, in which most mistakes show: a run begins with them."""
    oracles = [[one for one in family_laws(family) if one.kind == "oracle"] for family in FAMILIES]
    return frozenset(max(laws, key=lambda one: one.id.endswith(".agrees-with-oracle")).id for laws in oracles if laws)
