"""The adapter of mhc: its projection."""

from __future__ import annotations

import pytest
import torch

import mhc_ref
from properties.core.implementation import Absent, Implementation, offers
from properties.targets import published


@pytest.fixture
def adapter() -> Implementation:
    pytest.importorskip("mhc", reason="the extra `mhc` is not installed", exc_type=ImportError)
    return published.build("mhc")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_the_projection_is_the_reference(adapter: Implementation, iterations: int, dtype: torch.dtype) -> None:
    logits = (3 * torch.randn(5, 4, 4, generator=torch.Generator().manual_seed(0), dtype=dtype)).requires_grad_()
    tuned = adapter.tuned(iterations=iterations)
    found, expected = tuned.project(logits), mhc_ref.project(logits, tuned.dialect)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    cotangent = torch.linspace(-1, 1, 80, dtype=dtype).view(5, 4, 4).sin()
    (mine,), (theirs,) = (torch.autograd.grad(one, logits, cotangent) for one in (found, expected))
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_the_default_is_ten_iterations(adapter: Implementation) -> None:
    from mhc.constraints import project_doubly_stochastic  # pyright: ignore[reportMissingImports]  # an extra

    logits = torch.eye(3) * 4
    assert torch.equal(adapter.project(logits), project_doubly_stochastic(logits))


def test_what_is_offered(adapter: Implementation) -> None:
    assert offers(adapter) == {"project": "own"}
    with pytest.raises(Absent, match="iterations=0"):
        adapter.tuned(iterations=0)
    with pytest.raises(Absent, match="entry_eps"):
        adapter.tuned(entry_eps=0.5)
