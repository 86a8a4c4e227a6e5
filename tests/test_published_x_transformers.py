"""The adapter of x-transformers: h_res is what the module mixes its streams with, and `sinkhorn` is the reference.

The module's h_res is no projection of its logits (docs/findings.md), so nothing here compares it with the reference.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import mhc_ref
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
