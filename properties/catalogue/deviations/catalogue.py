"""What a deviation is, and how one is registered and found by name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol, TypeVar

import torch

from mhc_ref import PRESETS, Dialect
from properties.catalogue.deviations.deviant import Deviant
from properties.core.device import Feature
from properties.core.implementation import Implementation

Kind = Literal[
    "scaling",
    "initialisation",
    "normalisation",
    "order",
    "orientation",
    "eps",
    "iterations",
    "packing",
    "missing-term",
    "dtype",
    "gradient",
    "collapse",
    "execution",
    "device",
    "gamed",
]
Condition = Callable[[Dialect], bool]

ELSEWHERE: dict[str, Dialect] = {
    "PAPER with rms eps 1e-3 outside": PRESETS["PAPER"].with_(rms_eps=1e-3, rms_eps_inside=False),
    "PAPER with 3 iterations": PRESETS["PAPER"].with_(iterations=3),
}
"""Dialects, by a title, in which those deviations show that no preset shows."""

MUTATION = "mutation, no public report"
"""The source of a slip that is realistic but that nobody has published."""


@dataclass(frozen=True)
class Deviation:
    """A named wrong implementation.

    Attributes:
        slip: what it does wrong, one sentence.
        source: where it happened, or `MUTATION`; "bug N" is row N of the survey of 61 published bugs.
        applies: the dialects for which the slip changes what is computed.
        make: the implementation for a dialect that it declares and does not compute.
        dtypes: the state dtypes in which it shows.
        hidden: why its values are right in an ordinary call; empty where they are not.
        needs: the feature of a device without which it shows nothing, if any.
    """

    name: str
    slip: str
    source: str
    kind: Kind
    applies: Condition
    make: Callable[[Dialect], Implementation]
    dtypes: tuple[torch.dtype, ...] = (torch.float64, torch.float32, torch.bfloat16)
    hidden: str = ""
    needs: Feature | None = None


CATALOGUE: dict[str, Deviation] = {}
"""Every deviation whose values are wrong, by its name; filled when the modules of the kinds are imported."""

HIDDEN: dict[str, Deviation] = {}
"""Those whose values are right in an ordinary call: laws see them, values of a few calls cannot explain a failure by
them."""


def build(name: str, dialect: Dialect) -> Implementation:
    """The wrong implementation of that name, declaring `dialect`.

    Raises:
        LookupError: there is none of that name, or it makes no difference for the dialect.
    """
    found = find(CATALOGUE | HIDDEN, name, "deviation")
    if not found.applies(dialect):
        raise LookupError(f"{name} makes no difference for {title(dialect)}. It is: {found.slip}")
    return found.make(dialect)


Entry = TypeVar("Entry")


def find(catalogue: Mapping[str, Entry], name: str, noun: str) -> Entry:
    """The entry of that name; LookupError with the closest names where there is none."""
    if name in catalogue:
        return catalogue[name]
    close = difflib.get_close_matches(name, catalogue, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(sorted(catalogue))}"
    raise LookupError(f"there is no {noun} {name!r}; {hint}")


def title(dialect: Dialect) -> str:
    """The preset's name, or what distinguishes the dialect from PAPER."""
    for name, preset in PRESETS.items():
        if preset == dialect:
            return name
    fields = dialect.difference(PRESETS["PAPER"])
    return "PAPER with " + ", ".join(f"{field}={mine!r}" for field, (mine, _) in fields.items())


# Dialects


def always(dialect: Dialect) -> bool:
    """Every dialect."""
    return True


def mixes(dialect: Dialect) -> bool:
    """The streams are mixed."""
    return dialect.residual != "identity"


def takes_matrix(dialect: Dialect) -> bool:
    """The residual logits are an n x n matrix that matters."""
    return dialect.residual in ("sinkhorn", "unconstrained")


def constrains(dialect: Dialect) -> bool:
    """h_res is projected onto a manifold."""
    return dialect.residual in ("sinkhorn", "permutations")


def projects(dialect: Dialect) -> bool:
    """h_res is projected by Sinkhorn."""
    return dialect.residual == "sinkhorn"


def iterates(dialect: Dialect) -> bool:
    """h_res is projected by at least one Sinkhorn iteration."""
    return projects(dialect) and dialect.iterations > 0


# Registration


class Slip(Protocol):
    """A class decorator for one kind: the docstring of the class is the slip."""

    def __call__(
        self,
        name: str,
        source: str,
        applies: Condition = always,
        dtypes: tuple[torch.dtype, ...] = ...,
        hidden: str = "",
        needs: Feature | None = None,
    ) -> Callable[[type[Deviant]], type[Deviant]]: ...


class Redialect(Protocol):
    """A registration for one kind of a slip that computes another dialect than it declares."""

    def __call__(
        self,
        name: str,
        slip: str,
        source: str,
        change: Callable[[Dialect], Dialect],
        applies: Condition = always,
    ) -> None: ...


def slip(kind: Kind) -> Slip:
    """The decorator that registers a `Deviant` with an overridden step."""
    return partial(_register_class, kind)


def redialect(kind: Kind) -> Redialect:
    """The function that registers a `Deviant` in a changed dialect; it applies where the change is one."""
    return partial(_register_change, kind)


def _register_class(
    kind: Kind,
    name: str,
    source: str,
    applies: Condition = always,
    dtypes: tuple[torch.dtype, ...] = Deviation.dtypes,
    hidden: str = "",
    needs: Feature | None = None,
) -> Callable[[type[Deviant]], type[Deviant]]:
    def register(deviant: type[Deviant]) -> type[Deviant]:
        sentence = " ".join((inspect.getdoc(deviant) or "").split())

        def make(dialect: Dialect) -> Implementation:
            return deviant(dialect, f"deviation:{name}")

        _add(Deviation(name, sentence, source, kind, applies, make, dtypes, hidden, needs))
        return deviant

    return register


def _register_change(
    kind: Kind,
    name: str,
    slip: str,
    source: str,
    change: Callable[[Dialect], Dialect],
    applies: Condition = always,
) -> None:
    _add(
        Deviation(
            name,
            slip,
            source,
            kind,
            lambda d: applies(d) and change(d) != d,
            lambda d: Deviant(d, f"deviation:{name}", change),
        )
    )


def _add(deviation: Deviation) -> None:
    if deviation.name in CATALOGUE | HIDDEN:
        raise ValueError(f"two deviations are called {deviation.name!r}")
    (HIDDEN if deviation.hidden else CATALOGUE)[deviation.name] = deviation
