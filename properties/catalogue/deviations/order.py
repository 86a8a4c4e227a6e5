"""Slips of order: which axis first, and what is done before what."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mhc_ref import Branch, Dialect, Mappings, Params
from properties.core.deviant import Deviant
from properties.core.family import gate_of
from properties.core.slips import MUTATION, Slips, both, mixes, reads_by_gates, reads_the_state

SLIPS = Slips()
order = SLIPS.step("order")


def _unit_gates(dialect: Dialect) -> bool:
    """h_pre and h_post are made of gates between 0 and 1."""
    return gate_of(dialect.pre).unit_range and gate_of(dialect.post).unit_range


def _scaled_gate(dialect: Dialect) -> bool:
    """h_post is a factor times a gate between 0 and 1."""
    return gate_of(dialect.post).unit_range and dialect.post_scale != 1


@order("alpha-on-bias", MUTATION)
class AlphaOnBias(Deviant):
    """The gate multiplies the bias as well: alpha * (x phi + b)."""

    def gated(self, dynamic: Tensor, gate: Tensor, static: Tensor) -> Tensor:
        return gate * (dynamic + static)


@order("alpha-on-residual-bias", f"{MUTATION}: the residual logits, written apart from the gates", mixes)
class AlphaOnResidualBias(Deviant):
    """The gate multiplies the bias of the residual logits as well, and that of the others not."""

    def logits(self, x: Tensor, params: Params) -> list[Tensor]:
        pre, post, res = super().logits(x, params)
        static = self.split(params.bias, x.shape[-2])[2]
        return [pre, post, res + (params.alpha[-1] - 1) * static]


@order("gate-after-sigmoid", f"{MUTATION}: gates taken for scales of the mappings", _unit_gates)
class GateAfterSigmoid(Deviant):
    """h_pre and h_post are multiplied by their gates after the sigmoid instead of before it."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        bare = super().mappings(x, params._replace(alpha=torch.ones_like(params.alpha)))
        alpha = params.alpha
        return super().mappings(x, params)._replace(pre=alpha[0] * bare.pre, post=alpha[1] * bare.post)


@order("post-scale-inside", f"{MUTATION}: sigma(2 z), which is (1 + tanh z) / 2", _scaled_gate)
class PostScaleInside(Deviant):
    """The factor of h_post multiplies its logits instead of the sigmoid."""

    def h_post(self, logits: Tensor) -> Tensor:
        return self.squash(self.computed.post_scale * logits, self.computed.post)


@order("sigmoid-before-bias", "lucidrains 4b28146 (bug 7)", lambda d: gate_of(d.post).unit_range)
class SigmoidBeforeBias(Deviant):
    """2 sigma is applied to the dynamic part of h_post only, and the static part is added after it."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        bare = super().mappings(x, params._replace(bias=torch.zeros_like(params.bias))).post
        return super().mappings(x, params)._replace(post=bare + self.split(params.bias, x.shape[-2])[1])


@order(
    "tanh-outside-sigmoid",
    "marin #2321 (bug 10)",
    lambda d: gate_of(d.pre).unit_range and reads_by_gates(d) and reads_the_state(d),
)
class TanhOutsideSigmoid(Deviant):
    """h_pre is sigma of the static part plus tanh of the dynamic part, which can make it negative."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        dynamic = self.logits(self.widened(x), params._replace(bias=torch.zeros_like(params.bias)))[0]
        static = self.split(params.bias, x.shape[-2])[0]
        return super().mappings(x, params)._replace(pre=self.h_pre(static) + dynamic.tanh())


@order("branch-output-mixed", MUTATION, mixes)
class BranchOutputMixed(Deviant):
    """The branch output is added before the mixing, so that h_res acts on it too."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        return self.mixed(self.widened(x) + self.spread(self.widened(y), h_post), h_res).to(x.dtype)


@order("branch-reads-mixed", MUTATION, mixes)
class BranchReadsMixed(Deviant):
    """The branch reads the mixed streams instead of the state."""

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        h_pre, h_post, h_res = self.mappings(x, params)
        mixed = self.mixed(self.widened(x), h_res)
        y = branch(self.gathered(mixed, h_pre).to(x.dtype))
        return (mixed + self.spread(self.widened(y), h_post)).to(x.dtype)


@order("post-of-mixed", MUTATION, both(mixes, reads_the_state))
class PostOfMixed(Deviant):
    """h_post is computed from the mixed streams, after the residual path has been updated in place."""

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        h_pre, _, h_res = self.mappings(x, params)
        late = self.mappings(self.mixed(self.widened(x), h_res).to(x.dtype), params).post
        return self.post(x, branch(self.pre(x, h_pre)), late, h_res)


@order("layers-reversed", MUTATION)
class LayersReversed(Deviant):
    """The blocks run in reverse order."""

    def _derived_layers(
        self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]
    ) -> tuple[Tensor, Tensor | None]:
        return super()._derived_layers(x, params[::-1], branches[::-1])
