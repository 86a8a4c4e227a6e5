"""Norms that clamp: what comes of streams of zeros, on both sides of the kink, and what is claimed there."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import mhc_ref
from mhc_ref import LUCIDRAINS, PAPER, QWEN4_EXP, Dialect
from mhc_ref.block import normalise
from properties.bounds import Approx, Rounding
from properties.bounds.stages import norm_gradient, normalised
from properties.catalogue import controls
from properties.core.implementation import Reference
from properties.diagnosis import identify

SMALL = LUCIDRAINS
"""Its norm is `torch.nn.functional.normalize` with the eps that it has by default, 1e-12."""


def pulled(x: Tensor, g: Tensor, dialect: Dialect) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(normalise(x, None, dialect), x, g)[0]


def bound(x: Tensor, g: Tensor, dialect: Dialect, dtype: torch.dtype = torch.float32) -> Approx:
    state, r = Approx.exact(x.double()), Rounding.of(dtype)
    _, shared = normalised(state, None, dialect, r)
    return norm_gradient(state, Approx.exact(g.double()), g.double().abs(), shared, dialect, r)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_clamped_norm_is_that_of_normalize(dtype: torch.dtype) -> None:
    x = torch.randn(5, 3, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    x = x * torch.tensor([1.0, 1e-6, 1e-13, 1e-20, 0.0], dtype=dtype).view(-1, 1, 1)
    expected = torch.nn.functional.normalize(x, dim=-1) * math.sqrt(8)
    torch.testing.assert_close(normalise(x, None, SMALL), expected, rtol=1e-6, atol=0.0)


def test_a_stream_of_zeros_beside_others_has_the_gradient_of_the_clamp() -> None:
    generator = torch.Generator().manual_seed(2)
    x, g = (torch.randn(2, 3, 8, generator=generator) for _ in range(2))
    x[0, 1] = 0
    found = pulled(x, g, SMALL)
    torch.testing.assert_close(found[0, 1], g[0, 1] * math.sqrt(8) * 1e12, rtol=1e-6, atol=0.0)
    claimed = bound(x, g, SMALL)
    assert bool(((found.double() - claimed.value).abs() <= claimed.error).all())
    sharp = claimed.error[0, 1] / claimed.value[0, 1].abs()
    assert float(sharp.max()) < 60 * 2.0**-24, "a claim so wide would let another gradient pass"


@pytest.mark.parametrize("wrong", ["stopped", "through the root"])
def test_the_bound_refuses_another_gradient_of_a_small_stream(wrong: str) -> None:
    generator = torch.Generator().manual_seed(3)
    x, g = 1e-14 * torch.randn(1, 2, 8, generator=generator), torch.randn(1, 2, 8, generator=generator)
    claimed, right = bound(x, g, SMALL), pulled(x, g, SMALL)
    rho = 1e-12 / math.sqrt(8)
    other = torch.zeros_like(g) if wrong == "stopped" else right - x * (g * x).mean(-1, keepdim=True) / rho**2 / 1e-14
    assert bool(((right.double() - claimed.value).abs() <= claimed.error).all())
    assert bool(((other.double() - claimed.value).abs() > claimed.error).any())


def test_either_side_of_the_kink_is_admitted_where_rounding_decides() -> None:
    dialect = PAPER.with_(rms_eps=1.0, rms_eps_by="clamp")
    x = torch.tensor([[[0.6, 0.0], [0.8, 0.0]]])
    g = torch.tensor([[[1.0, 2.0], [3.0, -1.0]]])
    claimed = bound(x, g, dialect)
    below, above = 2.0 * g, 2.0 * (g - x * (g * x).sum())  # sqrt(K) = 2
    for side in (below, above):
        assert bool(((side.double() - claimed.value).abs() <= claimed.error).all())
    apart = bound(1.001 * x, g, dialect)
    assert bool(((below.double() - apart.value).abs() > apart.error).any())


@pytest.mark.parametrize("name", ["norm-by-normalize", "norm-by-clamped-rsqrt"])
def test_other_forms_of_a_clamped_norm_give_the_same(name: str) -> None:
    dialect = PAPER.with_(rms_eps=1e-3, rms_eps_by="clamp")
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(3, 3, 4, generator=generator, dtype=torch.float64)
    x = x * torch.tensor([1.0, 1e-5, 0.0], dtype=torch.float64).view(-1, 1, 1)
    shapes = mhc_ref.packing.params_shapes(3, 4, dialect)
    params = mhc_ref.Params(*(torch.randn(one, generator=generator, dtype=torch.float64) for one in shapes))
    for one, other in zip(
        controls.build(name, dialect).mappings(x, params), mhc_ref.mappings(x, params, dialect), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_identify_measures_a_norm_that_clamps() -> None:
    found = identify(Reference(PAPER.with_(rms_eps=3e-4, rms_eps_by="clamp"), "mine"))
    assert (found.findings["rms_eps_by"].value, found.findings["rms_eps_by"].status) == ("clamp", "certain")
    assert found.findings["rms_eps"].value == 3e-4


def test_a_read_that_divides_by_a_root_itself_refuses_a_clamp() -> None:
    with pytest.raises(ValueError, match="conflicts with rms_eps_by='clamp'"):
        QWEN4_EXP.with_(rms_eps_by="clamp")
