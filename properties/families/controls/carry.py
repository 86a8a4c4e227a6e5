"""Controls of carry: 1 less a square, by logarithms, and by tanh."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn.functional import logsigmoid

from properties.core.slips import Controls
from properties.families.steps.carry import CarrySteps, carries

CONTROLS = Controls()
control = CONTROLS.control


@control("carry-less-a-square", carries)
class CarryLessASquare(CarrySteps):
    """alpha^2 is 1 - beta^2."""

    full_range = True

    def square(self, over: Tensor) -> Tensor:
        return 1 - self.beta(over).square()


@control("carry-logarithms", carries)
class CarryLogarithms(CarrySteps):
    """alpha is the exponential of half of log sigma(-w) + log(1 + beta), or of half of the logarithm of the floor."""

    full_range = True

    def kept(self, over: Tensor) -> Tensor:
        half = (logsigmoid(-over) + self.beta(over).log1p()) / 2
        return half.clamp(min=math.log(self.computed.floor) / 2).exp()


@control("carry-by-tanh", carries)
class CarryByTanh(CarrySteps):
    """beta is (tanh(w / 2) + 1) / 2, and 1 less it stands beside it."""

    full_range = True

    def beta(self, over: Tensor) -> Tensor:
        return ((over / 2).tanh() + 1) / 2

    def square(self, over: Tensor) -> Tensor:
        beta = self.beta(over)
        return (1 - beta) * (1 + beta)
