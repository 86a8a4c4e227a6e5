"""What a dtype cannot hold exactly accuses nobody: factors below its normal numbers, and constants between them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mhc_ref import PAPER
from properties.catalogue.controls import ShortStages
from properties.core.case import Case
from properties.core.deviant import Deviant
from properties.core.implementation import Implementation
from properties.core.law import all_laws
from properties.core.trial import LawBroken, Trial
from properties.engine.subject import Subject
from properties.engine.trying import try_case

F16, BF16 = torch.float16, torch.bfloat16


def tried(law: str, target: Implementation, dtype: torch.dtype, case: Case) -> Trial:
    return try_case(all_laws()[law], Subject("target", target, dtype, torch.device("cpu")), case)


# -- factors below the normal numbers ---------------------------------------------------------------------------------


class MixesInState(Deviant):
    """Everything of the residual path is rounded to the dtype of the state, as declared."""

    dtypes = (BF16, F16)
    mixing = "state"

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        return self.operator(h_res).to(x.dtype) @ x + h_post.to(x.dtype).unsqueeze(-1) * y.unsqueeze(-2)


class ForgetsASmallWeight(MixesInState):
    """Takes weights below 1e-6 for 0, which float16 has numbers for."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        return super().post(x, y, h_post, torch.where(h_res.abs() < 1e-6, 0.0, h_res))


def mixed_with(weight: float) -> Case:
    """A stream of 60000, of which another one gets little."""
    h_res = torch.tensor([[[1.0, 0.0], [weight, 1.0]]])
    x, h_post = torch.tensor([[[60000.0], [0.0]]], dtype=F16), torch.zeros(1, 2)
    return Case(x=x, y=torch.zeros(1, 1, dtype=F16), h_post=h_post, h_res=h_res)


MIXED = "mixing.post-is-the-declared-combination"


def test_a_weight_that_the_dtype_of_the_state_cannot_hold_may_be_lost_where_streams_are_mixed_in_it() -> None:
    tried(MIXED, MixesInState(PAPER), F16, mixed_with(2e-8))


def test_a_weight_that_it_holds_may_not() -> None:
    tried(MIXED, MixesInState(PAPER), F16, mixed_with(9e-7))
    with pytest.raises(LawBroken):
        tried(MIXED, ForgetsASmallWeight(PAPER), F16, mixed_with(9e-7))


class InHalf(ShortStages):
    """The same stages in float16."""

    dtypes = (F16,)


def test_a_weight_that_the_dtype_of_the_state_cannot_hold_may_be_lost_where_the_branch_input_is_summed_in_it() -> None:
    x = torch.tensor([[[60000.0], [0.0]]], dtype=F16)
    tried("mixing.pre-is-the-weighted-sum", InHalf(PAPER), F16, Case(x=x, h_pre=torch.tensor([[2e-8, 0.0]])))
