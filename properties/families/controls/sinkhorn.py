"""Controls of Sinkhorn: other domains of the iteration, other layouts, other formulas of a step, a backward by hand."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from mhc_ref.dialect import Axis
from properties.core.deviant import DIM
from properties.core.slips import Controls
from properties.families.steps.sinkhorn import SinkhornSteps, iterates, projects

CONTROLS = Controls()
control = CONTROLS.control


class LogDomain(SinkhornSteps):
    """The logarithm of what `started` gives, and of a denominator from the logarithm of a sum."""

    def log_started(self, logits: Tensor) -> Tensor:
        if self.computed.start == "softmax":
            started = logits.log_softmax(DIM[self.computed.start_axis])
        else:
            started = logits - self.shift(logits)
        if not self.computed.entry_eps:
            return started.clamp_min(-torch.finfo(started.dtype).max / 8)
        return torch.logaddexp(started, started.new_tensor(math.log(self.computed.entry_eps)))

    def log_denominator(self, log_sum: Tensor) -> Tensor:
        if not self.computed.denominator_eps:
            return log_sum
        log_eps = log_sum.new_tensor(math.log(self.computed.denominator_eps))
        return torch.logaddexp(log_sum, log_eps) if self.computed.denominator == "add" else log_sum.maximum(log_eps)


@control("log-domain", projects)
class LogInPlace(LogDomain):
    """Sinkhorn subtracts logsumexp from the logarithm of the matrix."""

    full_range = True

    def sinkhorn(self, logits: Tensor) -> Tensor:
        log_m = self.log_started(logits)
        for axis in self.half_steps():
            log_m = log_m - self.log_denominator(log_m.logsumexp(DIM[axis], keepdim=True))
        return log_m.exp()


@control("potentials", iterates)
class Potentials(LogDomain):
    """Sinkhorn keeps the logits and two log potentials, M = exp(Z + u + v)."""

    full_range = True

    def sinkhorn(self, logits: Tensor) -> Tensor:
        z = self.log_started(logits)
        potential: dict[Axis, Tensor] = {"row": torch.zeros_like(z[..., :1]), "column": torch.zeros_like(z[..., :1, :])}
        other: dict[Axis, Axis] = {"row": "column", "column": "row"}
        for axis in self.half_steps():
            log_sum = (z + potential[other[axis]]).logsumexp(DIM[axis], keepdim=True)
            if self.computed.denominator_eps:  # an eps breaks u = -logsumexp(Z + v): what was divided by before counts
                potential[axis] = potential[axis] - self.log_denominator(potential[axis] + log_sum)
            else:
                potential[axis] = -log_sum
        return (z + potential["row"] + potential["column"]).exp()


@control("scaling-vectors", iterates)
class ScalingVectors(SinkhornSteps):
    """Sinkhorn keeps the started matrix and two vectors, M = diag(r) K diag(c)."""

    def sinkhorn(self, logits: Tensor) -> Tensor:
        k = self.started(logits)
        scaling: dict[Axis, Tensor] = {"row": torch.ones_like(k[..., :1]), "column": torch.ones_like(k[..., :1, :])}
        other: dict[Axis, Axis] = {"row": "column", "column": "row"}
        for axis in self.half_steps():
            line_sum = self.line_sum(k * scaling[other[axis]], axis)
            if self.computed.denominator_eps:  # an eps breaks r = 1 / (K c): what was multiplied by before counts
                scaling[axis] = scaling[axis] / self.denominator(scaling[axis] * line_sum)
            else:
                scaling[axis] = 1 / line_sum
        return scaling["row"] * k * scaling["column"]


@control(
    "softmax-start",
    lambda d: iterates(d) and d.start == "exp" and not d.entry_eps and not d.denominator_eps,
)
class SoftmaxStart(SinkhornSteps):
    """The first half-step after exp is a softmax, as every eps is 0."""

    def prepare(self) -> None:
        eps = self.computed.entry_eps or self.computed.denominator_eps  # which it may be tuned to
        # Tuned to no iterations, there is no half-step that it could be; tuned to a softmax, it is one of its own.
        if self.computed.iterations and not eps and self.computed.start == "exp":
            self.computed = self.computed.with_(start="softmax", start_axis=self.computed.first_axis)


@control("stored-transposed", projects)
class StoredTransposed(SinkhornSteps):
    """The matrix is held transposed, and emitted as a view that is not contiguous."""

    def sinkhorn(self, logits: Tensor) -> Tensor:
        other: dict[Axis, Axis] = {"row": "column", "column": "row"}
        m = self.started(logits).mT.contiguous()
        for axis in self.half_steps():
            m = self.half_step(m, other[axis])
        return m.mT


@control("reciprocal", iterates)
class Reciprocal(SinkhornSteps):
    """A line is multiplied by the reciprocal of its denominator."""

    def half_step(self, m: Tensor, axis: Axis) -> Tensor:
        return m * self.denominator(self.line_sum(m, axis)).reciprocal()


class HalfSteps(torch.autograd.Function):
    """Sinkhorn's divisions, recomputed and traversed backwards by hand, as in the kernel of mHC section 4.3."""

    @staticmethod
    def forward(ctx: Any, m: Tensor, linear: SinkhornSteps) -> Tensor:
        ctx.save_for_backward(m)
        ctx.linear = linear
        for axis in linear.half_steps():
            m = linear.half_step(m, axis)
        return m

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor, None]:
        linear: SinkhornSteps = ctx.linear
        (m,) = ctx.saved_tensors
        traversed: list[tuple[int, Tensor, Tensor, Tensor]] = []
        for axis in linear.half_steps():
            line_sum = linear.line_sum(m, axis)
            m = linear.half_step(m, axis)
            clamped = linear.computed.denominator == "clamp"
            slope = (line_sum >= linear.computed.denominator_eps).to(m.dtype) if clamped else torch.ones_like(line_sum)
            traversed.append((DIM[axis], m, linear.denominator(line_sum), slope))
        (cotangent,) = grad_outputs
        for dim, divided, denominator, slope in reversed(traversed):
            cotangent = (cotangent - slope * (cotangent * divided).sum(dim, keepdim=True)) / denominator
        return cotangent, None


@control("hand-written-backward", iterates)
class HandWrittenBackward(SinkhornSteps):
    """Sinkhorn's unrolled gradient is written by hand and recomputes the iterates."""

    def sinkhorn(self, logits: Tensor) -> Tensor:
        result: Any = HalfSteps.apply(self.started(logits), self)
        return result
