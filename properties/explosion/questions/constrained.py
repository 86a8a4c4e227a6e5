"""Constrained mixing: finite logits, projected as a dialect says (family mhc) or by an implementation (target)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from mhc_ref import Dialect
from properties.explosion.answer import Answer
from properties.explosion.configurations import Projected, exactly, matrices, operators_in, tensor
from properties.explosion.mixing import Mixing, of_dialect, of_target, stored_in
from properties.explosion.proofs import manifold
from properties.explosion.questions.options import CLAIMED, DTYPE, TARGET, asked
from properties.explosion.questions.projecting import Projecting
from properties.explosion.questions.question import LinearQuestion, written_matrices
from properties.explosion.searches import constrained
from properties.explosion.searches.entries import complexity
from properties.explosion.searches.foreign import smallest_stack
from properties.explosion.searches.hunt import Hunt, deadline
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
                f"gain is 'nonfinite'; expected family residual, hc or block: the mixing of {self.family} is capped"
            )

    def entries(self, found: Projected) -> int:
        return complexity(found.logits, 0)[0]

    def written(self, found: Projected) -> dict[str, Any]:
        return {"logits": written_matrices(found.logits)}


@dataclass(frozen=True, kw_only=True)
class ConstrainedMixing(LogitsQuestion):
    """Any finite logits, projected by `dialect`; matrices are stored in `dtype`."""

    family = FORM = "mhc"

    def check(self) -> None:
        super().check()
        if self.dialect.residual == "unconstrained":
            raise ValueError(
                "the dialect's residual is 'unconstrained'; expected a constrained one. For it there is family hc"
            )
        if self.stored and (self.dialect.residual != "sinkhorn" or not self.dialect.iterations):
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

        return constrained.solve(self, mixing, hunt.clock, keep)

    def bounds(self, found: Projected) -> list[float]:
        if self.direction == "vanish" or (self.dialect.iterations == 0 and self.dialect.start == "exp"):
            return []
        limits = [float(manifold.cap(self, found.streams, depth).limit) for depth in range(1, found.depth + 1)]
        return [limit**0.5 for limit in limits] if manifold.axis(self) == "spectral" else limits

    def read(self, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Projected:
        logits = matrices(header["logits"], "logits")
        if (self.dialect.iterations + 1) * len(set(logits)) * len(logits[0]) ** 2 > _MOST_HALF_STEPS:
            raise ValueError("its projection in 50 digits would take too long")
        return Projected(self.mixing.exact(tensor(logits)), logits)


@dataclass(frozen=True, kw_only=True)
class OfTarget(LogitsQuestion):
    """What an implementation makes of logits; a plain function claims to compute `dialect`."""

    family = "target"
    FORM = "target:TARGET"

    dtype: str = field(**asked(DTYPE, default=""))
    target: str = field(**asked(TARGET))
    claimed: bool = field(**asked(CLAIMED))

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

    def check(self) -> None:
        super().check()
        if not self.target:
            raise ValueError(
                "family is 'target'; expected target:TARGET with a target of --impl, such as target:ref:PAPER"
            )

    def mixing(self, find: Any = None) -> Mixing:
        """What projects logits: the implementation that `find` makes of the target."""
        return of_target(self.target, self.dtype, find, self.dialect if self.claimed else None)

    def within(self) -> str:
        return f"any finite logits, projected by {self.target}"

    def solve(self, hunt: Hunt[Projected]) -> Answer:
        with deadline(self.budget):
            mixing = self.mixing()
            settled = replace(self, dtype=self._declared(mixing.dtypes or ()))
            hunt.settle(settled)

            def keep(known: Answer, logits: Tensor) -> None:
                held = Projected(mixing.exact(logits), exactly(logits))  # called here, while it is watched
                hunt.promise(known, lambda: settled.steady(held))

            known, start = smallest_stack(settled, mixing, hunt.clock)
            return constrained.simplified(settled, mixing, hunt.clock, keep, known, start)

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
        logits = matrices(header["logits"], "logits")
        return Projected(operators_in(tensors.get("operators"), len(logits), len(logits[0])), logits)
