"""Constrained mixing: finite logits, projected as a dialect says (family mhc) or by an implementation (target)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from torch import Tensor

from mhc_ref import Dialect
from properties.core.family import mix_of
from properties.explosion.answer import Answer
from properties.explosion.composite import Matrix, decimal
from properties.explosion.configurations import Projected, exactly, operators_in, tables, tensor
from properties.explosion.mixing import Mixing, of_dialect, of_target, stored_in
from properties.explosion.options import CLAIMED, DTYPE, ENTRY_BOUND, MOST_STREAMS, TARGET, asked
from properties.explosion.questions.projecting import Declared, Projecting
from properties.explosion.questions.question import LinearQuestion, written_matrices
from properties.explosion.searches import projected
from properties.explosion.searches.entries import complexity
from properties.explosion.searches.foreign import smallest_stack
from properties.explosion.searches.hunt import Hunt, deadline
from properties.explosion.stored import integer_of, object_of
from properties.targets.target import TargetError

_MOST_HALF_STEPS = 10**7
"""Entries that a projection in 50 digits may visit."""


@dataclass(frozen=True, kw_only=True)
class LogitsQuestion(Projecting[Projected], LinearQuestion[Projected]):
    """Products of matrices that are projected from logits."""

    HOLDS = frozenset({"logits"})

    def check(self) -> None:
        if self.gain == "nonfinite":
            raise ValueError(
                f"gain is 'nonfinite'; expected family residual, hc or block: overflow is not searched in {self.family}"
            )

    def entries(self, found: Projected) -> int:
        return complexity(found.logits, 0)[0]

    def written(self, found: Projected) -> dict[str, Any]:
        return {"logits": written_matrices(found.logits)}


@dataclass(frozen=True, kw_only=True)
class ConstrainedMixing(Declared[Projected], LogitsQuestion):
    """Any finite logits, projected by `dialect`; matrices are stored in `dtype`."""

    family = FORM = "mhc"

    def check(self) -> None:
        super().check()
        mix = mix_of(self.dialect)
        if mix.asked_as != self.family:
            raise ValueError(
                f"the dialect's residual is {self.dialect.residual!r}; expected a constrained one. For it there is "
                f"family {mix.asked_as}"
            )
        if self.stored and not projected.way_of(self.dialect).stores(self.dialect):
            raise ValueError(
                f"dtype is {self.dtype!r}; expected float64 for a dialect without Sinkhorn iterations: stored "
                "matrices are searched where a division normalises them"
            )

    @property
    def stored(self) -> bool:
        """Whether the mixing matrices are rounded to a dtype before they are applied."""
        return self.dtype != "float64"

    @property
    def mixing(self) -> Mixing:
        """What projects logits."""
        exact = of_dialect(self.dialect)
        return stored_in(self.dtype, exact) if self.stored else exact

    def within(self) -> str:
        changed = ", ".join(f"{name}={mine!r}" for name, (mine, _) in self.dialect.difference(Dialect()).items())
        return f"any finite logits, projected as the dialect says ({changed or 'the defaults'})"

    def solve(self, hunt: Hunt[Projected]) -> Answer:
        mixing = self.mixing

        def keep(known: Answer, logits: Tensor) -> None:
            hunt.promise(known, lambda: Projected(mixing.exact(logits), exactly(logits)))

        return projected.solve(self, mixing, hunt.clock, keep)

    def bounds(self, found: Projected) -> list[float]:
        way = projected.way_of(self.dialect)
        caps = [way.cap(self, found.streams, depth) for depth in range(1, found.depth + 1)]
        return [] if self.direction == "vanish" else [one.value for one in caps if one is not None]

    def read(self, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Projected:
        logits, mixing = tables(header["logits"], "logits"), self.mixing
        n = integer_of(object_of(header["answer"], "answer")["streams"], "streams", 1, MOST_STREAMS)
        if (self.dialect.iterations + 1) * len(set(logits)) * n**2 > _MOST_HALF_STEPS:
            raise ValueError("its projection in 50 digits would take too long")
        return Projected(mixing.exact(shaped(logits, mixing, n)), logits)


@dataclass(frozen=True, kw_only=True)
class OfTarget(LogitsQuestion):
    """What an implementation makes of logits; a plain function claims to compute `dialect`."""

    family = "target"
    FORM = "target:TARGET"

    dtype: str = field(**asked(DTYPE, default=""))
    target: str = field(**asked(TARGET))
    claimed: bool = field(**asked(CLAIMED))
    entry_bound: Fraction | None = field(**asked(ENTRY_BOUND))

    @classmethod
    def parsed(cls, family: str) -> dict[str, Any] | None:
        kind, _, target = family.partition(":")
        return {"target": target} if kind == "target" else None

    @classmethod
    def folded(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        return {**super().folded(given), "claimed": "dialect" in given}

    @classmethod
    def iterates(cls, dialect: Dialect, *, claimed: bool) -> None:
        super().iterates(dialect, claimed=claimed)
        if not claimed:
            raise ValueError("iterations is given, and has no effect: a target iterates as often as it does")

    @property
    def name(self) -> str:
        return f"target:{self.target}"

    @property
    def asked_of(self) -> str:
        return self.target

    def check(self) -> None:
        super().check()
        if not self.target:
            raise ValueError(
                "family is 'target'; expected target:TARGET with a target of --impl, such as target:ref:PAPER"
            )

    def mixing(self, find: Any = None) -> Mixing:
        """What projects logits: the implementation that `find` makes of the target."""
        return of_target(self.target, self.dtype, find, self.dialect if self.claimed else None, self.entry_bound)

    def within(self) -> str:
        logits = "any finite logits" if self.entry_bound is None else f"logits within {decimal(self.entry_bound)}"
        return f"{logits}, projected by {self.target}"

    def solve(self, hunt: Hunt[Projected]) -> Answer:
        with deadline(self.budget):
            mixing = self.mixing()
            settled = replace(self, dtype=self._declared(mixing.dtypes or ()))
            hunt.settle(settled)

            def keep(known: Answer, logits: Tensor) -> None:
                held = Projected(mixing.exact(logits), exactly(logits))  # called here, while it is watched
                hunt.promise(known, lambda: settled.steady(held))

            known, start = smallest_stack(settled, mixing, hunt.clock)
            return projected.simplified(settled, mixing, hunt.clock, keep, known, start)

    def steady(self, found: Projected) -> Projected:
        """The same; TargetError where it is not what was found, for the target was called again."""
        if not self.reached(found):
            raise TargetError(
                f"{self.target}: called again for the same logits it gave other matrices, whose gain is not "
                f"{self.sign} {self.threshold}; expected an implementation that is deterministic"
            )
        return found

    def _declared(self, dtypes: tuple[str, ...]) -> str:
        """A dtype that the target declares: the one that was asked for, or else the first."""
        if self.dtype and self.dtype not in dtypes:
            raise ValueError(
                f"dtype is {self.dtype!r}; expected one that {self.target} declares: {', '.join(dtypes) or 'none'}"
            )
        return dtypes[0] if dtypes else "float64"

    def read(self, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Projected:
        logits = tables(header["logits"], "logits")
        n = integer_of(object_of(header["answer"], "answer")["streams"], "streams", 1, MOST_STREAMS)
        return Projected(operators_in(tensors.get("operators"), len(logits), n), logits)


def shaped(logits: tuple[Matrix, ...], mixing: Mixing, n: int) -> Tensor:
    """Logits of n streams [L, *shape] as a mixing takes them; ValueError where it takes others."""
    if mixing.streams is not None and n not in mixing.streams:
        raise ValueError(f"the explosion has {n} streams; the mixing takes {', '.join(map(str, mixing.streams))}")
    shape = mixing.shape(n)
    if math.prod(shape) != len(logits[0]) * len(logits[0][0]):
        raise ValueError(f"{len(logits[0])} x {len(logits[0][0])} logits are no {shape} of {n} streams")
    return tensor(logits).view(len(logits), *shape)
