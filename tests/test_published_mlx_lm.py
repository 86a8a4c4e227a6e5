"""The adapter of mlx-lm's DeepSeek-V4.1: mappings, mixing and whole stacks, across arrays of another library."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import mhc_ref
from mhc_ref import Branch, Mappings, Params
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
    assert_near(adapter.pre(x, found[0]), mhc_ref.pre(x, expected[0]))


def blocks(n: int, channels: int, depth: int) -> tuple[list[Params], list[Branch]]:
    params = [generic((1, n, channels), seed=20 + k)[1] for k in range(depth)]
    branches: list[Branch] = [torch.tanh, torch.sin, torch.cos]
    return params, branches[:depth]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("tokens", [(), (3,), (2, 2)])
def test_layers_and_stacks_are_the_reference(
    adapter: Implementation, depth: int, tokens: tuple[int, ...], dtype: torch.dtype
) -> None:
    """Two blocks a layer of the library, the last left half-way where their number is odd."""
    x = generic((*tokens, 4, 3), seed=depth)[0].to(dtype)
    params, branches = blocks(4, 3, depth)
    h = x[..., 1, :]
    assert_near(adapter.layers(x, params, branches), mhc_ref.layers(x, params, branches, adapter.dialect))
    assert_near(adapter.stack(h, params, branches), mhc_ref.stack(h, params, branches, adapter.dialect))
    assert torch.equal(adapter.expand(h, 4), mhc_ref.expand(h, 4, adapter.dialect))


def test_branches_read_in_their_order_and_once(adapter: Implementation) -> None:
    x = generic((2, 4, 3), seed=5)[0]
    params, branches = blocks(4, 3, 3)
    read: list[Tensor] = []

    def noting(branch: Branch) -> Branch:
        def run(u: Tensor) -> Tensor:
            read.append(u)
            return branch(u)

        return run

    adapter.layers(x, params, [noting(one) for one in branches])
    state, gates = x, None
    assert len(read) == 3
    for u, one, branch in zip(read, params, branches, strict=True):
        h_pre, h_post, h_res = mhc_ref.mappings(state, one, adapter.dialect)
        expected = state[..., 0, :] if gates is None else mhc_ref.pre(state, gates)
        assert_near(u, expected)
        state, gates = mhc_ref.post(state, branch(expected), h_post, h_res, adapter.dialect), h_pre


def test_gradients_of_a_stack_cross_over(adapter: Implementation) -> None:
    """mlx's own vjp of each run of a layer, and torch's chain rule through the branches between them."""
    h = generic((3, 1, 4), seed=6)[0][..., 0, :]
    params, branches = blocks(4, 4, 3)

    def gradients(stack: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        leaves = [t.clone().requires_grad_() for t in (h, *(part for one in params for part in one[:3]))]
        each = iter(leaves[1:])
        given = [Params(next(each), next(each), next(each)) for _ in params]
        return torch.autograd.grad(stack(leaves[0], given, branches).sin().sum(), leaves)

    expected = gradients(lambda h, params, branches: mhc_ref.stack(h, params, branches, adapter.dialect))
    for mine, theirs in zip(gradients(adapter.stack), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))
        assert mine.abs().max() > 1e-4


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
    with pytest.raises(Absent, match="hc_sinkhorn_iters below 1"):
        adapter.tuned(iterations=0)


def test_a_count_of_0_is_that_of_1(adapter: Implementation) -> None:
    """What the adapter refuses to be asked for: the columns are divided before anything is counted."""
    mx, model = importlib.import_module("mlx.core"), importlib.import_module("mlx_lm.models.deepseek_v41")
    matrix, eps = mx.array([[[0.9, 0.1], [0.6, 0.4]]]), mx.array([1e-6])
    none, one, two = (model._sinkhorn(matrix, iters=count, eps=eps).tolist() for count in (0, 1, 2))
    assert none == one != two


def test_what_is_offered(adapter: Implementation) -> None:
    """Everything but a collapse by itself, which has no gates to read with."""
    own = dict.fromkeys(("mappings", "pre", "post", "block", "layers", "expand", "stack"), "own")
    assert offers(adapter) == {"project": "derived from mappings", **own}
    x, params = generic((2, 3, 4))
    with pytest.raises(ValueError, match="the norm has no weight"):
        adapter.mappings(x, params._replace(norm_weight=torch.ones(12)))
