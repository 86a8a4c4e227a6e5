"""The adapter of TileKernels' torch reference: what goes in and comes out is what its functions take and give."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import mhc_ref
from mhc_ref import Params
from properties import published
from properties.implementation import Absent, Implementation, offers

SHAPES = ((1, 1), (2, 9), (3, 2), (4, 7), (5, 4))


@pytest.fixture
def adapter() -> Implementation:
    try:
        return published.build("tile-kernels-reference")
    except ImportError as error:
        pytest.skip(f"the extra `tile-kernels` is not installed: {error}")


def generic(shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Params]:
    """A bfloat16 state of that shape, and parameters with gates, biases and a norm weight of order 1."""
    generator = torch.Generator().manual_seed(seed)
    n, channels = shape[-2:]
    size = 2 * n + n * n

    def draw(*dims: int) -> Tensor:
        return torch.randn(dims, generator=generator)

    params = Params(
        draw(n * channels, size) * (n * channels) ** -0.5, draw(size), 1 + draw(3) / 2, 1 + draw(n * channels) / 2
    )
    return draw(*shape).bfloat16(), params


def branch(h: Tensor) -> Tensor:
    return (h + 1).sin() - 0.5 * h.roll(1, -1)


def assert_near(actual: Tensor, expected: Tensor) -> None:
    tolerance = 2**-7 if actual.dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("n", "channels"), SHAPES)
@pytest.mark.parametrize("tokens", [(), (3,), (2, 2)])
def test_functions_are_the_reference(adapter: Implementation, n: int, channels: int, tokens: tuple[int, ...]) -> None:
    x, params = generic((*tokens, n, channels), seed=n)
    found = adapter.mappings(x, params)
    for mine, theirs in zip(found, mhc_ref.mappings(x, params, adapter.dialect), strict=True):
        assert_near(mine, theirs)
    assert_near(adapter.block(x, params, branch), mhc_ref.block(x, params, branch, adapter.dialect))
    assert_near(adapter.collapse(x, params), mhc_ref.collapse(x, adapter.dialect, params))
    assert torch.equal(adapter.expand(x[..., 0, :], n), mhc_ref.expand(x[..., 0, :], n))


def test_gradients_reach_everything(adapter: Implementation) -> None:
    x, params = generic((3, 3, 4))
    cotangent = generic((3, 3, 4), seed=9)[0]

    def gradients(block: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        leaves = [t.clone().requires_grad_() for t in (x, *params) if t is not None]
        return torch.autograd.grad(block(leaves[0], Params(*leaves[1:]), branch), leaves, cotangent)

    expected = gradients(lambda x, params, run: mhc_ref.block(x, params, run, adapter.dialect))
    for mine, theirs in zip(gradients(adapter.block), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0.05, atol=0.05)
        assert mine.abs().max() > 1e-2


@pytest.mark.parametrize("fields", [{"iterations": 10, "post_scale": 1.0}, {"rms_eps": 0.5, "pre_eps": 0.25}])
def test_tuned(adapter: Implementation, fields: dict[str, float]) -> None:
    x, params = generic((3, 4, 2))
    tuned = adapter.tuned(**fields)
    assert tuned.dialect == adapter.dialect.with_(**fields)
    for mine, theirs in zip(tuned.mappings(x, params), mhc_ref.mappings(x, params, tuned.dialect), strict=True):
        assert_near(mine, theirs)


def test_what_cannot_be_tuned_is_absent(adapter: Implementation) -> None:
    with pytest.raises(Absent, match="repeat below 1"):
        adapter.tuned(iterations=0)
    with pytest.raises(Absent, match="entry_eps"):
        adapter.tuned(entry_eps=0.5)
    with pytest.raises(ValueError, match="whose parameters are missing"):
        adapter.collapse(generic((3, 2, 2))[0])


def test_the_package_itself_stays_out(adapter: Implementation) -> None:
    """Its import needs tilelang; only the file is loaded."""
    assert "tile_kernels" not in sys.modules
    own = {method for method, how in offers(adapter).items() if how == "own"}
    assert own == {"project", "mappings", "pre", "post", "expand", "collapse"}


def test_a_missing_package_is_an_import_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"tile_kernels/torch/mhc\.py is not installed"):
        published.build("tile-kernels-reference")
