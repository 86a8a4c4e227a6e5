"""The adapters of transformers: what goes in and comes out is what the library's modules take and give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import mhc_ref
from mhc_ref import Params
from properties.core.implementation import Absent, Implementation, offers
from properties.targets import published

NAMES = ("transformers-deepseek-v4", "transformers-glm5-next")
SHAPES = ((1, 1), (2, 9), (3, 2), (4, 7), (5, 1), (5, 4))


@pytest.fixture(params=NAMES)
def adapter(request: pytest.FixtureRequest) -> Implementation:
    pytest.importorskip("transformers", reason="the extra `transformers` is not installed")
    return published.build(request.param)


def generic(shape: Sequence[int], seed: int = 0, sets: int = 1) -> tuple[Tensor, list[Params]]:
    """A state of that shape and `sets` sets of parameters with gates and biases of order 1, float32."""
    generator = torch.Generator().manual_seed(seed)
    n, channels = shape[-2:]
    size = 2 * n + n * n

    def draw(*dims: int) -> Tensor:
        return torch.randn(dims, generator=generator)

    params = [
        Params(draw(n * channels, size) * (n * channels) ** -0.5, draw(size), 1 + 0.5 * draw(3)) for _ in range(sets)
    ]
    return draw(*shape), params


def branch(number: int) -> Callable[[Tensor], Tensor]:
    """A layer that mixes channels and differs from the other ones."""
    return lambda h: (h + number).sin() - 0.5 * h.roll(1, -1)


def assert_near(actual: Any, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("n", "channels"), SHAPES)
def test_mappings_are_the_reference(adapter: Implementation, n: int, channels: int) -> None:
    x, (params,) = generic((3, n, channels), seed=n)
    found, expected = adapter.mappings(x, params), mhc_ref.mappings(x, params, adapter.dialect)
    assert found.pre is None
    assert_near(found.post, expected.post)
    assert_near(found.res, expected.res)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
@pytest.mark.parametrize(("n", "channels"), SHAPES)
def test_layers_are_the_reference(adapter: Implementation, n: int, channels: int, count: int) -> None:
    x, params = generic((3, n, channels), seed=n, sets=count)
    branches = [branch(k) for k in range(count)]
    assert_near(adapter.layers(x, params, branches), mhc_ref.layers(x, params, branches, adapter.dialect))


@pytest.mark.parametrize("tokens", [(), (1,), (7,), (2, 3), (1, 2, 2)])
def test_any_token_axes(adapter: Implementation, tokens: tuple[int, ...]) -> None:
    """Mappings, block, collapse, and the branch see the axes that were given."""
    n, channels = 3, 4
    x, (params,) = generic((*tokens, n, channels))
    shapes: list[torch.Size] = []

    def recorded(h: Tensor) -> Tensor:
        shapes.append(h.shape)
        return branch(1)(h)

    found = adapter.mappings(x, params)
    assert found.post.shape == (*tokens, n)
    assert found.res.shape == (*tokens, n, n)
    assert_near(adapter.block(x, params, recorded), mhc_ref.block(x, params, branch(1), adapter.dialect))
    assert shapes == [(*tokens, channels)]
    assert_near(adapter.collapse(x, params), mhc_ref.collapse(x, adapter.dialect, params))


def test_projection_is_the_reference_on_hard_logits(adapter: Implementation) -> None:
    """Derived from the mappings; entries far below the smallest float come out as exact arithmetic has them."""
    logits = torch.stack([generic((4, 4), seed=k)[0] * scale for k, scale in enumerate((0.0, 1.0, 8.0, 90.0, 1e30))])
    assert_near(adapter.project(logits), mhc_ref.project(logits, adapter.dialect))


@pytest.mark.parametrize(("n", "channels"), SHAPES)
def test_collapse_is_the_reference(adapter: Implementation, n: int, channels: int) -> None:
    x, (params,) = generic((3, n, channels), seed=n)
    assert_near(adapter.collapse(x, params), mhc_ref.collapse(x, adapter.dialect, params))


def test_stack_is_the_reference(adapter: Implementation) -> None:
    x, params = generic((5, 4, 6), sets=4)
    params = params if adapter.dialect.collapse == "head" else params[:3]
    branches = [branch(k) for k in range(3)]
    found = adapter.stack(x[:, 0], params, branches)
    assert_near(found, mhc_ref.stack(x[:, 0], params, branches, adapter.dialect))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_gradients_reach_everything(adapter: Implementation, count: int) -> None:
    """Cotangents of the state, of phi, bias and gates of every block, and of parameters inside a branch."""
    x, params = generic((3, 3, 4), sets=count)
    weight = torch.linspace(-1, 1, 16).view(4, 4)
    cotangent = generic(x.shape, seed=9)[0]

    def gradients(layers: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        linear = torch.nn.Linear(4, 4, bias=False)  # a module as branch: its parameters are its own
        linear.load_state_dict({"weight": weight})
        leaves = [x.clone().requires_grad_()]
        ours = [Params(*(t.clone().requires_grad_() for t in one[:3])) for one in params]
        leaves += [t for one in ours for t in one[:3]] + [linear.weight]
        return torch.autograd.grad(layers(leaves[0], ours, [linear] * count), leaves, cotangent)

    expected = gradients(lambda x, ours, branches: mhc_ref.layers(x, ours, branches, adapter.dialect))
    for mine, theirs in zip(gradients(adapter.layers), expected, strict=True):
        assert_near(mine, theirs)
        assert mine.abs().max() > 1e-4


def test_gradients_of_mappings_and_collapse(adapter: Implementation) -> None:
    x, (params,) = generic((3, 3, 4))
    cotangent = generic((3, 3, 3), seed=9)[0]
    leaves = [x.requires_grad_()] + [t.requires_grad_() for t in params[:3]]

    def gradients(res: Tensor, collapsed: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad((res * cotangent).sum() + collapsed.square().sum(), leaves)

    dialect = adapter.dialect
    found = gradients(adapter.mappings(x, params).res, adapter.collapse(x, params))
    expected = gradients(mhc_ref.mappings(x, params, dialect).res, mhc_ref.collapse(x, dialect, params))
    for mine, theirs in zip(found, expected, strict=True):
        assert_near(mine, theirs)


def test_bfloat16_states(adapter: Implementation) -> None:
    """Mappings stay in float32; branch, block and collapse are in the state's dtype."""
    x, (params,) = generic((3, 4, 6))
    x = x.bfloat16()
    seen: list[torch.dtype] = []

    def recorded(h: Tensor) -> Tensor:
        seen.append(h.dtype)
        return branch(1)(h)

    found = adapter.mappings(x, params)
    assert_near(found.res, mhc_ref.mappings(x, params, adapter.dialect).res)
    output = adapter.block(x, params, recorded)
    assert seen == [torch.bfloat16]
    assert output.dtype == torch.bfloat16
    expected = mhc_ref.block(x, params, branch(1), adapter.dialect)
    torch.testing.assert_close(output, expected, rtol=2**-5, atol=2**-5)
    assert_near(adapter.collapse(x, params), mhc_ref.collapse(x, adapter.dialect, params))


def test_one_block_is_left_without_touching_its_numbers(adapter: Implementation) -> None:
    """An infinity in one stream of a block's output stays the only one."""
    x, (params,) = generic((1, 3, 2))
    params = params._replace(phi=torch.zeros_like(params.phi), bias=torch.cat([torch.zeros(4), torch.ones(11)]))
    largest = torch.finfo(torch.float32).max
    params.bias[3:6] = torch.tensor([9.0, -9.0, -9.0])  # only the first stream takes more than a fraction of y
    output = adapter.block(x, params, lambda h: torch.full_like(h, largest))
    assert output.isinf().tolist() == [[[True, True], [False, False], [False, False]]]
    assert not output.isnan().any()


@pytest.mark.parametrize("fields", [{"iterations": 1}, {"iterations": 3, "rms_eps": 0.5}, {"rms_eps": 1e-2}])
def test_tuned(adapter: Implementation, fields: dict[str, Any]) -> None:
    x, params = generic((3, 4, 2), sets=2)
    tuned = adapter.tuned(**fields)
    assert tuned.dialect == adapter.dialect.with_(**fields)
    assert tuned.name == adapter.name
    branches = [branch(0), branch(1)]
    expected = mhc_ref.layers(x, params, branches, tuned.dialect)
    assert_near(tuned.layers(x, params, branches), expected)
    assert (adapter.layers(x, params, branches) - expected).abs().max() > 1e-3
    again = tuned.tuned(iterations=2)
    assert again.dialect == tuned.dialect.with_(iterations=2)
    assert_near(again.mappings(x, params[0]).res, mhc_ref.mappings(x, params[0], again.dialect).res)


def test_what_cannot_be_tuned_is_absent(adapter: Implementation) -> None:
    with pytest.raises(Absent, match="hc_sinkhorn_iters below 1 computes what 1 does"):
        adapter.tuned(iterations=0)
    with pytest.raises(Absent, match="entry_eps"):
        adapter.tuned(iterations=2, entry_eps=0.0)
    with pytest.raises(ValueError, match=r"iterations is 2\.5"):
        adapter.tuned(iterations=2.5)


def test_refused_parameters(adapter: Implementation) -> None:
    x, (params,) = generic((3, 2, 2))
    with pytest.raises(ValueError, match="without a weight"):
        adapter.mappings(x, params._replace(norm_weight=torch.ones(4)))
    if adapter.dialect.collapse == "head":
        with pytest.raises(ValueError, match="head, whose parameters are missing"):
            adapter.collapse(x)


def test_limits_of_the_library_stay_visible(adapter: Implementation) -> None:
    """Its `.view(B, S, -1)` takes neither zero tokens nor streams that do not lie one after the other."""
    x, (params,) = generic((1, 2, 2))
    for run in (adapter.mappings, lambda x, params: adapter.block(x, params, branch(0))):
        with pytest.raises(RuntimeError, match="cannot reshape tensor of 0 elements"):
            run(x[:0], params)
        with pytest.raises(RuntimeError, match="view size is not compatible"):
            run(x.transpose(-1, -2), params)


def test_what_is_offered(adapter: Implementation) -> None:
    assert adapter.name.startswith("published:transformers-")
    assert {"mappings", "layers", "collapse"} == {method for method, how in offers(adapter).items() if how == "own"}
    assert set(offers(adapter)) == {"project", "mappings", "block", "layers", "collapse", "stack"}
    assert tuple(adapter.emits) == ("post", "res")


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(LookupError) as failure:
        published.build("transformers")
    assert failure.value.args == (
        f"there is no published implementation 'transformers'; the names are {', '.join(published.ADAPTERS)}",
    )
