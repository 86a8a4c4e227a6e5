"""What the suite asks a family: what it guarantees, how far rounding carries it, and where its mistakes show.

Laws, bounds, strategies, diagnosis and explosions ask these questions, and know no family by its name. The answers for
our own families are in `properties/families/NAME.py`, one object a slot called MIX, GATE, DYNAMIC, NORM, BEGIN or END;
a family from outside is one such object, with formulas in torch and mpmath besides (`mhc_ref.registry.register`).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from torch import Tensor

from mhc_ref import Dialect, registry
from mhc_ref.registry import Field


@dataclass(frozen=True)
class Guarantees:
    """What holds of every matrix M [n, n] that a mix emits, for all finite logits, in exact arithmetic.

    Attributes:
        nonnegative: no entry is below 0.
        sums: the axes of M along which every sum is exactly 1: "row" (dim -1), "column" (dim -2).
        capped: the axes along which every sum is at most 1; those of `sums` are.
        orthogonal: M M^T = I.
        nonexpansive: |M v|_2 <= |v|_2 for every v.
        constant: M does not depend on the logits.
    """

    nonnegative: bool = False
    sums: frozenset[str] = frozenset()
    capped: frozenset[str] = frozenset()
    orthogonal: bool = False
    nonexpansive: bool = False
    constant: bool = False

    def __post_init__(self) -> None:
        """Draw what follows: exact sums are capped, and what is orthogonal, or non-negative with both sums capped, does
        not expand (its spectral norm is at most the root of the product of its largest row and column sums)."""
        capped = self.capped | self.sums
        object.__setattr__(self, "capped", capped)
        schur = self.nonnegative and len(capped) == 2
        object.__setattr__(self, "nonexpansive", self.nonexpansive or self.orthogonal or schur)


class Family:
    """A value of a slot.

    Attributes:
        slot, name: see `mhc_ref.registry`.
        words: what it does, in a few words that go on "h_res is ..." or the like.
        source: where it is printed or shipped.
        FIELDS: the fields that it brings to a dialect.
        roundings: for a family without a derived bound, the declared number of roundings of one output; its bound is
            then made from its formula by reverse mode, and every report calls it declared.
    """

    slot: ClassVar[str]
    name: str = ""
    words: str = ""
    source: str = ""
    FIELDS: Mapping[str, Field] = {}
    roundings: int | None = None

    def conflict(self, dialect: Dialect) -> str | None:
        """What in the dialect it cannot go with, in words."""
        return None


class Mix(Family):
    """How the logits of a token become M [n, n] (`Dialect.residual`)."""

    slot = "mix"
    BY_STREAM = False
    MOST_STREAMS: int | None = None

    def shape(self, n: int, dialect: Dialect) -> tuple[int, ...]:
        """The shape of one token's logits."""
        return (n, n)

    def project(self, logits: Tensor, dialect: Dialect) -> Tensor:
        """[..., *shape(n)] -> [..., n, n], in torch, in the dtype of the logits."""
        return registry.formulas(self.slot, self.name).project(logits, dialect)

    def exact(self, z: Sequence[Any], n: int, dialect: Dialect, real: Any) -> list[list[Any]]:
        """The same in mpmath: the flat logits of one token -> M as nested lists.

        `real` has exp, sqrt, tanh, sum, dot and softmax for numbers that may carry derivatives; + - * / work on them.
        """
        raise NotImplementedError

    def guarantees(self, dialect: Dialect) -> Guarantees:
        """What is promised of M for this dialect."""
        return Guarantees()


class Gate(Family):
    """How n logits become n weights (`Dialect.pre`, `Dialect.post`)."""

    slot = "gate"


class Dynamic(Family):
    """What is done to the products with phi (`Dialect.dynamic`)."""

    slot = "dynamic"


class Norm(Family):
    """How a state is normalised before the products with phi (`Dialect.norm_over`)."""

    slot = "norm"


class Begin(Family):
    """How the streams begin (`Dialect.expand`)."""

    slot = "begin"


class End(Family):
    """How the streams become one (`Dialect.collapse`)."""

    slot = "end"


@cache
def family(slot: str, name: str) -> Any:
    """What is known of a family, by slot and name.

    Raises:
        LookupError: there is no such family.
    """
    return registry.outside(slot, name) or getattr(importlib.import_module(f"properties.families.{name}"), slot.upper())


def mix_of(dialect: Dialect) -> Mix:
    """The mix of a dialect."""
    return family("mix", dialect.residual)
