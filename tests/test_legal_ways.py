"""Correct implementations that are called, or computed, in ways that are legal and not usual: no law accuses them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import mhc_ref
from mhc_ref import DEEPSEEK_V4, PAPER, Branch, Mappings, Params
from mhc_ref.packing import params_shapes
from properties import Implementation
from properties.arrays import from_arrays
from properties.core.case import map_tensors
from properties.core.device import Device
from properties.core.law import all_laws
from properties.engine.runner import Profile, examine
from properties.engine.subject import Subject
from properties.modules import from_module

QUICK = Profile(3, derandomise=True, shrink=False, sizes=1, crowds=1, alone=1, thorough=True)


class Refused(AssertionError):
    """A call outside of what is declared."""


def holds(law: str, implementation: Implementation, where: Path, dtype: torch.dtype = torch.float32) -> None:
    subject = Subject("mine", implementation, dtype, torch.device("cpu"))
    found = examine(all_laws()[law], subject, QUICK, directory=where)
    assert (found.status, found.message) == ("passed", "")


# -- who serves, in inference mode -------------------------------------------------------------------------------------


class ServesParts(Implementation):
    """Each part in inference mode, whatever the caller is in; branches are called outside of it."""

    name = "serves-parts"
    dialect = DEEPSEEK_V4
    dtypes = (torch.float32,)
    differentiable = False

    @torch.inference_mode()
    def mappings(self, x: Tensor, params: Params) -> Mappings:
        return mhc_ref.mappings(x, params, DEEPSEEK_V4)

    @torch.inference_mode()
    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        return mhc_ref.pre(x, h_pre)

    @torch.inference_mode()
    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        return mhc_ref.post(x, y, h_post, h_res, DEEPSEEK_V4)


class ServesBlocks(ServesParts):
    """A block in inference mode, with its branch."""

    name = "serves-blocks"

    @torch.inference_mode()
    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        return mhc_ref.block(x, params, branch, DEEPSEEK_V4)


@pytest.mark.slow
@pytest.mark.parametrize("served", [ServesParts, ServesBlocks])
def test_inference_mode_within_a_block_is_left_again(served: type[Implementation], tmp_path: Path) -> None:
    holds("execution.blocks-leave-their-surroundings", served(), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("served", [ServesParts, ServesBlocks])
def test_what_is_handed_to_a_branch_may_be_of_inference_mode(served: type[Implementation], tmp_path: Path) -> None:
    holds("execution.branches-may-return-what-they-read", served(), tmp_path)


# -- forward only ------------------------------------------------------------------------------------------------------


class ForwardOnly(Implementation):
    """Refuses whatever asks for gradients, and is declared as not differentiable."""

    name = "forward-only"
    dialect = PAPER
    dtypes = (torch.float32,)
    differentiable = False

    def held(self, *given: Tensor | None) -> None:
        if any(one is not None and one.requires_grad for one in given):
            raise Refused("something that asks for gradients")

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        self.held(x, *params)
        return mhc_ref.mappings(x, params, PAPER)

    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        self.held(x, h_pre)
        return mhc_ref.pre(x, h_pre)

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        self.held(x, y, h_post, h_res)
        return mhc_ref.post(x, y, h_post, h_res, PAPER)

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        self.held(x, *(part for one in params for part in one))
        return mhc_ref.layers(x, params, branches, PAPER)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["blocks", "mappings", "projections", "pre-and-post", "layers"])
def test_who_is_not_differentiable_is_handed_nothing_that_asks_for_gradients(what: str, tmp_path: Path) -> None:
    holds(f"execution.{what}-let-go", ForwardOnly(), tmp_path)


# -- limits ------------------------------------------------------------------------------------------------------------


class Contiguous(Implementation):
    """Takes no views, from branches neither, and of tokens as many as it declares."""

    name = "contiguous"
    dialect = PAPER
    streams = (2,)
    dtypes = (torch.float32,)
    strided = False
    compilable = True

    def __init__(self, most: int) -> None:
        self.max_tokens = most

    def taken(self, one: Tensor) -> Tensor:
        if not one.is_contiguous() or one[..., 0].numel() > 2 * self.max_tokens:
            raise Refused(f"{tuple(one.shape)} with strides {one.stride()}")
        return one

    def through(self, branch: Branch) -> Branch:
        return lambda u: self.taken(branch(u))

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        return mhc_ref.block(self.taken(x), params, self.through(branch), PAPER)

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        return mhc_ref.layers(self.taken(x), params, [*map(self.through, branches)], PAPER)

    def stack(self, h: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        if h[..., 0].numel() > self.max_tokens:
            raise Refused(tuple(h.shape))
        return mhc_ref.stack(self.taken(h), params, [*map(self.through, branches)], PAPER)


@pytest.mark.slow
@pytest.mark.parametrize(
    "law",
    [
        "gradient.a-branch-may-mix-tokens",
        "gradient.branches-of-layers-may-mix-tokens",
        "gradient.branches-of-stacks-may-mix-tokens",
    ],
)
def test_what_a_branch_returns_is_a_view_only_where_views_are_taken(law: str, tmp_path: Path) -> None:
    holds(law, Contiguous(8), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("law", ["sizes.stacks-pull-back", "device.compiled-blocks-are-the-same"])
def test_no_law_calls_with_more_tokens_than_are_declared(
    law: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def uncompiled(self: Device, call: Any, dynamic: bool = False, traced: bool = False) -> Any:
        return call  # a compiler takes a minute for as many shapes

    monkeypatch.setattr(Device, "compiled", uncompiled)
    holds(law, Contiguous(1), tmp_path)


class Few(nn.Module):
    """The mappings of so many tokens a call, on any axes."""

    def __init__(self, n: int, channels: int, most: int) -> None:
        super().__init__()
        shapes = params_shapes(n, channels, PAPER)
        self.phi, self.bias, self.alpha = (nn.Parameter(torch.ones(shape)) for shape in shapes[:3])
        self.most = most

    def forward(self, x: Tensor) -> Any:
        if x.shape[:-2].numel() > self.most:
            raise Refused(tuple(x.shape))
        return mhc_ref.mappings(x, Params(self.phi, self.bias, self.alpha), PAPER)


@pytest.mark.parametrize("most", [1, 2, 5, 6])
def test_an_adapter_is_tried_with_no_more_tokens_than_it_declares(most: int) -> None:
    def pre(x: Any, h_pre: Any) -> Any:
        if np.prod(x.shape[:-2]) > most:
            raise Refused(x.shape)
        return (h_pre[..., None] * x).sum(-2)

    names = {"phi": "phi", "bias": "bias", "alpha": "alpha"}
    assert from_module(lambda n, channels: Few(n, channels, most), names, dialect=PAPER, max_tokens=most).name == "Few"
    assert from_arrays("numpy", pre=pre, dialect=PAPER, max_tokens=most).name == "pre"


# -- parameters that are stored in the dtype of the state, of several --------------------------------------------------


class Stored(Implementation):
    """Parameters in whatever dtype a state has."""

    name = "stored"
    dialect = DEEPSEEK_V4
    dtypes = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    parameters = "state"

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        if any(part is not None and part.dtype != x.dtype for part in params):
            raise Refused("parameters of another dtype")
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        return mhc_ref.mappings(x, map_tensors(params, lambda part: part.to(wide)), DEEPSEEK_V4)

    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        return mhc_ref.pre(x, h_pre)

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        return mhc_ref.post(x, y, h_post, h_res, DEEPSEEK_V4)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", Stored.dtypes)
@pytest.mark.parametrize("method", ["mappings", "blocks"])
def test_parameters_of_a_call_in_another_dtype_can_be_stored_in_it(
    method: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    holds(f"execution.other-calls-do-not-change-{method}", Stored(), tmp_path, dtype)


@pytest.mark.slow
@pytest.mark.parametrize(
    "law",
    [
        "execution.deterministic-algorithms-do-not-matter",
        "execution.default-dtypes-do-not-matter",
        "execution.threads-do-not-matter",
        "execution.refused-calls-leave-their-surroundings",
    ],
)
def test_a_projection_of_a_bias_is_not_asked_with_logits_that_no_bias_has(law: str, tmp_path: Path) -> None:
    class Short(Stored):
        dtypes = (torch.bfloat16,)

    holds(law, Short(), tmp_path, torch.bfloat16)
