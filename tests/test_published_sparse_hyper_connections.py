"""The adapter of sparse-hyper-connections: what its Cayley transform is given, and that it outlives a mode."""

from __future__ import annotations

import pytest
import torch

import mhc_ref
from properties.core.implementation import Implementation, offers
from properties.targets import published


@pytest.fixture
def adapter() -> Implementation:
    pytest.importorskip("shc", reason="the extra `sparse-hyper-connections` is not installed")
    return published.build("sparse-hyper-connections")


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (0, 3, 3), (3, 4, 4), (2, 2, 5, 5)])
def test_it_is_the_reference_with_its_gradient(adapter: Implementation, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
    bar = torch.randn(shape, generator=generator, dtype=torch.float64)
    found, expected = adapter.project(logits), mhc_ref.project(logits, adapter.dialect)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    slopes = (torch.autograd.grad(one, logits, bar)[0] for one in (found, expected))
    torch.testing.assert_close(*slopes, rtol=1e-12, atol=1e-12)


def test_a_call_in_inference_mode_leaves_nothing_behind(adapter: Implementation) -> None:
    logits = torch.randn(7, 3, 3)
    with torch.inference_mode():
        before = adapter.project(logits)
    after = adapter.project(logits.requires_grad_())
    assert torch.equal(before, after)
    after.sum().backward()


def test_only_the_projection_is_offered(adapter: Implementation) -> None:
    assert set(offers(adapter)) == {"project"}
