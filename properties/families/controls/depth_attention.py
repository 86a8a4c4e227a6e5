"""Controls of attention over depth: the same numbers by other formulas."""

from __future__ import annotations

import torch
from torch import Tensor

from mhc_ref import Params
from properties.core.slips import Controls
from properties.families.steps.depth_attention import DepthAttentionSteps, attends

CONTROLS = Controls()
control = CONTROLS.control


@control("attention-one-by-one", attends)
class AttentionOneByOne(DepthAttentionSteps):
    """Sources are read one after another by a running maximum: each that raises it rescales what is summed so far."""

    def h_pre(self, logits: Tensor) -> Tensor:
        if not attends(self.computed):
            return super().h_pre(logits)
        highest = logits[..., :1].detach()
        parts, total = [torch.exp(logits[..., :1] - highest)], torch.exp(logits[..., :1] - highest)
        for score in logits.split(1, -1)[1:]:
            risen = torch.maximum(highest, score.detach())
            by, new = (highest - risen).exp(), (score - risen).exp()
            parts, total, highest = [*(part * by for part in parts), new], total * by + new, risen
        return torch.cat(parts, -1) / total + self.computed.pre_eps


@control("attention-scores-divided", attends)
class AttentionScoresDivided(DepthAttentionSteps):
    """The query meets the sources as they are, each score is divided by the rms afterwards, and a share is
    exp(score - log-sum-exp)."""

    def asked(self, x: Tensor, query: Params) -> Tensor:
        weighted = x if query.norm_weight is None else self.weighted(x, query.norm_weight.view(x.shape[-2:]))
        rms = self.rms(self.mean_square(x)).squeeze(-1)
        return (weighted.flip(-1) * query.phi.squeeze(-1).flip(0)).sum(-1) / rms

    def read_weights(self, logits: Tensor, x: Tensor, params: Params) -> Tensor:
        if not attends(self.computed) or self.computed.dynamic != "linear":  # which it may be tuned to
            return super().read_weights(logits, x, params)
        return super().read_weights(self.asked(x, params._replace(phi=params.phi[:, :1])), x, params)

    def h_pre(self, logits: Tensor) -> Tensor:
        if not attends(self.computed):
            return super().h_pre(logits)
        return (logits - logits.logsumexp(-1, keepdim=True)).exp() + self.computed.pre_eps
