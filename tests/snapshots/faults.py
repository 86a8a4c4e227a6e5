"""Ten implementations that are wrong in a way that is met often; what a run says of each stands beside this file."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import mhc_ref
from mhc_ref import PAPER, Mappings, Params
from properties import Implementation


class Right(Implementation):
    """The paper's block, in three methods."""

    dtypes = ("float32",)
    dialect = computed = PAPER

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        return mhc_ref.mappings(x, params, self.computed)

    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        return mhc_ref.pre(x, h_pre)

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        return mhc_ref.post(x, y, h_post, h_res, PAPER)


class Transposed(Right):
    """One transposed line."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        return super().post(x, y, h_post, h_res.mT)


class EighteenIterations(Right):
    """18 iterations in place of 20."""

    computed = PAPER.with_(iterations=18)


class WrongEps(Right):
    """The eps of another model's norm."""

    computed = PAPER.with_(rms_eps=1e-5)


class Raises(Right):
    """A call that no version of its library takes."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        mixed: Any = h_res @ x
        return mixed.fused_add(y, h_post)


class RefusesStrides(Right):
    """A view that only contiguous states have, and no word of it in the declaration."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        flat = x.view(x.shape[:-2].numel(), -1)
        return super().mappings(flat.reshape(x.shape), params)


class NotANumber(Right):
    """exp without the maximum subtracted, which overflows."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        raw = super().mappings(x, params)
        logits = mhc_ref.mappings(x, params, PAPER.with_(residual="unconstrained")).res
        return Mappings(raw.pre, raw.post, self._sinkhorn(logits))

    def _sinkhorn(self, logits: Tensor) -> Tensor:
        m = logits.exp()
        for _ in range(PAPER.iterations):
            m = m / m.sum(-2, keepdim=True)
            m = m / m.sum(-1, keepdim=True)
        return m


class Detached(Right):
    """No gradient reaches the parameters through h_post."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        h_pre, h_post, h_res = super().mappings(x, params)
        return Mappings(h_pre, h_post.detach(), h_res)


class Remembers(Right):
    """The mappings of the first call with a shape serve all later ones."""

    def __init__(self) -> None:
        self.kept: dict[torch.Size, Mappings] = {}

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        if x.shape not in self.kept:
            self.kept[x.shape] = super().mappings(x, params)
        return self.kept[x.shape]


class TwoSlips(Transposed):
    """h_res transposed, and gates without their factor 2."""

    computed = PAPER.with_(post_scale=1.0)


class Unexplained(Right):
    """Something that no catalogue has."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        out = super().post(x, y, h_post, h_res)
        return out + 0.125 * torch.sin(3 * x)
