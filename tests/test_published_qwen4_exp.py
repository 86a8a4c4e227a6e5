"""The adapters of Qwen4-Exp's gated residual: what goes in and comes out is what the modules of the libraries take."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mhc_ref
from mhc_ref import QWEN4_EXP, Params
from mhc_ref.packing import params_shapes
from properties.core.implementation import Implementation, offers
from properties.core.law import all_laws
from properties.engine.runner import Profile, Subject, examine
from properties.targets import published

SHAPES = ((2, 9), (3, 2), (4, 7), (5, 4))


LIBRARIES = {
    "transformers-qwen4-exp": "transformers",
    "nemo-automodel-qwen3-8-flash-next": "nemo_automodel.components.models.qwen3_8_flash_next.layers",
}


@pytest.fixture(params=LIBRARIES)
def adapter(request: pytest.FixtureRequest) -> Implementation:
    name = str(request.param)
    pytest.importorskip(LIBRARIES[name], reason=f"what {name} takes is not installed", exc_type=ImportError)
    return published.build(name)


def generic(shape: Sequence[int], seed: int = 0, sets: int = 1) -> tuple[Tensor, list[Params]]:
    """A state of that shape and `sets` sets of parameters whose gates are open by half, float32."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*dims: int) -> Tensor:
        return torch.randn(dims, generator=generator)

    phi, bias, alpha, weight = params_shapes(shape[-2], shape[-1], QWEN4_EXP)

    def one() -> Params:
        return Params(draw(*phi), draw(*bias), draw(*alpha), 0.5 * draw(*weight))

    return draw(*shape), [one() for _ in range(sets)]


def branch(number: int) -> Callable[[Tensor], Tensor]:
    """A layer that mixes channels and differs from the other ones."""
    return lambda h: (h + number).sin() - 0.5 * h.roll(1, -1)


def assert_near(actual: Any, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("n", "channels"), SHAPES)
def test_everything_is_the_reference(adapter: Implementation, n: int, channels: int) -> None:
    x, params = generic((3, n, channels), seed=n, sets=4)
    branches = [branch(k) for k in range(3)]
    for count in range(4):
        expected = mhc_ref.layers(x, params[:count], branches[:count], QWEN4_EXP)
        assert_near(adapter.layers(x, params[:count], branches[:count]), expected)
    assert_near(adapter.collapse(x, params[3]), mhc_ref.collapse(x, QWEN4_EXP, params[3]))
    assert_near(adapter.stack(x[:, 0], params, branches), mhc_ref.stack(x[:, 0], params, branches, QWEN4_EXP))


@pytest.mark.parametrize("tokens", [(), (7,), (2, 3), (1, 2, 2)])
def test_any_token_axes(adapter: Implementation, tokens: tuple[int, ...]) -> None:
    x, (params,) = generic((*tokens, 3, 4))
    assert_near(adapter.block(x, params, branch(1)), mhc_ref.block(x, params, branch(1), QWEN4_EXP))
    assert_near(adapter.collapse(x, params), mhc_ref.collapse(x, QWEN4_EXP, params))


def test_gradients_reach_everything_that_is_read(adapter: Implementation) -> None:
    x, params = generic((3, 3, 4), sets=2)
    cotangent = generic(x.shape, seed=9)[0]

    def gradients(layers: Callable[..., Tensor]) -> list[Tensor]:
        leaves = [x.clone().requires_grad_()]
        ours = [Params(*(part.clone().requires_grad_() for part in one if part is not None)) for one in params]
        leaves += [part for one in ours for part in (one.phi, one.norm_weight) if part is not None]
        return list(torch.autograd.grad(layers(leaves[0], ours, [branch(0), branch(1)]), leaves, cotangent))

    expected = gradients(lambda x, ours, branches: mhc_ref.layers(x, ours, branches, QWEN4_EXP))
    for mine, theirs in zip(gradients(adapter.layers), expected, strict=True):
        assert_near(mine, theirs)
        assert mine.abs().max() > 1e-4
    assert len(expected) == 5


def test_without_a_norm_weight_it_is_as_the_module_begins(adapter: Implementation) -> None:
    x, (params,) = generic((3, 3, 4))
    zeros = torch.zeros(12)
    for weight in (None, zeros):
        bare = params._replace(norm_weight=weight)
        assert_near(adapter.block(x, bare, branch(1)), mhc_ref.block(x, bare, branch(1), QWEN4_EXP))


def test_what_it_does_not_take_is_refused(adapter: Implementation) -> None:
    x, (params,) = generic((3, 2, 2))
    one, (its,) = generic((3, 1, 2))
    with pytest.raises(ValueError, match="last read, whose parameters are missing"):
        adapter.collapse(x)
    with pytest.raises(Exception, match="requires hc_count > 1"):  # so that one stream is not declared
        adapter.block(one, its, branch(1))
    assert 1 not in adapter.streams
    if adapter.zero_tokens:
        assert adapter.block(x[:0], params, branch(1)).shape == (0, 2, 2)
        return
    with pytest.raises(RuntimeError):  # nor states without tokens
        adapter.block(x[:0], params, branch(1))


def test_what_is_offered(adapter: Implementation) -> None:
    assert {"block", "collapse"} == {method for method, how in offers(adapter).items() if how == "own"}
    assert set(offers(adapter)) == {"block", "layers", "collapse", "stack"}


def test_the_library_s_defaults_are_those_of_the_adapter(adapter: Implementation) -> None:
    if "nemo" in adapter.name:
        place = "nemo_automodel.components.models.qwen3_8_flash_next.config"
        configured = signature(import_module(place).Qwen3_8_FlashNextTextConfig.__init__)
    else:
        place = "transformers.models.qwen4_exp.configuration_qwen4_exp"
        configured = signature(import_module(place).Qwen4ExpTextConfig)
    assert configured.parameters["rms_norm_eps"].default == adapter.dialect.rms_eps


@pytest.mark.slow
@pytest.mark.parametrize(
    "law", ["block.agrees-with-oracle", "depth.stack-expands-and-collapses-once", "depth.layers-are-blocks-in-order"]
)
def test_it_keeps_laws(adapter: Implementation, law: str, tmp_path: Path) -> None:
    subject = Subject(adapter.name, adapter, torch.float32, torch.device("cpu"))
    profile = Profile(examples=10, derandomise=True, shrink=False)
    verdict = examine(all_laws()[law], subject, profile, directory=tmp_path)
    assert verdict.status == "passed", verdict.reason
    assert math.isfinite(verdict.worst_ratio)
