"""The adapter of mlx-lm's DeepSeek-V4.1: mappings and mixing, across arrays of another library and back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import mhc_ref
from mhc_ref import Mappings, Params
from properties.core.implementation import Absent, Implementation, offers
from properties.targets import published

SHAPES = ((1, 1), (2, 9), (3, 2), (4, 7), (5, 4))


@pytest.fixture
def adapter() -> Implementation:
    pytest.importorskip("mlx.core", reason="the extra `mlx-lm` is not installed", exc_type=ImportError)
    pytest.importorskip("mlx_lm", reason="the extra `mlx-lm` is not installed")
    return published.build("mlx-lm")


def generic(shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Params]:
    generator = torch.Generator().manual_seed(seed)
    n, channels = shape[-2:]
    size = 2 * n + n * n

    def draw(*dims: int) -> Tensor:
        return torch.randn(dims, generator=generator)

    return draw(*shape), Params(draw(n * channels, size) * (n * channels) ** -0.5, draw(size), 1 + draw(3) / 2)


def assert_near(actual: Tensor, expected: Tensor) -> None:
    tolerance = 2**-7 if actual.dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("n", "channels"), SHAPES)
@pytest.mark.parametrize("tokens", [(), (3,), (2, 2)])
def test_functions_are_the_reference(
    adapter: Implementation, n: int, channels: int, tokens: tuple[int, ...], dtype: torch.dtype
) -> None:
    x, params = generic((*tokens, n, channels), seed=n)
    x = x.to(dtype)
    found, expected = adapter.mappings(x, params), mhc_ref.mappings(x, params, adapter.dialect)
    for mine, theirs in zip(found, expected, strict=True):
        assert_near(mine, theirs)
    y = generic((*tokens, 1, channels), seed=9)[0].squeeze(-2).to(dtype)
    assert_near(adapter.post(x, y, *found[1:]), mhc_ref.post(x, y, *expected[1:], adapter.dialect))


def test_gradients_cross_over(adapter: Implementation) -> None:
    """mlx's own vjp, of all mappings and of the mixing."""
    x, params = generic((3, 3, 4))

    def gradients(mappings: Callable[..., Mappings], post: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        leaves = [t.clone().requires_grad_() for t in (x, *params[:3])]
        pre, h_post, res = mappings(leaves[0], Params(*leaves[1:]))
        loss = post(leaves[0], leaves[0][..., 0, :], h_post, res).sin().sum() + pre.square().sum()
        return torch.autograd.grad(loss, leaves)

    dialect = adapter.dialect
    expected = gradients(
        lambda x, params: mhc_ref.mappings(x, params, dialect),
        lambda x, y, h_post, res: mhc_ref.post(x, y, h_post, res, dialect),
    )
    for mine, theirs in zip(gradients(adapter.mappings, adapter.post), expected, strict=True):
        assert_near(mine, theirs)
        assert mine.abs().max() > 1e-3


def test_tuned(adapter: Implementation) -> None:
    x, params = generic((3, 4, 2))
    tuned = adapter.tuned(iterations=2, rms_eps=0.5)
    for mine, theirs in zip(tuned.mappings(x, params), mhc_ref.mappings(x, params, tuned.dialect), strict=True):
        assert_near(mine, theirs)
    with pytest.raises(Absent, match="entry_eps"):
        adapter.tuned(entry_eps=0.5)


def test_what_is_offered(adapter: Implementation) -> None:
    """No block: the input of a layer is collapsed with the pre mapping of the layer before it."""
    assert offers(adapter) == {"project": "derived from mappings", "mappings": "own", "post": "own"}
    x, params = generic((2, 3, 4))
    with pytest.raises(ValueError, match="the norm has no weight"):
        adapter.mappings(x, params._replace(norm_weight=torch.ones(12)))
