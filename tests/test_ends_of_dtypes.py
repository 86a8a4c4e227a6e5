"""What a dtype cannot hold exactly accuses nobody: factors below its normal numbers, and constants between them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mhc_ref import PAPER, Dialect, Params
from mhc_ref.dialect import Axis
from mhc_ref.packing import params_shapes
from properties.bounds.arithmetic import is_rounded
from properties.catalogue.controls_of_dtypes import HalfStages, MixedInTheState, ShortStages
from properties.core.case import Case
from properties.core.deviant import Deviant
from properties.core.implementation import Implementation
from properties.core.law import all_laws
from properties.core.rounding import Rounding
from properties.core.trial import LawBroken, Trial
from properties.engine.subject import Subject
from properties.engine.trying import try_case

F16, BF16 = torch.float16, torch.bfloat16


def tried(law: str, target: Implementation, dtype: torch.dtype, case: Case) -> Trial:
    return try_case(all_laws()[law], Subject("target", target, dtype, torch.device("cpu")), case)


# -- factors below the normal numbers ---------------------------------------------------------------------------------


class ForgetsASmallWeight(MixedInTheState):
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
    tried(MIXED, MixedInTheState(PAPER), F16, mixed_with(2e-8))


def test_a_weight_that_it_holds_may_not() -> None:
    tried(MIXED, MixedInTheState(PAPER), F16, mixed_with(9e-7))
    with pytest.raises(LawBroken):
        tried(MIXED, ForgetsASmallWeight(PAPER), F16, mixed_with(9e-7))


def test_a_weight_that_the_dtype_of_the_state_cannot_hold_may_be_lost_where_the_branch_input_is_summed_in_it() -> None:
    x = torch.tensor([[[60000.0], [0.0]]], dtype=F16)
    tried("mixing.pre-is-the-weighted-sum", HalfStages(PAPER), F16, Case(x=x, h_pre=torch.tensor([[2e-8, 0.0]])))


# -- sums beyond the largest number -----------------------------------------------------------------------------------


def cancelling(size: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Streams whose first two add up to twice what the third leaves; no branch, and all of every stream for each."""
    x = torch.tensor([[[size], [size], [-size]]], dtype=F16)
    return x, torch.zeros(1, 1, dtype=F16), torch.zeros(1, 3), torch.ones(1, 3, 3)


def test_a_partial_sum_may_be_beyond_the_dtype_of_the_state_where_it_is_one_of_it() -> None:
    x, y, h_post, h_res = cancelling(60000.0)
    assert not MixedInTheState(PAPER).post(x, y, h_post, h_res + 1).isfinite().all()
    tried(MIXED, MixedInTheState(PAPER), F16, Case(x=x, y=y, h_post=h_post, h_res=h_res + 1))
    tried("mixing.pre-is-the-weighted-sum", HalfStages(PAPER), F16, Case(x=x, h_pre=torch.ones(1, 3)))


class LosesSums(MixedInTheState):
    """Of sums of 20000 and more nothing is left."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        return torch.where(super().post(x, y, h_post, h_res).abs() < 2e4, 0.0, torch.inf).to(x.dtype)


def test_of_sums_within_it_everything_is_claimed() -> None:
    x, y, h_post, h_res = cancelling(21000.0)
    with pytest.raises(LawBroken):
        tried(MIXED, LosesSums(PAPER), F16, Case(x=x, y=y, h_post=h_post, h_res=h_res))


def test_a_larger_state_whose_squares_are_beyond_the_dtype_of_its_norm_need_not_have_the_same_mappings() -> None:
    """Those of 30 are within float16, and of 8 times that they are not."""
    case = bias_alone(torch.zeros(4), 2, PAPER)
    params = case.params._replace(phi=torch.ones_like(case.params.phi))
    x = torch.tensor([[[30.0], [40.0]]], dtype=F16)
    tried(
        "coefficients.coefficients-do-not-see-the-scale", HalfStages(PAPER), F16, Case(x=x, params=params, factor=8.0)
    )


# -- constants that are rounded ---------------------------------------------------------------------------------------


def bias_alone(bias: Tensor, n: int, dialect: Dialect) -> Case:
    """A block whose logits are its bias."""
    shapes, x = params_shapes(n, 1, dialect), torch.ones(1, n, 1)
    whole = torch.cat([bias, torch.zeros(*shapes.bias).to(bias)[len(bias) :]])
    return Case(x=x, params=Params(torch.zeros(shapes.phi), whole, torch.ones(shapes.alpha)))


def test_the_constants_of_a_gate_are_rounded_as_its_sum_is() -> None:
    """1.014 and 1.009 lie half a unit of float32 from its numbers, and so does the first times this gate; in the sum
    that cancels they are what is left."""
    dialect = PAPER.with_(post="linear", post_scale=1.014, post_eps=1.009)
    case = bias_alone(torch.tensor([0.0, -0.9939458966255188]), 1, dialect)
    tried("coefficients.agrees-with-oracle", Deviant(dialect), torch.float32, case)


def test_constants_that_a_dtype_has_are_not_rounded_in_it() -> None:
    single, double = Rounding.of(torch.float32), Rounding.of(torch.float64)
    short = replace(single, short=("gates",), state_unit=2.0**-8).at("gates")
    assert not any(is_rounded(one, single) for one in (0.0, 1.0, -2.0, 0.375, 2.0**-60, 1 + 2.0**-23))
    assert all(is_rounded(one, single) for one in (0.1, 1e-6, 1 + 2.0**-24))
    assert is_rounded(1 + 2.0**-8, short)
    assert not is_rounded(1 + 2.0**-7, short)
    assert not is_rounded(1 + 2.0**-50, double)


RANGE = "coefficients.gates-stay-in-their-range"


@pytest.mark.parametrize(
    ("fields", "bias"), [({"pre_eps": 0.1}, 100.0), ({"post_scale": 1.6}, 100.0), ({"post_eps": 0.7}, -100.0)], ids=str
)
def test_the_ends_of_a_range_are_numbers_of_the_dtype_in_which_gates_are_computed(
    fields: dict[str, float], bias: float
) -> None:
    """1.1 is 1.1016 in bfloat16, 1.6 is 1.6016, and 0.7, which a gate of 0 leaves, is 0.6992."""
    dialect = PAPER.with_(**fields)
    case = bias_alone(torch.full((4,), bias), 2, dialect)
    tried(RANGE, ShortStages(dialect), BF16, Case(x=case.x.to(BF16), params=case.params))


def zeros(dtype: torch.dtype) -> Case:
    case = bias_alone(torch.zeros(4), 2, PAPER)
    return Case(x=torch.zeros(1, 2, 1, dtype=dtype), params=case.params)


@pytest.mark.parametrize("inside", [True, False])
def test_a_norm_whose_eps_no_dtype_of_it_holds_has_none_for_a_token_of_zeros(inside: bool) -> None:
    """1e-50 is 0 in float32, and 1e-20 in float16, so that the norm is 0 / 0."""
    tried(RANGE, Deviant(PAPER.with_(rms_eps=1e-50, rms_eps_inside=inside)), torch.float32, zeros(torch.float32))
    tried(RANGE, HalfStages(PAPER.with_(rms_eps=1e-20, rms_eps_inside=inside)), F16, zeros(F16))


@pytest.mark.parametrize(
    "law", [RANGE, "coefficients.zero-tokens-see-only-the-bias", "coefficients.agrees-with-oracle"]
)
@pytest.mark.parametrize("by", ["clamp", "add"])
def test_what_a_norm_divides_by_may_be_no_number_of_its_dtype(law: str, by: str) -> None:
    """1e-12 is 0 in float16, whether it is added to a root of 0 or what that is raised to."""
    outside = {"rms_eps_by": by, "rms_eps_inside": False}
    tried(law, HalfStages(PAPER.with_(rms_eps=1e-12, **outside)), F16, zeros(F16))
    tried(law, Deviant(PAPER.with_(rms_eps=1e-50, **outside)), torch.float32, zeros(torch.float32))


def test_a_norm_with_an_eps_owes_gates_to_a_token_of_zeros() -> None:
    class Divides(Deviant):
        """By the root mean square alone."""

        def divisor(self, x: Tensor) -> Tensor:
            return x.square().mean((-2, -1), keepdim=True).sqrt()

    with pytest.raises(LawBroken):
        tried(RANGE, Divides(PAPER), torch.float32, zeros(torch.float32))


# -- lines that are lost ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", ["mixing.exact-side-is-conserved", "mixing.mixing-does-not-expand"])
@pytest.mark.parametrize("last_axis", ["row", "column"])
def test_of_a_line_that_is_lost_to_underflow_nothing_is_claimed_where_streams_are_zero(
    law: str, last_axis: Axis
) -> None:
    """An infinite error times 0 is no number, which the bound must not become."""
    dialect = PAPER.with_(last_axis=last_axis)
    x, starved = torch.tensor([[[1.0], [0.0]]]), torch.tensor([[[0.0, -200.0], [0.0, -200.0]]])
    for logits in (starved, starved.mT.contiguous()):
        tried(law, Deviant(dialect), torch.float32, Case(x=x, logits=logits))
