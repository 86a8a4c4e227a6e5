"""Slips of the initial state: a constant of the initialisation in the forward, or an initial value that stayed."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mhc_ref import Params
from properties.core.deviant import Deviant
from properties.core.slips import MUTATION, Slips, both, felt, mixes, other_than, reads_the_state, shares, takes_matrix

SLIPS = Slips()
initialisation = SLIPS.step("initialisation")


diagonal = both(takes_matrix, felt(lambda logits: logits + torch.eye(logits.shape[-1]).to(logits)))
"""An identity that is added to the residual logits makes a difference."""


@initialisation("identity-bias", "SkyRL #1008, 10 I as a smoke test (bug 18)", diagonal)
class IdentityBias(Deviant):
    """10 I is added to the residual logits in every forward."""

    def h_res(self, logits: Tensor, n: int) -> Tensor:
        return super().h_res(logits + 10 * torch.eye(n).to(logits).flatten(), n)


@initialisation("identity-before-exp", "LLM-quest 7e79df7, d9a9f12 (bug 17)", diagonal)
class IdentityBeforeExp(Deviant):
    """The identity meant for h_res is added to its logits, where it becomes exp(I)."""

    def h_res(self, logits: Tensor, n: int) -> Tensor:
        return super().h_res(logits + torch.eye(n).to(logits).flatten(), n)


@initialisation("home-stream-bias", "PaddleFleet #1849, initial b_pre -3 and +3 (bug 17)")
class HomeStreamBias(Deviant):
    """The initial b_pre, -3 and +3 on the home stream, is added to whatever the parameter has become."""

    def h_pre(self, logits: Tensor) -> Tensor:
        home = torch.arange(logits.shape[-1], device=logits.device) == 0
        return super().h_pre(logits + torch.where(home, 3.0, -3.0))


@initialisation("pre-bias-logit-of-mean", "LLM-quest, sigma(1/n) (bug 17)", other_than(shares))
class PreBiasLogitOfMean(Deviant):
    """h_pre is shifted to begin at 1/n: -log(n - 1) is added in the forward."""

    def h_pre(self, logits: Tensor) -> Tensor:
        return super().h_pre(logits - math.log(max(logits.shape[-1] - 1, 2)))


@initialisation("alpha-stays-initial", f"{MUTATION}: alpha 0.01 of table 5, kept as a constant", reads_the_state)
class AlphaStaysInitial(Deviant):
    """The gates are the constant 0.01 of their initialisation, not the parameter."""

    def gated(self, dynamic: Tensor, gate: Tensor, static: Tensor) -> Tensor:
        return 0.01 * dynamic + static


@initialisation("res-bias-stays-initial", "zero biases of HF, Liger, Megatron, mHC.cu (bug 17)", mixes)
class ResBiasStaysInitial(Deviant):
    """The residual bias is read as the zeros it was initialised with."""

    def logits(self, x: Tensor, params: Params) -> list[Tensor]:
        started = torch.cat([params.bias[: 2 * x.shape[-2]], torch.zeros_like(params.bias[2 * x.shape[-2] :])])
        return super().logits(x, params._replace(bias=started))


@initialisation("norm-weight-stays-initial", f"{MUTATION}: a checkpoint key that did not match")
class NormWeightStaysInitial(Deviant):
    """The norm weight of the second half of the state is read as the ones it was initialised with."""

    def weighted(self, unit: Tensor, weight: Tensor) -> Tensor:
        flat = weight.flatten()
        half = (len(flat) + 1) // 2
        unset = torch.full_like(flat[half:], 1 - self.computed.norm_offset)
        return super().weighted(unit, torch.cat([flat[:half], unset]).view(weight.shape))
