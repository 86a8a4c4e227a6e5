"""Deviations of the head: its weights, its norm, its eps, its gradient."""

from __future__ import annotations

from torch import Tensor

from mhc_ref import Params
from properties.core.slips import MUTATION, Slips, shares
from properties.families.steps.head import HeadSteps, has_a_head

SLIPS = Slips()
collapse = SLIPS.step("collapse")
gradient = SLIPS.step("gradient")


@collapse("head-normalised", f"{MUTATION}: a head taken for an average", lambda d: has_a_head(d) and not shares(d))
class HeadNormalised(HeadSteps):
    """The weights of the head are divided by their sum."""

    def head(self, x: Tensor, params: Params) -> Tensor:
        weights = super().head(x, params)
        return weights / weights.sum(-1, keepdim=True)


@collapse("head-without-eps", "MaxText before #4337 (bug 13)", lambda d: has_a_head(d) and d.pre_eps > 0)
class HeadWithoutEps(HeadSteps):
    """The weights of the head have no eps."""

    def head(self, x: Tensor, params: Params) -> Tensor:
        return super().head(x, params) - self.computed.pre_eps


@collapse("head-magnified", f"{MUTATION}: one gate for both, h_post's", lambda d: has_a_head(d) and d.post_scale != 1)
class HeadMagnified(HeadSteps):
    """The weights of the head are scaled like h_post."""

    def head(self, x: Tensor, params: Params) -> Tensor:
        eps = self.computed.pre_eps
        return self.computed.post_scale * (super().head(x, params) - eps) + eps


@collapse("head-without-norm", "vLLM #42810, a norm lost in a fallback (bug 16)", has_a_head)
class HeadWithoutNorm(HeadSteps):
    """The head projects the state without normalising it."""

    def head(self, x: Tensor, params: Params) -> Tensor:
        flat = x[..., 0, :] if self.computed.shared_projection else x.flatten(-2)
        phi = params.phi[:, : x.shape[-2]]
        return self.h_pre(self.gated(self.dynamic(flat @ phi), params.alpha[0], params.bias[: x.shape[-2]]))


@gradient("head-detached", f"{MUTATION}: the head's weights under torch.no_grad()", has_a_head)
class HeadDetached(HeadSteps):
    """The parameters of the head receive no gradient, nor does the state through its weights."""

    def head(self, x: Tensor, params: Params) -> Tensor:
        return super().head(x, params).detach()
