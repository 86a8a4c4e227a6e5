"""Mixing that depends on the input (family hc:dynamic): weights *and input* are searched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from mhc_ref.gain import prefixes
from properties.explosion.answer import Answer
from properties.explosion.composite import Matrix, decimal, number
from properties.explosion.configurations import Dynamic, tensor
from properties.explosion.options import GAIN, IDENTITY_BOUND, asked
from properties.explosion.questions.question import Question, written_matrices
from properties.explosion.searches import dynamic
from properties.explosion.searches.hunt import Hunt


@dataclass(frozen=True, kw_only=True)
class DynamicMixing(Question[Dynamic]):
    """Hyper-connections whose mixing is within `identity_bound` of the identity for every input; inputs within 1."""

    family = "hc"
    FORM = "hc:dynamic"
    DYNAMIC = True
    HOLDS = frozenset({"operators", "dynamic"})
    LACKS = {"entry_bound": "adds d tanh(...) to the identity, which identity_bound bounds"}  # noqa: RUF012

    gain: str = field(**asked(GAIN, default="activation"))
    identity_bound: Fraction | None = field(**asked(IDENTITY_BOUND))

    def check(self) -> None:
        if self.identity_bound is None:
            raise ValueError("hc:dynamic adds d tanh(...) to the identity; expected identity_bound, which is d")
        if self.gain != "activation" or self.direction != "explode":
            raise ValueError(
                f"gain is {self.gain!r} and direction {self.direction!r} for hc:dynamic, which is not linear; "
                "expected activation and explode"
            )

    @property
    def bound(self) -> Fraction:
        return self.identity_bound or Fraction(0)

    def within(self) -> str:
        return f"A(x) = I + {decimal(self.bound)} tanh(sign(x_s) w), transposed, and any input within 1"

    def solve(self, hunt: Hunt[Dynamic]) -> Answer:
        return dynamic.solve(self, hunt)

    def operators(self, found: Dynamic) -> tuple[Matrix, ...]:
        """What this input meets on its way."""
        return dynamic.operators(self, found)

    def entries(self, found: Dynamic) -> int:
        return found.entries

    def exact(self, found: Dynamic) -> Any:
        return dynamic.value(self, found)

    def reached(self, found: Dynamic) -> bool:
        return bool(self.exact(found) >= number(self.threshold))

    def measured(self, found: Dynamic) -> float:
        return dynamic.measured(self, found)

    def about(self, found: Dynamic) -> list[str]:
        weights = ", ".join(map(str, found.weights))
        return [f"weights w = [{weights}] in every sub-layer; the input stands below the table"]

    def path(self, found: Dynamic) -> tuple[Tensor, Tensor]:
        x = torch.tensor([float(entry) for entry in found.input], dtype=torch.float64)
        return x, (prefixes(tensor(self.operators(found))) @ x).abs().amax(-1)

    def curve(self, found: Dynamic) -> list[float]:
        return [float(max(map(abs, x))) for x in dynamic.states(self, found)[1:]]

    def bounds(self, found: Dynamic) -> list[float]:
        return [float((1 + found.streams * self.bound) ** depth) for depth in range(1, found.depth + 1)]

    def written(self, found: Dynamic) -> dict[str, Any]:
        return {"operators": written_matrices(self.operators(found)), "dynamic": found.written()}

    def read(self, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Dynamic:
        return Dynamic.read(header["dynamic"])
