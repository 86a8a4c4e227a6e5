"""Sinkhorn step by step: start, half-steps, line sums, denominators."""

from __future__ import annotations

import torch
from torch import Tensor

from mhc_ref import Dialect
from mhc_ref.dialect import Axis
from properties.core.deviant import DIM, Deviant


def projects(dialect: Dialect) -> bool:
    """h_res is projected by Sinkhorn."""
    return dialect.residual == "sinkhorn"


def iterates(dialect: Dialect) -> bool:
    """h_res is projected by at least one Sinkhorn iteration."""
    return projects(dialect) and dialect.iterations > 0


class SinkhornSteps(Deviant):
    """M = exp(Z - max) and divisions, in the linear domain: right wherever no line underflows."""

    def project(self, logits: Tensor) -> Tensor:
        if not projects(self.computed):
            return super().project(logits)
        return self.sinkhorn(self.tempered(self.widened(logits)))

    def tempered(self, logits: Tensor) -> Tensor:
        """What is projected: the logits over the temperature."""
        return logits / self.computed.temperature

    def sinkhorn(self, logits: Tensor) -> Tensor:
        m = self.started(logits)
        for axis in self.half_steps():
            m = self.half_step(m, axis)
        return m

    def started(self, logits: Tensor) -> Tensor:
        if self.computed.start == "softmax":
            return self.softmax(logits) + self.computed.entry_eps
        return self.exp(logits - self.shift(logits)) + self.computed.entry_eps

    def softmax(self, logits: Tensor) -> Tensor:
        return logits.softmax(DIM[self.computed.start_axis])

    def exp(self, logits: Tensor) -> Tensor:
        return logits.exp()

    def shift(self, logits: Tensor) -> Tensor:
        """What is subtracted before exp: the maximum over the first axis, nothing where no iteration follows."""
        if not self.computed.iterations:
            return torch.zeros_like(logits)
        return logits.amax(DIM[self.computed.first_axis], keepdim=True)

    def half_steps(self) -> list[Axis]:
        """The axes by which the started matrix is divided, in order."""
        axes: list[Axis] = [self.computed.first_axis, self.computed.last_axis] * self.computed.iterations
        return axes[1:] if self.computed.softmax_is_first_half_step else axes

    def half_step(self, m: Tensor, axis: Axis) -> Tensor:
        return m / self.denominator(self.line_sum(m, axis))

    def line_sum(self, m: Tensor, axis: Axis) -> Tensor:
        return m.sum(DIM[axis], keepdim=True)

    def denominator(self, line_sum: Tensor) -> Tensor:
        eps = self.computed.denominator_eps
        return line_sum + eps if self.computed.denominator == "add" else line_sum.clamp_min(eps)


STEPS = {"mix": SinkhornSteps}
