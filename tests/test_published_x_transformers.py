"""The adapter of x-transformers: parameters arrive where the module has them, h_res is what its `sinkhorn` gave.

The module's h_res is no projection of its logits (docs/findings.md), so nothing here compares it with the reference.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import mhc_ref
from mhc_ref import Params
from properties import published
from properties.implementation import Absent, Implementation, offers


@pytest.fixture
def adapter() -> Implementation:
    pytest.importorskip("x_transformers", reason="the extra `x-transformers` is not installed")
    return published.build("x-transformers")


def generic(shape: tuple[int, ...]) -> tuple[Tensor, Params]:
    generator = torch.Generator().manual_seed(0)
    n, channels = shape[-2:]

    def draw(*dims: int) -> Tensor:
        return torch.randn(dims, generator=generator)

    return draw(*shape), Params(draw(channels, 2 + n) * channels**-0.5, draw(2 * n + n * n), 1 + draw(3) / 2)


@pytest.mark.parametrize("tokens", [(), (0,), (1,), (7,), (2, 3)])
def test_a_block_is_what_the_module_computes(adapter: Implementation, tokens: tuple[int, ...]) -> None:
    """The module called by hand, its parameters assigned one by one, streams packed into the batch."""
    library: Any = pytest.importorskip("x_transformers.x_transformers")
    n, channels = 3, 4
    x, params = generic((*tokens, n, channels))
    module = library.HyperConnection(channels, layer_index=1, num_residual_streams=n)
    with torch.no_grad():
        module.static_alpha[:, 0] = params.bias[:n]
        module.static_alpha[:, 1:] = params.bias[2 * n :].view(n, n)
        module.static_beta.copy_(params.bias[n : 2 * n])
        module.dynamic_alpha_fn[:, 0] = params.phi[:, 0]
        module.dynamic_alpha_fn[:, 1:] = params.phi[:, 2:]
        module.dynamic_beta_fn.copy_(params.phi[:, 1])
        module.dynamic_alpha_scale.fill_(0.5)
        module.dynamic_beta_scale.fill_(-2.0)
    params = params._replace(alpha=torch.tensor([0.5, -2.0, 0.5]))
    packed = torch.stack([x[..., s, :].reshape(-1, channels) for s in range(n)])
    branch_input, residuals, kept = module.prepare(packed)
    expected = module(branch_input.sin(), residuals, **kept)
    out = adapter.block(x, params, torch.sin)
    for s in range(n):
        torch.testing.assert_close(out[..., s, :].reshape(-1, channels), expected[s])


def test_h_res_is_what_sinkhorn_returned(adapter: Implementation) -> None:
    library: Any = pytest.importorskip("x_transformers.x_transformers")
    before = library.sinkhorn
    x, params = generic((2, 3, 4))
    found = adapter.mappings(x, params)
    assert found.res.shape == (2, 3, 3)
    y = adapter.block(x, params, torch.zeros_like)
    torch.testing.assert_close(y, found.res.transpose(-1, -2) @ x)
    assert library.sinkhorn is before


def test_sinkhorn_by_itself_is_the_reference(adapter: Implementation) -> None:
    logits = generic((5, 4, 4))[0] * 3
    for iterations in (0, 1, 5, 20):
        tuned = adapter.tuned(iterations=iterations)
        expected = mhc_ref.project(logits, tuned.dialect)
        torch.testing.assert_close(tuned.project(logits), expected, rtol=1e-5, atol=1e-6)


def test_gradients_reach_parameters(adapter: Implementation) -> None:
    x, params = generic((2, 3, 4))
    leaves = [t.requires_grad_() for t in params[:3]]
    grads = torch.autograd.grad(adapter.block(x, Params(*leaves), torch.sin).square().sum(), leaves)
    assert all(grad.abs().max() > 1e-4 for grad in grads)


def test_what_is_offered(adapter: Implementation) -> None:
    assert {method for method, how in offers(adapter).items() if how == "own"} == {"project", "mappings", "block"}
    x, params = generic((2, 3, 4))
    with pytest.raises(ValueError, match="one weight for all streams"):
        adapter.mappings(x, params._replace(norm_weight=torch.ones(12)))
    with pytest.raises(Absent, match="rms_eps"):
        adapter.tuned(rms_eps=0.5)
