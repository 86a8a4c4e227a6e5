"""Gradients at the ends of a dtype: nothing is claimed where a correct implementation may have no number."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from mhc_ref import HYPER_CONNECTIONS, MHC_LITE, PAPER, Dialect, Mappings, Params
from mhc_ref.packing import logit_sizes
from properties.bounds import INF, Approx, Rounding
from properties.bounds.rms import over_rms, over_rms_gradient
from properties.catalogue import controls
from properties.core.case import BranchSpec, Case
from properties.core.deviant import Deviant
from properties.core.implementation import Implementation, Reference
from properties.core.law import all_laws
from properties.core.sweep import Kept
from properties.core.trial import FloatTruth, Trial
from properties.laws.sizes_backwards import BLOCK
from properties.strategies.layouts import EVALUATED

HALF = torch.float16


class UsedApart(Deviant):
    """A state is widened anew for its norm, for each of three products, and for every stream that it is mixed into, so
    that autograd rounds the gradient of each use to the dtype of the state."""

    dtypes = (HALF,)

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        n, sizes = x.shape[-2], logit_sizes(x.shape[-2], self.computed)
        if self.norm_axes() == (-1,):
            return super().mappings(x, params)
        rms = self.divisor(self.widened(x)).flatten(-2)
        parts = [self.widened(x).flatten(-2) @ one / rms for one in params.phi.split(sizes, -1)]
        gated = zip(parts, params.alpha, params.bias.split(sizes), strict=True)
        pre, post, res = (self.gated(*one) for one in gated)
        return Mappings(self.h_pre(pre), self.h_post(post), self.h_res(res, n))

    def mixed(self, x: Tensor, h_res: Tensor) -> Tensor:
        raise AssertionError("streams are mixed one by one")

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        mixing, streams = self.operator(h_res), range(x.shape[-2])
        mixed = [sum(mixing[..., i, j, None] * self.widened(x[..., j, :]) for j in streams) for i in streams]
        return (torch.stack([torch.as_tensor(one) for one in mixed], -2) + self.spread(self.widened(y), h_post)).to(
            x.dtype
        )


def holds(law: str, target: Implementation, dialect: Dialect, case: Case) -> None:
    """Judge a law at a case, whose states say of which dtype they are."""
    all_laws()[law].judge(Trial(target, case.x.dtype, torch.device("cpu"), FloatTruth(dialect)), case)


@pytest.fixture
def flushing() -> Iterator[None]:
    """Numbers below the normal ones are taken for 0."""
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor flushes nothing")
    yield
    torch.set_flush_denormal(False)


def test_uses_of_a_state_that_float16_does_not_hold_are_not_claimed_of_their_sum() -> None:
    # x / rms is 1 for every x, and its gradient 0: the difference of two numbers beyond 65504.
    params = Params(torch.tensor([[-4.0, -5.875, -1.875]]), torch.tensor([7.0, -5.75, 4.25]), torch.tensor([0.5, 2, 1]))
    bars = torch.tensor([[2.0**20]]), torch.zeros(1, 1), torch.zeros(1, 1, 1)
    case = Case(x=torch.tensor([[[2.0**-8]]], dtype=HALF), params=params, cotangents=bars)
    law = "gradient.mappings-pull-back-to-state-and-parameters"
    holds(law, UsedApart(PAPER), PAPER, case)


def test_so_it_is_of_the_streams_that_a_state_is_mixed_into() -> None:
    far = torch.tensor([0.0, 0, 0, 0, 80, 80, -80, -80])
    case = Case(
        x=torch.tensor([[[1.0], [2.0]]], dtype=HALF),
        params=Params(torch.zeros(1, 4), far, torch.zeros(3)),
        cotangent=torch.full((1, 2, 1), 1000.0, dtype=HALF),
    )
    for dialect in (HYPER_CONNECTIONS, HYPER_CONNECTIONS.with_(transposed=False)):
        holds("gradient.residual-path-pulls-back-by-the-transpose", UsedApart(dialect), dialect, case)


def test_a_gate_of_a_state_beyond_float16_may_have_no_derivative() -> None:
    # The second state is infinite, its gates are NaN, and 0, the cotangent of h_post, times their derivative is NaN.
    params = Params(torch.ones(1, 3), torch.full((3,), 8.0), torch.full((3,), 2.0**-9))
    case = Case(
        x=torch.tensor([[[30000.0]]], dtype=HALF),
        params=(params, params),
        branches=(BranchSpec("identity"), BranchSpec("zero")),
        cotangent=torch.ones(1, 1, 1, dtype=HALF),
    )
    law = "gradient.layers-pull-back-to-the-state-and-every-layer"
    for dynamic in ("linear", "tanh"):
        dialect = PAPER.with_(dynamic=dynamic)
        holds(law, Reference(dialect), dialect, case)


FAR_APART = Params(
    torch.tensor([[0.5, 1, -0.5, 1, 0.25, 1], [1, 0.5, 1, -0.25, 1, 0.5]]),
    torch.tensor([0.0, 0, 0, 0, 0, -40]),
    torch.tensor([1.0, 1, 2]),
    torch.tensor([3.0, 2]),
)
"""Of two streams of one channel, whose second permutation has a share of e^-40."""


@pytest.mark.usefixtures("flushing")
@pytest.mark.parametrize("power", [-76, -72, -64])
def test_what_is_flushed_before_it_meets_a_large_state_is_not_claimed(power: int) -> None:
    # The norm comes after the product, and g / rms is too small for float32 where x^ g is not.
    case = Case(
        x=512 * torch.tensor([[[1.0], [-0.75]]]),
        params=FAR_APART,
        cotangents=(torch.zeros(1, 2), torch.zeros(1, 2), 2.0**power * torch.tensor([[[0.25, 1.0], [1.5, -1.0]]])),
    )
    law = "gradient.mappings-pull-back-to-state-and-parameters"
    holds(law, controls.build("norm-after-matmul", MHC_LITE), MHC_LITE, case)


@pytest.mark.usefixtures("flushing")
@pytest.mark.parametrize("power", [-126, -118, -110])
def test_what_is_flushed_before_it_is_divided_by_a_cube_is_not_claimed(power: int) -> None:
    x = 2.0**-9 * torch.tensor([[[1.0], [-0.75]]])
    g = 2.0**power * torch.tensor([[[1.0], [0.5]]])
    root = x.square().mean((-2, -1), keepdim=True).rsqrt()
    inner_first = g * root - x * (g * x).mean((-2, -1), keepdim=True) * root**3
    r, given, bar = Rounding.of(torch.float32), Approx.exact(x), Approx.exact(g)
    _, shared = over_rms(given, None, (-2, -1), PAPER, r)
    bound = over_rms_gradient(given, bar, torch.zeros_like(bar.value), shared, (-2, -1), PAPER, r)
    assert (inner_first.double() - bound.value).abs().le(bound.error).all()


class HalfThroughout(Reference):
    """Parameters are stored in float16, too."""

    dtypes = (HALF,)
    parameters = "state"


def test_a_sum_over_tokens_that_float16_parameters_do_not_hold_is_not_claimed() -> None:
    r = Rounding.of_declared(HalfThroughout(PAPER), HALF)
    each = Approx.exact(torch.tensor([[30000.0, 1.0], [-10000.0, 1.0]]))
    kept = Kept({}, {"the gradient by bias": each}, most=r.parameter_max).over(5, (2, 4, 5, 7))
    errors = {count: kept(count, 1)["the gradient by bias"].error.tolist() for count in (2, 4, 5, 7)}
    assert errors == {2: [0, 0], 4: [0, 0], 5: [INF, 0], 7: [INF, 0]}
    assert Rounding.of_declared(Reference(PAPER), HALF).parameter_max == INF


def test_parameters_of_evaluations_between_two_passes_can_be_stored() -> None:
    odd = 3 * 2.0**-24  # of which half is no number of float16
    case = Case(
        x=torch.ones(1, 1, 2, dtype=HALF),
        params=Params(torch.full((2, 3), odd), torch.zeros(3), torch.full((3,), odd)),
        branch=BranchSpec("identity"),
        cotangents=(torch.ones(1, 1, 2, dtype=HALF),),
        layout=EVALUATED,
    )
    trial = Trial(HalfThroughout(PAPER), HALF, torch.device("cpu"), FloatTruth(PAPER))
    found = BLOCK.call(trial, case)
    assert all(bool(one.isfinite().all()) for one in found.values())
