"""The adapter of mlx-lm's Muse Spark: what its gate keeps of each channel, values and gradients."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch

import mhc_ref
from mhc_ref import MUSE_SPARK, Dialect
from properties.core.implementation import Absent, Implementation, offers
from properties.targets import published


@pytest.fixture
def adapter() -> Implementation:
    pytest.importorskip("mlx.core", reason="the extra `mlx-lm` is not installed", exc_type=ImportError)
    pytest.importorskip("mlx_lm", reason="the extra `mlx-lm` is not installed")
    return published.build("mlx-lm-muse-spark")


@pytest.mark.parametrize("dialect", [MUSE_SPARK, MUSE_SPARK.with_(temperature=2.0, floor=0.25)])
@pytest.mark.parametrize("shape", [(1, 1), (5, 1), (2, 3, 4, 1), (0, 3, 1)])
def test_the_gate_keeps_what_ours_does(adapter: Implementation, dialect: Dialect, shape: tuple[int, ...]) -> None:
    tuned = adapter.tuned(temperature=dialect.temperature, floor=dialect.floor)
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    bar = torch.randn(*shape[:-1], shape[-2], generator=torch.Generator().manual_seed(1))
    found, expected = tuned.project(logits), mhc_ref.project(logits, dialect)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    pulled = [torch.autograd.grad(one, logits, bar)[0] for one in (found, expected)]
    torch.testing.assert_close(*pulled, rtol=1e-5, atol=1e-6)


def test_the_floor_is_kept_and_passes_no_gradient(adapter: Implementation) -> None:
    logits = torch.tensor([[30.0], [0.0]], requires_grad=True)
    found = adapter.project(logits)
    (back,) = torch.autograd.grad(found.sum(), logits)
    assert found.diagonal().tolist() == pytest.approx([1e-3**0.5, 0.75**0.5])
    assert back[0] == 0
    assert back[1] < 0


def test_both_weights_are_on_the_circle(adapter: Implementation) -> None:
    """What no dialect says: the weight of the branch is of the same logits."""
    mx, library = import_module("mlx.core"), import_module("mlx_lm.models.muse_spark")
    gate = torch.linspace(-1, 1, 9)
    alpha, beta = (torch.tensor(one.tolist()) for one in library.residual_gate_coefficients(mx.array(gate.numpy())))
    torch.testing.assert_close(alpha.square() + beta.square(), torch.ones(9))
    torch.testing.assert_close(beta, (gate / 0.3).sigmoid())
    torch.testing.assert_close(adapter.project(gate.unsqueeze(-1)).diagonal(), alpha)


def test_what_is_offered(adapter: Implementation) -> None:
    assert offers(adapter) == {"project": "own"}
    with pytest.raises(Absent, match="post_scale"):
        adapter.tuned(post_scale=2.0)
