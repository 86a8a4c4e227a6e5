"""Questions about logits that a dialect projects: what they have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mhc_ref import PAPER, Dialect
from properties.explosion.configurations import Configuration
from properties.explosion.questions.options import DIALECT, ITERATIONS, MOST_ITERATIONS, Option, asked
from properties.explosion.questions.question import Question

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
        dialect, iterations = fields.get("dialect", PAPER), fields.pop("iterations", None)
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
        if dialect.residual != "sinkhorn":
            raise ValueError(
                f"iterations is given, and has no effect: {cls.family} has residual {dialect.residual!r} here; "
                "expected one with Sinkhorn iterations"
            )
