"""What an arithmetic may do to a number, and a number with what was done to it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

INF = math.inf


@dataclass(frozen=True)
class Rounding:
    """The arithmetic a stage is held to: unit roundoff and smallest normal number of its compute dtype,
    and the same of the dtype in which the state is stored."""

    unit: float
    tiny: float
    state_unit: float
    state_tiny: float

    @classmethod
    def of(cls, state: torch.dtype) -> Rounding:
        """The default contract: float64 for float64 states, otherwise float32, stored in the state's dtype;
        judged by a float64 reference, whose own roundings are added."""
        compute = torch.float64 if state == torch.float64 else torch.float32
        reference = torch.finfo(torch.float64).eps / 2
        unit = torch.finfo(compute).eps / 2 + reference
        stored = 0.0 if state == compute else torch.finfo(state).eps / 2
        return cls(unit, torch.finfo(compute).tiny, stored, torch.finfo(state).tiny if stored else 0.0)

    def gamma(self, count: float) -> float:
        """gamma_k: the relative error of k roundings in any order."""
        product = count * self.unit
        return product / (1 - product) if product < 0.5 else INF


@dataclass(frozen=True)
class Approx:
    """A value and the largest error that an admitted evaluation can have; equal shapes, float64."""

    value: Tensor
    error: Tensor

    @classmethod
    def exact(cls, value: Tensor) -> Approx:
        """A number that is given, not computed."""
        value = value.detach().to("cpu", torch.float64)
        return cls(value, torch.zeros_like(value))

    def expanded(self, other: Approx) -> Approx:
        """Broadcast to the shape of another one."""
        return Approx(self.value.expand(other.value.shape), self.error.expand(other.value.shape))
