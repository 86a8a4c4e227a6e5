"""Answers that satisfy a weak test without computing anything: constants, echoes, and errors that are hidden."""

from __future__ import annotations

import torch
from torch import Tensor

from mhc_ref import Branch, Mappings, Params
from properties.core.deviant import Deviant, with_gradient_of
from properties.core.slips import MUTATION, Slips, constrains, mixes

SLIPS = Slips()
gamed = SLIPS.step("gamed")


@gamed("zeros", "passes a gradient test whose tolerance is above the gradient (Megatron, Liger)")
class Zeros(Deviant):
    """The block returns zeros."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        return torch.zeros_like(x)


@gamed("zero-mappings", MUTATION)
class ZeroMappings(Deviant):
    """Every mapping is zero."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        return Mappings(*(torch.zeros_like(mapping) for mapping in super().mappings(x, params)))


@gamed("uniform-matrix", "passes Megatron's fused tests at n = 2; what zero biases give at the start", mixes)
class UniformMatrix(Deviant):
    """h_res is 1/n everywhere, which is doubly stochastic."""

    def project(self, logits: Tensor) -> Tensor:
        m = super().project(logits)
        return torch.full_like(m, 1 / m.shape[-1])


@gamed("identity-matrix", "tokenbender #2: saturated, h_res stuck at the identity (bug 9)", mixes)
class IdentityMatrix(Deviant):
    """h_res is the identity, which is doubly stochastic."""

    def project(self, logits: Tensor) -> Tensor:
        m = super().project(logits)
        return torch.eye(m.shape[-1]).to(m).expand(m.shape)


@gamed("smoothed", MUTATION, constrains)
class Smoothed(Deviant):
    """h_res is drawn to 1/n by a thousandth, still doubly stochastic."""

    def project(self, logits: Tensor) -> Tensor:
        m = super().project(logits)
        return 0.999 * m + 0.001 / m.shape[-1]


@gamed("rounded", "TileOPs: only a cosine similarity of 0.99 is asked for")
class Rounded(Deviant):
    """The mappings are rounded to three decimals."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        return Mappings(*(with_gradient_of(m.round(decimals=3), m) for m in super().mappings(x, params)))


@gamed("state-returned", "disable == residual, tokenbender's own test")
class StateReturned(Deviant):
    """The block returns its input."""

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        return x.clone()


@gamed("nan-hidden", "sglang-jax #1547: a comparator that accepted NaN and Inf (bug 57)")
class NanHidden(Deviant):
    """NaN and infinity in the state or the branch output are replaced by finite numbers."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        return super().post(x, y, h_post, h_res).nan_to_num()


@gamed("logits-nan-hidden", "sglang-jax #1547: a comparator that accepted NaN and Inf (bug 57)", constrains)
class LogitsNanHidden(Deviant):
    """NaN in h_res, which an overflow upstream leaves, is replaced by 0."""

    def project(self, logits: Tensor) -> Tensor:
        return super().project(logits).nan_to_num(nan=0.0)


@gamed("output-clamped", f"{MUTATION}: clipping that hides an explosion")
class OutputClamped(Deviant):
    """The next state is clamped to [-100, 100]."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        return super().post(x, y, h_post, h_res).clamp(-100, 100)
