"""Gradients at the ends of a dtype: nothing is claimed where a correct implementation may have no number."""

from __future__ import annotations

import torch
from torch import Tensor

from mhc_ref import HYPER_CONNECTIONS, PAPER, Dialect, Mappings, Params
from mhc_ref.packing import logit_sizes
from properties.core.case import BranchSpec, Case
from properties.core.deviant import Deviant
from properties.core.implementation import Implementation, Reference
from properties.core.law import all_laws
from properties.core.trial import FloatTruth, Trial

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


def holds(law: str, target: Implementation, dialect: Dialect, case: Case) -> Trial:
    """The bench on which a law holds at a case of float16 states."""
    trial = Trial(target, HALF, torch.device("cpu"), FloatTruth(dialect))
    all_laws()[law].judge(trial, case)
    return trial


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
