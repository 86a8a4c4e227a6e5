"""The adapters of x-transformers: what the modules mix with, and that two of them are the reference.

The h_res of `HyperConnection` is no projection of its logits (docs/findings.md), so nothing here compares it with that.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import mhc_ref
from mhc_ref import Params
from mhc_ref.packing import params_shapes
from properties.core.implementation import Absent, Implementation, offers
from properties.targets import published


@pytest.fixture
def adapter() -> Implementation:
    pytest.importorskip("x_transformers", reason="the extra `x-transformers` is not installed")
    return published.build("x-transformers")


def generic(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("batch", [(), (0,), (1,), (2, 2)])
def test_h_res_is_what_the_module_mixes_with(adapter: Implementation, batch: tuple[int, ...]) -> None:
    """The module called by hand: what `prepare` makes of streams e_1, ..., e_n are the rows of the mixing matrix."""
    library: Any = pytest.importorskip("x_transformers.x_transformers")
    n = 3
    logits = generic(*batch, n, n)
    found = adapter.project(logits)
    assert found.shape == logits.shape
    for matrix, one in zip(found.reshape(-1, n, n), logits.reshape(-1, n, n), strict=True):
        module = library.HyperConnection(n, layer_index=1, num_residual_streams=n)
        with torch.no_grad():
            module.static_alpha[:, 1:] = one
        _, mixed, _ = module.prepare(torch.eye(n).unsqueeze(1))  # mixed[t] = sum over s of h_res[s, t] e_s
        torch.testing.assert_close(mixed[0, 0].mT, matrix)


def test_the_library_is_left_as_it_was(adapter: Implementation) -> None:
    library: Any = pytest.importorskip("x_transformers.x_transformers")
    before = library.sinkhorn
    logits = generic(2, 3, 3).requires_grad_()
    (gradient,) = torch.autograd.grad(adapter.project(logits).square().sum(), logits)
    assert gradient.shape == logits.shape
    assert library.sinkhorn is before


def test_sinkhorn_by_itself_is_the_reference() -> None:
    pytest.importorskip("x_transformers", reason="the extra `x-transformers` is not installed")
    logits = generic(5, 4, 4) * 3
    for iterations in (0, 1, 5, 20):
        tuned = published.build("x-transformers-sinkhorn").tuned(iterations=iterations)
        expected = mhc_ref.project(logits, tuned.dialect)
        torch.testing.assert_close(tuned.project(logits), expected, rtol=1e-5, atol=1e-6)


def test_what_is_offered(adapter: Implementation) -> None:
    assert offers(adapter) == {"project": "own"}
    with pytest.raises(Absent, match="rms_eps"):
        adapter.tuned(rms_eps=0.5)


@pytest.fixture
def gated() -> Implementation:
    pytest.importorskip("x_transformers", reason="the extra `x-transformers` is not installed")
    return published.build("x-transformers-gated")


def drawn(adapter: Implementation, shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Params]:
    generator = torch.Generator().manual_seed(seed)
    sizes = params_shapes(shape[-2], shape[-1], adapter.dialect)
    params = Params(*(torch.randn(size, generator=generator) for size in sizes))
    return torch.randn(shape, generator=generator), params


def branch(h: Tensor) -> Tensor:
    return h.sin() - 0.5 * h.roll(1, -1)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 2, 9), (2, 2, 3, 2), (4, 7), (0, 5, 4)])
def test_the_gated_residual_is_the_reference(gated: Implementation, shape: tuple[int, ...]) -> None:
    x, params = drawn(gated, shape)
    for one in (params, params._replace(norm_weight=None)):
        expected = mhc_ref.block(x, one, branch, gated.dialect.at(x.dtype))
        torch.testing.assert_close(gated.block(x, one, branch), expected, rtol=1e-5, atol=1e-5)


def test_the_gated_residual_s_gradients_are_those_of_the_reference(gated: Implementation) -> None:
    x, params = drawn(gated, (3, 3, 5))
    bar = drawn(gated, (3, 3, 5), seed=1)[0]

    def gradients(block: Any) -> tuple[Tensor, ...]:
        leaves = [one.clone().requires_grad_() for one in (x, *params) if one is not None]
        return torch.autograd.grad(block(leaves[0], Params(*leaves[1:]), branch), leaves, bar)

    expected = gradients(lambda x, params, branch: mhc_ref.block(x, params, branch, gated.dialect))
    for mine, theirs in zip(gradients(gated.block), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
        assert mine.abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_eps_of_the_gated_residual_is_that_of_the_dtype(gated: Implementation, dtype: torch.dtype) -> None:
    """States as small as an eps, of which float32's and float64's make numbers that differ in the first digit."""
    x, params = drawn(gated, (3, 2, 4))
    x, params = 1e-4 * x.to(dtype), Params(*(None if one is None else one.to(dtype) for one in params))  # pyright: ignore[reportArgumentType]
    found, (mine, other) = gated.block(x, params, branch), (gated.dialect.at(one) for one in (dtype, OTHER[dtype]))
    torch.testing.assert_close(found, mhc_ref.block(x, params, branch, mine), rtol=1e-5, atol=1e-9)
    assert (found - mhc_ref.block(x, params, branch, other)).abs().max() > 1e-3


OTHER = {torch.float64: torch.float32, torch.float32: torch.float64}
