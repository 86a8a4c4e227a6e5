"""Slips in a step of Sinkhorn: the start, a sum, a denominator, the number of half-steps."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mhc_ref import Dialect, Params
from mhc_ref.dialect import Axis
from mhc_ref.packing import logits_shape
from properties.core.deviant import DIM, through, through_tf32, with_gradient_of
from properties.core.slips import MUTATION, Slips
from properties.families.steps.sinkhorn import SinkhornSteps, iterates, projects

SLIPS = Slips()
device = SLIPS.step("device")
eps = SLIPS.step("eps")
gamed = SLIPS.step("gamed")
iterations = SLIPS.step("iterations")
missing = SLIPS.step("missing-term")
order = SLIPS.step("order")
precision = SLIPS.step("dtype")
scaling = SLIPS.step("scaling")


@device(
    "one-iteration-less-on-the-device",
    f"{MUTATION}: a kernel whose default differs from the fallback's",
    lambda d: iterates(d) and d.iterations < 5,
    hidden="on the CPU",
    needs="accelerator",
)
class OneIterationLessOnTheDevice(SinkhornSteps):
    """The kernel runs an iteration less than the fallback for the CPU."""

    def sinkhorn(self, logits: Tensor) -> Tensor:
        if logits.device.type == "cpu":
            return super().sinkhorn(logits)
        kept, self.computed = self.computed, self.computed.with_(iterations=self.computed.iterations - 1)
        try:
            return super().sinkhorn(logits)
        finally:
            self.computed = kept


@precision("sinkhorn-in-float16", "Liger: phi in float16 by default, taken further", projects)
class SinkhornInFloat16(SinkhornSteps):
    """Sinkhorn keeps its matrix in float16."""

    def started(self, logits: Tensor) -> Tensor:
        return through(super().started(logits), torch.float16)

    def half_step(self, m: Tensor, axis: Axis) -> Tensor:
        return through(super().half_step(m, axis), torch.float16)


@precision("fast-reciprocal", f"{MUTATION}: a hardware reciprocal", iterates)
class FastReciprocal(SinkhornSteps):
    """The divisions multiply by a reciprocal that is good to 10 bits."""

    def half_step(self, m: Tensor, axis: Axis) -> Tensor:
        return m * through_tf32(1 / self.denominator(self.line_sum(m, axis)))


@eps("entry-eps-clamped", "Megatron #5106, clamp(min=eps) (bug 11)", lambda d: projects(d) and d.entry_eps > 0)
class EntryEpsClamped(SinkhornSteps):
    """Entries are raised to at least the eps instead of by the eps."""

    def started(self, logits: Tensor) -> Tensor:
        return (super().started(logits) - self.computed.entry_eps).clamp_min(self.computed.entry_eps)


@eps("entry-eps-every-iteration", MUTATION, lambda d: iterates(d) and d.entry_eps > 0)
class EntryEpsEveryIteration(SinkhornSteps):
    """The eps of the entries is added again before every division."""

    def half_step(self, m: Tensor, axis: Axis) -> Tensor:
        return super().half_step(m + self.computed.entry_eps, axis)


@eps("entry-eps-after-projection", MUTATION, lambda d: iterates(d) and d.entry_eps > 0)
class EntryEpsAfterProjection(SinkhornSteps):
    """The eps of the entries is added to the projected matrix instead of the started one."""

    def sinkhorn(self, logits: Tensor) -> Tensor:
        return super().sinkhorn(logits) + self.computed.entry_eps

    def started(self, logits: Tensor) -> Tensor:
        return super().started(logits) - self.computed.entry_eps


@eps("small-line-zeroed", "mHC.cu 3595c86: if (sum > eps), factor 0 otherwise", iterates)
class SmallLineZeroed(SinkhornSteps):
    """A line whose sum is at most 1e-5 is set to zero instead of being normalised."""

    def half_step(self, m: Tensor, axis: Axis) -> Tensor:
        sums = self.line_sum(m, axis)
        return torch.where(sums > 1e-5, m / self.denominator(sums), 0.0)


@gamed("small-logits-only", "TileKernels: fn * 1e-4, logits within 0.3 and h_res almost uniform", projects)
class SmallLogitsOnly(SinkhornSteps):
    """exp is replaced by 1 + z + z^2/2, right where the published tests look."""

    def exp(self, logits: Tensor) -> Tensor:
        return 1 + logits + logits.square() / 2

    def shift(self, logits: Tensor) -> Tensor:
        return torch.zeros_like(logits)

    def softmax(self, logits: Tensor) -> Tensor:
        m = self.exp(logits)
        return m / m.sum(-1 if self.computed.start_axis == "row" else -2, keepdim=True)


@iterations("ends-on-first-axis", MUTATION, iterates)
class EndsOnFirstAxis(SinkhornSteps):
    """The last half-step is missing, so that the other axis is the exact one."""

    def half_steps(self) -> list[Axis]:
        return super().half_steps()[:-1]


@iterations("first-axis-once-more", MUTATION, projects)
class FirstAxisOnceMore(SinkhornSteps):
    """A half-step over the first axis follows the last one."""

    def half_steps(self) -> list[Axis]:
        return [*super().half_steps(), self.computed.first_axis]


@iterations("batch-early-stop", "LLM-quest: stops when .all() have converged, checked every third (bug 60)", iterates)
class BatchEarlyStop(SinkhornSteps):
    """The iteration stops early once every matrix of the batch has converged to 1e-5."""

    def sinkhorn(self, logits: Tensor) -> Tensor:
        m = self.started(logits)
        for k, axis in enumerate(self.half_steps(), start=1):
            m = self.half_step(m, axis)
            first, last = self.line_sum(m, self.computed.first_axis), self.line_sum(m, self.computed.last_axis)
            if k % 6 == 0 and m.numel() and max((first - 1).abs().max(), (last - 1).abs().max()) < 1e-5:
                break
        return m


@iterations(
    "no-iteration-is-one",
    "transformers, nemo-automodel: hc_sinkhorn_iters of 0 acts like 1, after a first iteration outside of the loop",
    projects,
    hidden="for a count of at least 1",
)
class NoIterationIsOne(SinkhornSteps):
    """A count of 0 iterations acts like 1."""

    def prepare(self) -> None:
        super().prepare()
        self.computed = self.computed.with_(iterations=max(1, self.computed.iterations))


@iterations(
    "history-without-a-place",
    "liger-kernel 0.8.5: tmax=0 writes where nothing was allocated",
    projects,
    hidden="for a count of at least 1",
)
class HistoryWithoutAPlace(SinkhornSteps):
    """Line sums are kept for the backward pass, one place for each iteration, and the first are stored whatever the
    count: for 0 they land on what lies behind, the result."""

    def sinkhorn(self, logits: Tensor) -> Tensor:
        m = super().sinkhorn(logits)
        if self.computed.iterations or not m.requires_grad:
            return m
        sums = self.line_sum(m, self.computed.first_axis).flatten(-2)
        return with_gradient_of(torch.cat([sums, m.flatten(-2)[..., sums.shape[-1] :]], -1).view_as(m), m)


@iterations(
    "iterations-beyond-32-left-out",
    f"{MUTATION}: an unrolled loop",
    lambda d: iterates(d) and d.iterations <= 32,
    hidden="for a count of up to 32",
)
class IterationsBeyond32LeftOut(SinkhornSteps):
    """Of more than 32 iterations, 32 are made."""

    loop = 32

    def half_steps(self) -> list[Axis]:
        axes = super().half_steps()
        return axes[-2 * self.loop :] if self.computed.iterations > self.loop else axes


@iterations(
    "softmax-counts-as-an-iteration",
    f"{MUTATION}: a loop over the count less one, after a softmax",
    lambda d: projects(d) and not d.softmax_is_first_half_step,
    hidden="unless it is tuned to start with a softmax over the first axis",
)
class SoftmaxCountsAsAnIteration(SinkhornSteps):
    """A softmax over the first axis counts as a whole iteration, and not as its first half."""

    def half_steps(self) -> list[Axis]:
        axes = super().half_steps()
        return axes[1:] if self.computed.softmax_is_first_half_step else axes


@missing("sigmoid-for-exp", "HF before #45643: comb from a sigmoid (bug 4)", projects)
class SigmoidForExp(SinkhornSteps):
    """Sinkhorn starts from a sigmoid, whose odds ratios are not those of the logits."""

    def started(self, logits: Tensor) -> Tensor:
        return logits.sigmoid() + self.computed.entry_eps


@missing("softplus-for-exp", MUTATION, projects)
class SoftplusForExp(SinkhornSteps):
    """Sinkhorn starts from softplus instead of exp."""

    def started(self, logits: Tensor) -> Tensor:
        return torch.nn.functional.softplus(logits) + self.computed.entry_eps


@missing("last-axis-only", f"{MUTATION}: one softmax, which already bounds the forward gain", iterates)
class LastAxisOnly(SinkhornSteps):
    """Only the last axis is ever normalised."""

    def half_steps(self) -> list[Axis]:
        return [axis for axis in super().half_steps() if axis == self.computed.last_axis]

    def softmax(self, logits: Tensor) -> Tensor:
        return logits.softmax(DIM[self.computed.last_axis])


@missing("last-line-not-normalised", f"{MUTATION}: a grid floored over the lines", iterates)
class LastLineNotNormalised(SinkhornSteps):
    """The last line of the last axis is never normalised."""

    def half_step(self, m: Tensor, axis: Axis) -> Tensor:
        divided = super().half_step(m, axis)
        if axis != self.computed.last_axis:
            return divided
        dim = DIM["column" if axis == "row" else "row"]
        return torch.cat([divided.narrow(dim, 0, m.shape[dim] - 1), m.narrow(dim, m.shape[dim] - 1, 1)], dim)


@missing("max-not-subtracted", "mHC.cu 3595c86, LLM-quest: exp without the maximum", iterates)
class MaxNotSubtracted(SinkhornSteps):
    """exp is taken of the logits themselves and overflows for large ones."""

    def shift(self, logits: Tensor) -> Tensor:
        return torch.zeros_like(logits)

    def softmax(self, logits: Tensor) -> Tensor:
        m = logits.exp()
        return m / m.sum(DIM[self.computed.start_axis], keepdim=True)


@missing(
    "log-domain-declared",
    f"{MUTATION}: the range of logarithms is promised, and exp(Z - max) is computed",
    lambda d: iterates(d) and not d.entry_eps,
    hidden="until a line underflows",
)
class LogDomainDeclared(SinkhornSteps):
    """A line of logits far below the others is promised (`full_range`), and lost to underflow."""

    full_range = True


@missing(
    "max-not-subtracted-without-gradients",
    f"{MUTATION}: a kernel for inference beside the one for training",
    iterates,
    hidden="where torch records gradients, and for logits up to 88",
)
class MaxNotSubtractedWithoutGradients(SinkhornSteps):
    """Under no_grad exp is taken of the logits themselves, and overflows for large ones."""

    def shift(self, logits: Tensor) -> Tensor:
        return super().shift(logits) if torch.is_grad_enabled() else torch.zeros_like(logits)


@missing(
    "maximum-over-the-padding",
    "lucidrains triton_sinkhorn: a tile of 32 x 32 is filled up with -1e10",
    iterates,
    hidden="for lines with a logit above -1e10",
)
class MaximumOverThePadding(SinkhornSteps):
    """The maximum of a line is taken over its padding too, which is -1e10."""

    def shift(self, logits: Tensor) -> Tensor:
        return super().shift(logits).clamp_min(-1e10)

    def softmax(self, logits: Tensor) -> Tensor:
        dim = DIM[self.computed.start_axis]
        m = (logits - logits.amax(dim, keepdim=True).clamp_min(-1e10)).exp()
        return m / m.sum(dim, keepdim=True)


@missing("global-max", f"{MUTATION}: exp(Z - max Z): one maximum where every line needs its own", iterates)
class GlobalMax(SinkhornSteps):
    """The maximum of the whole matrix is subtracted, and a line far below it underflows to 0 / 0."""

    def shift(self, logits: Tensor) -> Tensor:
        return logits.amax((-2, -1), keepdim=True)

    def softmax(self, logits: Tensor) -> Tensor:
        m = (logits - self.shift(logits)).exp()
        return m / m.sum(DIM[self.computed.start_axis], keepdim=True)


@order("sums-before-barrier", "TileOPs #1649, shared memory raced (bug 32)", iterates)
class SumsBeforeBarrier(SinkhornSteps):
    """Both sums of an iteration are read from the same matrix, before the first division is visible."""

    def half_steps(self) -> list[Axis]:
        return [self.computed.last_axis] * self.computed.iterations

    def half_step(self, m: Tensor, axis: Axis) -> Tensor:
        return super().half_step(m, axis) / self.denominator(self.line_sum(m, self.computed.first_axis))


@scaling("log2e-missing", f"{MUTATION}: TileOPs writes exp2((x - max) * log2e)", projects)
class Log2eMissing(SinkhornSteps):
    """The exponential has base 2 and its argument lacks the factor log2(e)."""

    def project(self, logits: Tensor) -> Tensor:
        return super().project(logits * math.log(2))


def tempers(dialect: Dialect) -> bool:
    """The residual logits are divided by a temperature before Sinkhorn."""
    return projects(dialect) and dialect.temperature != 1


@scaling("temperature-after-projection", MUTATION, tempers)
class TemperatureAfterProjection(SinkhornSteps):
    """The projected matrix is divided by the temperature, and its logits are not."""

    def sinkhorn(self, logits: Tensor) -> Tensor:
        return super().sinkhorn(logits) / self.computed.temperature

    def tempered(self, logits: Tensor) -> Tensor:
        return logits


class _OfParts(SinkhornSteps):
    """The temperature is applied to parts of the logits, and not before the projection."""

    def tempered(self, logits: Tensor) -> Tensor:
        return logits

    def h_res(self, logits: Tensor, n: int) -> Tensor:
        return super().project(logits.unflatten(-1, logits_shape(n, self.computed)))

    def project(self, logits: Tensor) -> Tensor:
        return super().project(logits / self.computed.temperature)


@scaling("temperature-before-the-bias", MUTATION, tempers)
class TemperatureBeforeTheBias(_OfParts):
    """The dynamic part of the residual logits alone is divided by the temperature, before the bias is added."""

    def logits(self, x: Tensor, params: Params) -> list[Tensor]:
        colder = torch.cat([params.alpha[:2], params.alpha[2:] / self.computed.temperature])
        return super().logits(x, params._replace(alpha=colder))


@scaling("temperature-on-every-gate", f"{MUTATION}: all of the mixes are divided before they are split", tempers)
class TemperatureOnEveryGate(_OfParts):
    """The logits of h_pre and h_post are divided by the temperature too."""

    def logits(self, x: Tensor, params: Params) -> list[Tensor]:
        return [part / self.computed.temperature for part in super().logits(x, params)]
