"""The adapter of Hy4's iHC: what goes in and comes out is what the library's modules take and give."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mhc_ref
from mhc_ref import IHC, Params
from mhc_ref.packing import params_shapes
from properties.core.implementation import Absent, Implementation, offers
from properties.core.law import all_laws
from properties.engine.runner import Profile, Subject, examine
from properties.targets import published

SHAPES = ((1, 1), (2, 9), (4, 7), (5, 4))


@pytest.fixture(params=["transformers-hy-v4", pytest.param("transformers-hy-v4-vl", marks=pytest.mark.slow)])
def adapter(request: pytest.FixtureRequest) -> Implementation:
    pytest.importorskip("transformers", reason="the extra `transformers` is not installed")
    return published.build(request.param)


def generic(shape: Sequence[int], seed: int = 0, sets: int = 1) -> tuple[Tensor, list[Params]]:
    """A state of that shape and `sets` sets of parameters with gates and biases of order 1, float32."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*dims: int) -> Tensor:
        return torch.randn(dims, generator=generator)

    phi, bias, alpha, _ = params_shapes(shape[-2], shape[-1], IHC)
    return draw(*shape), [Params(draw(*phi) * phi[0] ** -0.5, draw(*bias), 1 + 0.5 * draw(*alpha)) for _ in range(sets)]


def branch(number: int) -> Callable[[Tensor], Tensor]:
    """A layer that mixes channels and differs from the other ones."""
    return lambda h: (h + number).sin() - 0.5 * h.roll(1, -1)


def assert_near(actual: Any, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_the_preset_has_no_residual_logits() -> None:
    assert params_shapes(4, 8, IHC)[:3] == ((32, 8), (8,), (2,))
    assert (IHC.residual, IHC.collapse) == ("identity", "head")
    assert IHC.pre_eps == IHC.post_eps == IHC.rms_eps == 1e-6
    assert params_shapes(4, 8, mhc_ref.RESIDUAL)[:3] == ((32, 24), (24,), (3,))  # which has them, and ignores them


@pytest.mark.parametrize(("n", "channels"), SHAPES)
def test_everything_is_the_reference(adapter: Implementation, n: int, channels: int) -> None:
    x, params = generic((3, n, channels), seed=n, sets=4)
    dialect, branches = adapter.dialect, [branch(k) for k in range(3)]
    found = adapter.mappings(x, params[0])
    assert found.pre is None
    assert found.res is None
    assert_near(found.post, mhc_ref.mappings(x, params[0], dialect).post)
    for count in range(4):
        expected = mhc_ref.layers(x, params[:count], branches[:count], dialect)
        assert_near(adapter.layers(x, params[:count], branches[:count]), expected)
    assert_near(adapter.collapse(x, params[3]), mhc_ref.collapse(x, dialect, params[3]))
    assert_near(adapter.stack(x[:, 0], params, branches), mhc_ref.stack(x[:, 0], params, branches, dialect))


@pytest.mark.parametrize("tokens", [(), (0,), (7,), (2, 3), (1, 2, 2)])
def test_any_token_axes(adapter: Implementation, tokens: tuple[int, ...]) -> None:
    x, (params,) = generic((*tokens, 3, 4))
    assert adapter.mappings(x, params).post.shape == (*tokens, 3)
    assert_near(adapter.block(x, params, branch(1)), mhc_ref.block(x, params, branch(1), adapter.dialect))
    assert_near(adapter.collapse(x, params), mhc_ref.collapse(x, adapter.dialect, params))


def test_gradients_reach_everything(adapter: Implementation) -> None:
    x, params = generic((3, 3, 4), sets=2)
    cotangent = generic(x.shape, seed=9)[0]

    def gradients(layers: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        leaves = [x.clone().requires_grad_()]
        ours = [Params(*(part.clone().requires_grad_() for part in one[:3])) for one in params]
        leaves += [part for one in ours for part in one[:3]]
        return torch.autograd.grad(layers(leaves[0], ours, [branch(0), branch(1)]), leaves, cotangent)

    expected = gradients(lambda x, ours, branches: mhc_ref.layers(x, ours, branches, adapter.dialect))
    for mine, theirs in zip(gradients(adapter.layers), expected, strict=True):
        assert_near(mine, theirs)
        assert mine.abs().max() > 1e-4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_states_are_rounded_once(adapter: Implementation, dtype: torch.dtype) -> None:
    x, (params,) = generic((30, 4, 6))
    x, seen = x.to(dtype), list[torch.dtype]()

    def recorded(h: Tensor) -> Tensor:
        seen.append(h.dtype)
        return h

    output = adapter.block(x, params, recorded)
    assert (seen, output.dtype) == ([dtype], dtype)
    assert adapter.mappings(x, params).post.dtype == torch.float32
    torch.testing.assert_close(output, mhc_ref.block(x, params, recorded, adapter.dialect), rtol=2**-7, atol=1e-3)
    assert adapter.collapse(x, params).dtype == dtype


@pytest.mark.parametrize("fields", [{"post_scale": 0.75}, {"post_scale": 1.0, "rms_eps": 0.5}, {"rms_eps": 1e-2}])
def test_the_magnitude_is_the_scale_of_h_post(adapter: Implementation, fields: dict[str, Any]) -> None:
    x, params = generic((3, 4, 2), sets=2)
    tuned = adapter.tuned(**fields)
    assert tuned.dialect == adapter.dialect.with_(**fields)
    expected = mhc_ref.layers(x, params, [branch(0), branch(1)], tuned.dialect)
    assert_near(tuned.layers(x, params, [branch(0), branch(1)]), expected)
    assert (adapter.layers(x, params, [branch(0), branch(1)]) - expected).abs().max() > 1e-3


def test_what_it_does_not_take_is_refused(adapter: Implementation) -> None:
    x, (params,) = generic((3, 2, 2))
    with pytest.raises(Absent, match="post_eps"):
        adapter.tuned(post_eps=0.0)  # hc_eps sets the eps of both gates
    with pytest.raises(ValueError, match="without a weight"):
        adapter.mappings(x, params._replace(norm_weight=torch.ones(4)))
    with pytest.raises(ValueError, match="head, whose parameters are missing"):
        adapter.collapse(x)


def test_what_is_offered(adapter: Implementation) -> None:
    assert {"mappings", "layers", "collapse"} == {method for method, how in offers(adapter).items() if how == "own"}
    assert set(offers(adapter)) == {"mappings", "block", "layers", "collapse", "stack"}
    assert tuple(adapter.emits) == ("post",)


def test_the_library_s_defaults_are_those_of_the_adapter(adapter: Implementation) -> None:
    from transformers.models.hy_v4.configuration_hy_v4 import HYV4Config

    config = HYV4Config()
    assert (config.hc_magnitude, config.rms_norm_eps) == (adapter.dialect.post_scale, adapter.dialect.rms_eps)
    assert config.hc_eps == adapter.dialect.pre_eps == adapter.dialect.post_eps


@pytest.mark.slow
@pytest.mark.parametrize(
    ("law", "dtype"),
    [
        ("coefficients.agrees-with-oracle", torch.float32),
        ("block.agrees-with-oracle", torch.bfloat16),
        ("depth.stack-expands-and-collapses-once", torch.float16),
    ],
)
def test_it_keeps_laws(adapter: Implementation, law: str, dtype: torch.dtype, tmp_path: Path) -> None:
    subject = Subject(adapter.name, adapter, dtype, torch.device("cpu"))
    profile = Profile(examples=10, derandomise=True, shrink=False)
    verdict = examine(all_laws()[law], subject, profile, directory=tmp_path)
    assert verdict.status == "passed", verdict.reason
    assert math.isfinite(verdict.worst_ratio)
