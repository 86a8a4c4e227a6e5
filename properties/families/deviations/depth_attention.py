"""Deviations of attention over depth: what is scored, what the shares are of, and what flows back through them."""

from __future__ import annotations

import torch
from torch import Tensor

from mhc_ref import Params
from properties.core.deviant import with_gradient_of
from properties.core.slips import MUTATION, Slips
from properties.families.steps.depth_attention import DepthAttentionSteps, attends

SLIPS = Slips()
normalisation = SLIPS.step("normalisation")
missing = SLIPS.step("missing-term")
orientation = SLIPS.step("orientation")
packing = SLIPS.step("packing")
collapse = SLIPS.step("collapse")
gradient = SLIPS.step("gradient")


@normalisation("attention-keys-not-normalised", f"{MUTATION}: the norm of the keys left out", attends)
class AttentionKeysNotNormalised(DepthAttentionSteps):
    """The query is multiplied by the sources as they are, not over their rms."""

    def scores(self, logits: Tensor, x: Tensor) -> Tensor:
        return logits * self.rms(self.mean_square(x)).squeeze(-1)


@normalisation("attention-over-tokens", f"{MUTATION}: softmax(dim=0) of [tokens, sources]", attends)
class AttentionOverTokens(DepthAttentionSteps):
    """The shares sum to 1 over the tokens, not over the sources."""

    def h_pre(self, logits: Tensor) -> Tensor:
        return logits.flatten(0, -2).softmax(0).view(logits.shape) if logits.ndim > 1 else logits.softmax(-1)


@normalisation("attention-padding-counted", f"{MUTATION}: lanes past the last source score 0, not -inf", attends)
class AttentionPaddingCounted(DepthAttentionSteps):
    """Sources are padded to a power of 2 from 4 on, and what is padded has a share."""

    def h_pre(self, logits: Tensor) -> Tensor:
        lanes = max(4, 1 << (logits.shape[-1] - 1).bit_length())
        padding = logits.new_zeros(*logits.shape[:-1], lanes - logits.shape[-1])
        return torch.cat([logits, padding], -1).softmax(-1)[..., : logits.shape[-1]]


@normalisation("attention-not-rescaled", f"{MUTATION}: a running maximum whose sums are not rescaled", attends)
class AttentionNotRescaled(DepthAttentionSteps):
    """What is summed before a larger score comes is not rescaled by it, while the denominator is."""

    def h_pre(self, logits: Tensor) -> Tensor:
        highest = logits.amax(-1, keepdim=True)
        return (logits - logits.cummax(-1).values).exp() / (logits - highest).exp().sum(-1, keepdim=True)


@missing("attention-last-source-unread", f"{MUTATION}: the sum under way is not among the sources", attends)
class AttentionLastSourceUnread(DepthAttentionSteps):
    """The newest source is read only where it is the only one."""

    def h_pre(self, logits: Tensor) -> Tensor:
        if logits.shape[-1] == 1:
            return super().h_pre(logits)
        return torch.cat([super().h_pre(logits[..., :-1]), torch.zeros_like(logits[..., :1])], -1)


@orientation("attention-newest-first", f"{MUTATION}: shares in the other order than the sources", attends)
class AttentionNewestFirst(DepthAttentionSteps):
    """Shares are of the sources in the reverse order."""

    def of_sources(self, shares: Tensor, x: Tensor) -> Tensor:
        return super().of_sources(shares.flip(-1), x)


@packing("attention-query-of-h-post", f"{MUTATION}: the columns of phi in the other order", attends)
class AttentionQueryOfHPost(DepthAttentionSteps):
    """A block attends by the column of phi that is for h_post, and the last read by its own."""

    def matmul(self, state: Tensor, phi: Tensor) -> Tensor:
        return super().matmul(state, phi[:, [1, 0]] if phi.shape[-1] == 2 and attends(self.computed) else phi)


@collapse("attention-end-is-the-newest", f"{MUTATION}: the last read forgotten", attends)
class AttentionEndIsTheNewest(DepthAttentionSteps):
    """The streams end as the newest of them, not by a last read."""

    def head(self, x: Tensor, params: Params) -> Tensor:
        return (torch.arange(x.shape[-2], device=x.device) == x.shape[-2] - 1).to(x.dtype).expand(x.shape[:-1])


@gradient("attention-keys-detached", f"{MUTATION}: scores of sources under torch.no_grad()", attends)
class AttentionKeysDetached(DepthAttentionSteps):
    """No gradient passes through the scores into the sources: they learn as values alone."""

    def read_weights(self, logits: Tensor, x: Tensor, params: Params) -> Tensor:
        if not attends(self.computed):
            return super().read_weights(logits, x, params)
        still = self.asked(x.detach(), params._replace(phi=params.phi[:, :1]))
        return super().read_weights(with_gradient_of(logits, still), x, params)


@gradient("attention-backward-without-mean", f"{MUTATION}: p dp in place of p (dp - sum p dp)", attends)
class AttentionBackwardWithoutMean(DepthAttentionSteps):
    """Backwards through the softmax, what is common to all sources is not subtracted."""

    def h_pre(self, logits: Tensor) -> Tensor:
        shares = super().h_pre(logits)
        return with_gradient_of(shares, shares.detach() * logits)
