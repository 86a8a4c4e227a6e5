"""Somebody's model with fixed weights (family model): the input that makes it grow, and the blocks that do it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from torch import Tensor

from properties.explosion.answer import Answer
from properties.explosion.composite import context, decimal
from properties.explosion.models.building import Recipe
from properties.explosion.models.gains import GROWING, grown, short
from properties.explosion.models.grown import Grown, counted
from properties.explosion.models.hunting import LEAST, again, hunted
from properties.explosion.models.options import BLOCKS, CHECKPOINT, INPUT, INPUT_BOUND, MAX_TOKENS, RELATIVE, SEEDS
from properties.explosion.models.searching import RANDOM
from properties.explosion.options import DTYPE, GAIN, TARGET, Option, asked
from properties.explosion.questions.question import Question
from properties.explosion.searches.hunt import Hunt, deadline
from properties.explosion.searches.hypothesise import BudgetSpent
from properties.targets.target import TargetError

_IDLE = ("max_depth", "max_streams", "direction")
_ROWS = 40


@dataclass(frozen=True, kw_only=True)
class OfModel(Question[Grown]):
    """The fewest blocks, the fewest tokens and the simplest values with which an input of a model reaches a gain."""

    family = "model"
    FORM = "model:TARGET"
    HOLDS = frozenset({"model"})
    LACKS = {  # noqa: RUF012
        "max_depth": "has the blocks that it has",
        "max_streams": "has the streams that it has",
        "direction": "is searched for what explodes",
    }
    EXACT = False

    gain: str = field(**asked(GAIN, default="activation"))
    dtype: str = field(**asked(DTYPE, default=""))
    target: str = field(**asked(TARGET))
    blocks: str = field(**asked(BLOCKS))
    input: str = field(**asked(INPUT))
    input_bound: Fraction = field(**asked(INPUT_BOUND))
    max_tokens: int = field(**asked(MAX_TOKENS))
    checkpoint: str = field(**asked(CHECKPOINT))
    seeds: int = field(**asked(SEEDS))
    relative: bool = field(**asked(RELATIVE))

    @classmethod
    def options(cls) -> dict[str, Option]:
        return {name: option for name, option in super().options().items() if name not in _IDLE}

    @classmethod
    def parsed(cls, family: str) -> dict[str, Any] | None:
        kind, _, target = family.partition(":")
        return {"target": target} if kind == "model" else None

    @classmethod
    def goal(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        return (
            super().goal(given)
            if given.get("gain") == "nonfinite"
            else {"threshold": Fraction(LEAST), "relative": True}
        )

    @property
    def name(self) -> str:
        return f"model:{self.target}"

    @property
    def asked_of(self) -> str:
        return self.target

    @property
    def recipe(self) -> Recipe:
        """How the model is made."""
        return Recipe(self.target, self.seed, self.checkpoint)

    def check(self) -> None:
        if not self.target:
            raise ValueError(
                "family is 'model'; expected model:path/to/file.py:attr or model:package.module:attr, a "
                "torch.nn.Module or a function that builds one"
            )
        if self.gain not in GROWING:
            raise ValueError(f"gain is {self.gain!r}; expected {', '.join(GROWING)} for a model")
        if self.seeds > 1 and not -(2**63) <= self.seed + self.seeds < 2**64:
            raise ValueError(f"seed is {self.seed}, and {self.seeds} of them are no seeds of torch")

    def within(self) -> str:
        states = "" if self.input.startswith("ids") else f" (states within {decimal(self.input_bound)})"
        goal = ", half of what the whole model reaches" if self.relative and self.threshold != LEAST else ""
        return f"inputs of up to {counted(self.max_tokens, 'token')}{states} at fixed weights{goal}"

    def solve(self, hunt: Hunt[Grown]) -> Answer:
        if self.seeds > 1 and not self.recipe.seeded:
            raise ValueError(
                f"seeds is {self.seeds}, and has no effect: {self.target} has one set of weights; expected a function "
                "that builds it, and no checkpoint"
            )
        with deadline(self.budget):
            return hunted(self, hunt)

    def again(self, found: Grown, target: str | None) -> tuple[OfModel, Grown]:
        """The question and the configuration on the model as it is now, or on another one; see `hunting.again`."""
        question = self if target is None else replace(self, target=target)
        try:
            with deadline(self.budget):
                return question, again(question, found)
        except BudgetSpent:
            raise TargetError(
                f"{question.target}: it was not run again within the {self.budget:g} seconds that its search had"
            ) from None

    def entries(self, found: Grown) -> int:
        return found.entries

    def exact(self, found: Grown) -> Any:
        return context().mpf(found.gain)

    def reached(self, found: Grown) -> bool:
        return math.isinf(found.gain) if self.gain == "nonfinite" else found.gain >= float(self.threshold)

    def measured(self, found: Grown) -> float:
        return found.gain

    def about(self, found: Grown) -> list[str]:
        lines = [found.sentence(grown(self.gain, self.dtype, found.gain, found.typical))]
        if found.tried:
            lines.append(f"{found.exploding} of {found.tried} initialisations explode")
        told = found.told()
        if found.ids:
            lines.append(f"input: token ids {told['tokens']}")
        elif told["entries"] is None:
            lines.append(f"input: a state {told['shape']}, in the file that --save keeps")
        else:
            entries = ", ".join(f"{tuple(place)}: {value:g}" for *place, value in told["entries"])
            lines.append(f"input: a state {told['shape']} that is 0 but for {{{entries}}}")
        lines += ["", "largest activation behind each block of the whole model", "  input      random     block"]
        rows = list(zip(found.names, found.states, found.usual, strict=True))
        for index, (name, mine, usual) in enumerate(rows[:_ROWS]):
            mark = "  <- kept" if index in found.kept and len(found.kept) < len(rows) else ""
            lines.append(f"  {mine:<9.4g}  {usual:<9.4g}  {name or '(the model)'}{mark}")
        if len(rows) > _ROWS:
            lines.append(f"  ... {len(rows) - _ROWS} more")
        largest = f"the largest of {RANDOM} random inputs: {short(found.largest)}"
        lines.append(f"gain of the whole model with it: {short(found.whole)}; {largest}")
        return lines

    def curve(self, found: Grown) -> list[float]:
        return list(found.curve)

    def more(self, found: Grown | None) -> dict[str, Any]:
        if found is None:
            return {"blocks": None, "input": None, "random": None}
        told = {"blocks": found.blocks, "input": found.told(), "random": found.typical}
        seeds = {"seeds": {"tried": found.tried, "exploding": found.exploding}} if found.tried else {}
        return {**told, **seeds}

    def tensors(self, found: Grown) -> dict[str, Tensor]:
        return {"input": found.input}

    def written(self, found: Grown) -> dict[str, Any]:
        return {"model": found.written()}

    def read(self, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Grown:
        return Grown.read(header["model"], tensors)
