"""Deviations of a read through a bottleneck: its means, its gates, what they multiply, and the last read."""

from __future__ import annotations

import torch
from torch import Tensor

from mhc_ref import Params
from properties.core.slips import MUTATION, Slips
from properties.families.steps.bottleneck import BottleneckSteps, has_a_bottleneck

SLIPS = Slips()
scaling = SLIPS.step("scaling")
missing = SLIPS.step("missing-term")
orientation = SLIPS.step("orientation")
collapse = SLIPS.step("collapse")
gradient = SLIPS.step("gradient")


@scaling("bottleneck-of-sums", f"{MUTATION}: D x^ in place of D x^ / n", has_a_bottleneck)
class BottleneckOfSums(BottleneckSteps):
    """The products with phi are sums over the streams, not means."""

    def averaged(self, products: Tensor, n: int) -> Tensor:
        return products


@scaling("bottleneck-read-summed", f"{MUTATION}: .sum(-2) in place of .mean(-2)", has_a_bottleneck)
class BottleneckReadSummed(BottleneckSteps):
    """The branch reads the sum of the gated streams, not their mean."""

    def share(self, weights: Tensor, n: int) -> Tensor:
        return weights


@missing("bottleneck-reads-the-state", f"{MUTATION}: the gates of Qwen4-Exp in the block of mHC", has_a_bottleneck)
class BottleneckReadsTheState(BottleneckSteps):
    """The gates multiply the state, not the normalised state."""

    def factor(self, x: Tensor, weight: Tensor | None) -> Tensor:
        return torch.ones_like(x)


@missing("bottleneck-reads-without-weight", f"{MUTATION}: the norm taken before its weight", has_a_bottleneck)
class BottleneckReadsWithoutWeight(BottleneckSteps):
    """The gates multiply the normalised state without its norm weight."""

    def factor(self, x: Tensor, weight: Tensor | None) -> Tensor:
        return super().factor(x, None)


@missing("bottleneck-without-silu", f"{MUTATION}: a plain low-rank product", has_a_bottleneck)
class BottleneckWithoutSilu(BottleneckSteps):
    """The bottleneck is linear: silu is left out."""

    def squeezed(self, logits: Tensor) -> Tensor:
        return logits


@missing("bottleneck-relu", f"{MUTATION}: the activation of an older adapter", has_a_bottleneck)
class BottleneckRelu(BottleneckSteps):
    """The bottleneck is cut off below 0 by relu in place of silu."""

    def squeezed(self, logits: Tensor) -> Tensor:
        return logits.relu()


@missing("bottleneck-softmax", f"{MUTATION}: streams that compete, as those of a router", has_a_bottleneck)
class BottleneckSoftmax(BottleneckSteps):
    """The gates of a channel are a softmax over the streams."""

    def h_pre(self, logits: Tensor) -> Tensor:
        return logits.softmax(-2)


@missing("bottleneck-gates-shared", f"{MUTATION}: one gate a stream, as in mHC", has_a_bottleneck)
class BottleneckGatesShared(BottleneckSteps):
    """All channels of a stream share the gate of its first."""

    def h_pre(self, logits: Tensor) -> Tensor:
        return super().h_pre(logits[..., :1]).expand(logits.shape)


@orientation("bottleneck-channels-by-stream", f"{MUTATION}: [C, n] taken for [n, C]", has_a_bottleneck)
class BottleneckChannelsByStream(BottleneckSteps):
    """The rows of the last factor are taken channel by channel, not stream by stream."""

    def h_pre(self, logits: Tensor) -> Tensor:
        return super().h_pre(logits.flatten(-2).unflatten(-1, logits.shape[:-3:-1]).mT)


@collapse("bottleneck-end-is-a-mean", f"{MUTATION}: the last read forgotten", has_a_bottleneck)
class BottleneckEndIsAMean(BottleneckSteps):
    """The streams end as their mean, not by a last read."""

    def head(self, x: Tensor, params: Params) -> Tensor:
        return torch.full_like(x, 1 / x.shape[-2])


@collapse("bottleneck-end-without-gates", f"{MUTATION}: the final norm of a model alone", has_a_bottleneck)
class BottleneckEndWithoutGates(BottleneckSteps):
    """The streams end as the mean of the normalised streams, without gates."""

    def head(self, x: Tensor, params: Params) -> Tensor:
        return self.share(self.factor(x, params.norm_weight), x.shape[-2])


@gradient("bottleneck-detached", f"{MUTATION}: gates under torch.no_grad()", has_a_bottleneck)
class BottleneckDetached(BottleneckSteps):
    """No gradient passes through the gates of the read."""

    def h_pre(self, logits: Tensor) -> Tensor:
        return super().h_pre(logits).detach()
