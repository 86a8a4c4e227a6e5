"""Controls of a read through a bottleneck: the same numbers by other formulas."""

from __future__ import annotations

import torch
from torch import Tensor

from mhc_ref import Branch, Params
from mhc_ref.packing import beyond
from properties.core.slips import Controls
from properties.families.steps.bottleneck import BottleneckSteps, has_a_bottleneck

CONTROLS = Controls()
control = CONTROLS.control


@control("bottleneck-normalised-first", has_a_bottleneck)
class BottleneckNormalisedFirst(BottleneckSteps):
    """A block normalises its streams once, and reads them as the mean of gates times that, as transformers does."""

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        if not has_a_bottleneck(self.computed):
            return super().block(x, params, branch)
        wide = self.widened(x)
        logits, post, res = self.logits(wide, params)
        gates = self.h_pre(self.of_channels(logits, params).unflatten(-1, x.shape[-2:]))
        u = (gates * self.normalised(wide, params.norm_weight)).mean(-2)
        return self.post(x, branch(u.to(x.dtype)), self.h_post(post), self.h_res(res, x.shape[-2]))


@control("bottleneck-by-exponentials", has_a_bottleneck)
class BottleneckByExponentials(BottleneckSteps):
    """silu(z) is z / (1 + e^-z), the state is divided by n before its projection, and sums run backwards."""

    def projected(self, x: Tensor, params: Params) -> Tensor:
        if not has_a_bottleneck(self.computed):
            return super().projected(x, params)
        columns = params.phi[:, : params.phi.shape[1] - beyond(self.computed)]
        state = (self.normalised(x, params.norm_weight) / x.shape[-2]).flatten(-2)
        return state.flip(-1) @ columns.flip(0)

    def squeezed(self, logits: Tensor) -> Tensor:
        return torch.where(logits < -80, logits * logits.exp(), logits / (1 + (-logits.clamp(min=-80)).exp()))

    def opened(self, narrow: Tensor, up: Tensor) -> Tensor:
        return (narrow.unsqueeze(-2) * up).flip(-1).sum(-1)
