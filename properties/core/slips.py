"""What a deviation and a control are, and the lists in which a topic or a family names its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

import mhc_ref
from mhc_ref import Dialect
from mhc_ref.packing import logits_shape
from mhc_ref.stack import ends_with_last
from properties.core.deviant import Deviant
from properties.core.device import Feature
from properties.core.family import dynamic_of, gate_of, mix_of
from properties.core.implementation import Implementation
from properties.core.norms import norm_of
from properties.core.reads import read_of

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
KINDS: tuple[Kind, ...] = get_args(Kind)
Condition = Callable[[Dialect], bool]

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


# Dialects, by what their families guarantee


def always(dialect: Dialect) -> bool:
    """Every dialect."""
    return True


def mixes(dialect: Dialect) -> bool:
    """h_res depends on its logits."""
    return not mix_of(dialect).guarantees(dialect).constant


def some_streams(dialect: Dialect) -> int:
    """A number of streams that the mix is for: 3, or what is next to it; 3 where it is for none of the usual ones."""
    for n in (3, 4, 2, 5, 6, 8):
        try:
            mix_of(dialect).shape(n, dialect)
        except ValueError:
            continue
        return n
    return 3


def takes_matrix(dialect: Dialect) -> bool:
    """The residual logits are an n x n matrix that matters."""
    n = some_streams(dialect)
    return mixes(dialect) and tuple(mix_of(dialect).shape(n, dialect)) == (n, n)


def constrains(dialect: Dialect) -> bool:
    """h_res depends on its logits, and lies on a manifold."""
    found = mix_of(dialect).guarantees(dialect)
    return mixes(dialect) and (found.nonnegative or found.nonexpansive or bool(found.sums))


def felt(change: Callable[[Tensor], Tensor]) -> Condition:
    """Whether h_res of generic logits is another where these are changed."""

    @cache
    def shows(dialect: Dialect) -> bool:
        if not (mixes(dialect) and mix_of(dialect).known):
            return False
        logits = 8 * _generic(dialect)
        return _apart(mhc_ref.project(logits, dialect), mhc_ref.project(change(logits), dialect))

    return shows


@cache
def turns(dialect: Dialect, n: int = 0) -> bool:
    """h_res is another matrix than its transpose, for n streams or for some number of them."""
    if not (mixes(dialect) and mix_of(dialect).known):
        return False
    matrix = mhc_ref.project(_generic(dialect, n), dialect)
    return _apart(matrix, matrix.mT)


def _generic(dialect: Dialect, n: int = 0) -> Tensor:
    """Residual logits of order one, none of which is like another."""
    shape = logits_shape(n or some_streams(dialect), dialect)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _apart(one: Tensor, other: Tensor) -> bool:
    """Whether two matrices in float64 differ by far more than roundings do."""
    return not torch.allclose(one, other, rtol=0, atol=1e-6)


def by_rms(dialect: Dialect) -> bool:
    """The state is divided by a root of a mean of squares, for logits that are made of it."""
    return norm_of(dialect).OVER is not None and not dynamic_of(dialect).constant


def adds_eps(dialect: Dialect) -> bool:
    """The eps of the norm is added, to the mean square or to its root."""
    return by_rms(dialect) and dialect.has_rms_eps and dialect.rms_eps_by == "add"


def clamps_norm(dialect: Dialect) -> bool:
    """The norm of a state is raised to at least an eps."""
    return by_rms(dialect) and dialect.has_rms_eps and dialect.rms_eps_by == "clamp"


def centres(dialect: Dialect) -> bool:
    """A state is divided by the root of its variance, less its mean."""
    return by_rms(dialect) and dialect.centred


def reads_the_state(dialect: Dialect) -> bool:
    """Logits have a dynamic part, which the state is normalised for."""
    return not dynamic_of(dialect).constant


def hands_on_nothing(dialect: Dialect) -> bool:
    """Nothing reads with the h_pre of a block but the block itself."""
    return dialect.read_from == "own" and not ends_with_last(dialect)


def both(one: Condition, other: Condition) -> Condition:
    """What meets both conditions."""
    return lambda dialect: one(dialect) and other(dialect)


def _whole(deviant: type[Deviant]) -> bool:
    """Whether a slip has a block or layers of its own, which hand on no h_pre."""
    own = {name for kind in deviant.__mro__ if issubclass(kind, Deviant) for name in vars(kind)}
    return bool(own & {"block", "layers"})


NORM = (
    *("normed", "centred", "mean", "normalised", "divisor", "clamped_norm", "mean_square", "norm_axes", "rms"),
    "weighted",
)
"""The steps of a `Deviant` that normalise a state."""

DYNAMIC_PART = {"projected", *NORM, "matmul", "dynamic"}
"""The steps of a `Deviant` that make the part of the logits that depends on the state."""


def _of_the_dynamic_part(deviant: type[Deviant]) -> bool:
    """Whether a slip changes nothing but the part of the logits that depends on the state."""
    slips = [kind for kind in deviant.__mro__ if is_slip(kind)]
    return {name for kind in slips for name, one in vars(kind).items() if inspect.isfunction(one)} <= DYNAMIC_PART


def is_slip(kind: type) -> bool:
    """Whether a class is a slip, and not the correct steps that it deviates from."""
    return issubclass(kind, Deviant) and not kind.__module__.startswith(
        ("properties.core", "properties.families.steps")
    )


def affine(dialect: Dialect) -> bool:
    """Logits have gates and biases."""
    return read_of(dialect).affine(dialect)


def gated(dialect: Dialect) -> bool:
    """Logits have gates, of a dynamic part that there is."""
    return affine(dialect) and reads_the_state(dialect)


def reads_by_gates(dialect: Dialect) -> bool:
    """A branch reads with a gate for each stream."""
    return read_of(dialect).plain


def shares(dialect: Dialect) -> bool:
    """What a branch reads the streams with sums to 1."""
    return gate_of(dialect.pre).relative and not dialect.pre_eps


def writes_by_logits(dialect: Dialect) -> bool:
    """What a stream is written with depends on the token."""
    return not gate_of(dialect.post).constant


def other_than(condition: Condition) -> Condition:
    """What does not meet a condition."""
    return lambda dialect: not condition(dialect)


# Lists


class Step(Protocol):
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
        dtypes: tuple[torch.dtype, ...] = ...,
    ) -> None: ...


class Slips(dict[str, Deviation]):
    """Deviations by name, as one file lists them."""

    def step(self, kind: Kind) -> Step:
        """The decorator that lists a `Deviant` with an overridden step."""
        return partial(self._step, kind)

    def dialect(self, kind: Kind) -> Redialect:
        """The function that lists a `Deviant` in a changed dialect; it applies where the change is one."""
        return partial(self._dialect, kind)

    def add(self, deviation: Deviation) -> None:
        """List one.

        Raises:
            ValueError: there is one of that name already.
        """
        if deviation.name in self:
            raise ValueError(f"two deviations are called {deviation.name!r}")
        self[deviation.name] = deviation

    def _step(
        self,
        kind: Kind,
        name: str,
        source: str,
        applies: Condition = always,
        dtypes: tuple[torch.dtype, ...] = Deviation.dtypes,
        hidden: str = "",
        needs: Feature | None = None,
    ) -> Callable[[type[Deviant]], type[Deviant]]:
        def listed(deviant: type[Deviant]) -> type[Deviant]:
            make = partial(_overridden, deviant, f"deviation:{name}")
            shows = both(applies, hands_on_nothing) if _whole(deviant) else applies
            shows = both(shows, reads_the_state) if _of_the_dynamic_part(deviant) else shows
            self.add(Deviation(name, sentence_of(deviant), source, kind, shows, make, dtypes, hidden, needs))
            return deviant

        return listed

    def _dialect(
        self,
        kind: Kind,
        name: str,
        slip: str,
        source: str,
        change: Callable[[Dialect], Dialect],
        applies: Condition = always,
        dtypes: tuple[torch.dtype, ...] = Deviation.dtypes,
    ) -> None:
        def make(dialect: Dialect) -> Implementation:
            return Deviant(dialect, f"deviation:{name}", change)

        self.add(Deviation(name, slip, source, kind, lambda d: applies(d) and _changes(change, d), make, dtypes))


def _changes(change: Callable[[Dialect], Dialect], dialect: Dialect) -> bool:
    """Whether a dialect can be changed so, and is another then: what contradicts its other fields nobody computes."""
    try:
        return change(dialect) != dialect
    except ValueError:
        return False


def _overridden(deviant: type[Deviant], name: str, dialect: Dialect) -> Implementation:
    return deviant(dialect, name)


def sentence_of(variant: type[Deviant]) -> str:
    """The docstring of a class on one line."""
    return " ".join((inspect.getdoc(variant) or "").split())


@dataclass(frozen=True)
class Control:
    """A correct implementation: its name, its arithmetic in one sentence, and the dialects that it can compute."""

    name: str
    statement: str
    applies: Condition
    make: Callable[[Dialect], Implementation]


class Controls(dict[str, Control]):
    """Controls by name, as one file lists them."""

    def control(self, name: str, applies: Condition = always) -> Callable[[type[Deviant]], type[Deviant]]:
        """The decorator that lists a correct `Deviant`; its docstring is the statement."""

        def listed(correct: type[Deviant]) -> type[Deviant]:
            make = partial(_overridden, correct, f"control:{name}")
            self[name] = Control(name, sentence_of(correct), applies, make)
            return correct

        return listed
