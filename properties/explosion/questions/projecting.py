"""Questions about logits that a dialect projects: what they have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from mhc_ref import PRESETS, Dialect
from properties.explosion.configurations import Configuration
from properties.explosion.mixing import of_dialect
from properties.explosion.options import DIALECT, IMPL, ITERATIONS, MOST_ITERATIONS, Option, asked
from properties.explosion.questions.question import Question
from properties.targets.target import resolve

C = TypeVar("C", bound=Configuration)


@dataclass(frozen=True, kw_only=True)
class Projecting(Question[C]):
    """A question whose mixing is what a dialect makes of finite logits of any size."""

    dialect: Dialect = field(**asked(DIALECT))

    @classmethod
    def options(cls) -> dict[str, Option]:
        return {**super().options(), "iterations": ITERATIONS}

    @classmethod
    def folded(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        fields = dict(given)
        dialect, iterations = fields.get("dialect", PRESETS.default), fields.pop("iterations", None)
        if iterations is not None:
            cls.iterates(dialect, claimed="dialect" in fields)
            dialect = dialect.with_(iterations=iterations)
        if dialect.iterations > MOST_ITERATIONS:
            raise ValueError(
                f"iterations is {dialect.iterations}; expected at most {MOST_ITERATIONS}: each has 50 digits"
            )
        return {**fields, "dialect": dialect}

    @classmethod
    def iterates(cls, dialect: Dialect, *, claimed: bool) -> None:
        """ValueError where other iterations change nothing; `claimed`: the dialect was asked for."""
        mixing = of_dialect(dialect)
        n = mixing.accepted(3)[-1]
        logits = torch.arange(math.prod(mixing.shape(n)), dtype=torch.float64).sin().view(1, *mixing.shape(n))
        once, twice = (of_dialect(dialect.with_(iterations=count)).operators(logits) for count in (1, 2))
        if torch.equal(once, twice):
            raise ValueError(
                f"iterations is given, and has no effect: {cls.family} has residual {dialect.residual!r} here; "
                "expected one that iterates, as Sinkhorn does"
            )


@dataclass(frozen=True, kw_only=True)
class Declared(Projecting[C]):
    """A question about the mixing of a dialect, which is given or declared by a target."""

    impl: str = field(**asked(IMPL))

    @property
    def asked_of(self) -> str:
        return self.impl

    @classmethod
    def folded(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        fields = dict(given)
        if "impl" in fields:
            if "dialect" in fields:
                raise ValueError("dialect and impl are given; expected one of them: a target declares what it computes")
            fields["dialect"] = resolve(fields["impl"]).dialect  # its family from outside is known from then on
        return super().folded(fields)
