"""One bottleneck for both gates: its slips are seen, and what it does not go with is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import mhc_ref
from mhc_ref import QWEN4_EXP, Params
from mhc_ref.packing import beyond, params_shapes, streams_of_params
from properties.core.implementation import Implementation, Reference
from properties.core.law import all_laws
from properties.engine.runner import Profile, Subject, examine
from properties.families.steps.bottleneck import BottleneckSteps

JOINED = QWEN4_EXP.with_(one_bottleneck=True, norm_offset=0.0, collapse="sum")


class StaticReadForgotten(BottleneckSteps):
    """The gates of channels have no static logits."""

    def static(self, opened: Tensor, static: Tensor) -> Tensor:
        return opened


class StaticWriteForgotten(BottleneckSteps):
    """The gates of what is written have no static logits."""

    def written(self, held: Tensor, matrix: Tensor, static: Tensor) -> Tensor:
        return held @ matrix.T


class FactorForgotten(BottleneckSteps):
    """What leaves the bottleneck has no factor."""

    def scaled(self, held: Tensor, gate: Tensor) -> Tensor:
        return held


class FactorOfTheReadAlone(BottleneckSteps):
    """What is written has gates of what the bottleneck holds before its factor."""

    def logits(self, x: Tensor, params: Params) -> list[Tensor]:
        plain = super().logits(x, params._replace(alpha=torch.ones_like(params.alpha)))
        pre, _, res = super().logits(x, params)
        return [pre, plain[1], res]


class WriteDetached(BottleneckSteps):
    """No gradient passes through the gates of what is written."""

    def written(self, held: Tensor, matrix: Tensor, static: Tensor) -> Tensor:
        return super().written(held.detach(), matrix, static)


class StaticReadByStream(BottleneckSteps):
    """All channels of a stream share the static logit of its first."""

    def of_channels(self, logits: Tensor, params: Params) -> Tensor:
        place, phi = -self.computed.rank - 1, params.phi.clone()
        channels = len(phi) // (params.bias.shape[0] - self.computed.rank)
        phi[:, place] = phi[::channels, place].repeat_interleave(channels)
        return super().of_channels(logits, params._replace(phi=phi))


def status(law: str, implementation: Implementation, path: Path) -> str:
    subject = Subject("mine", implementation, torch.float32, torch.device("cpu"))
    return examine(all_laws()[law], subject, Profile(examples=8, derandomise=True, shrink=False), directory=path).status


@pytest.mark.parametrize(
    "slip", [StaticReadForgotten, StaticWriteForgotten, FactorForgotten, FactorOfTheReadAlone, StaticReadByStream]
)
def test_a_slip_is_seen_in_a_block(slip: type[BottleneckSteps], tmp_path: Path) -> None:
    assert status("block.agrees-with-oracle", slip(JOINED), tmp_path) == "failed"


def test_a_detached_write_is_seen_in_its_gradient_alone(tmp_path: Path) -> None:
    assert status("block.agrees-with-oracle", WriteDetached(JOINED), tmp_path) == "passed"
    assert status("gradient.block-pulls-back-to-state-and-parameters", WriteDetached(JOINED), tmp_path) == "failed"


@pytest.mark.parametrize(
    "law",
    [
        "coefficients.thirds-are-isolated",
        "coefficients.agrees-with-oracle",
        "gradient.block-pulls-back-to-state-and-parameters",
    ],
)
def test_the_reference_keeps_the_laws(law: str, tmp_path: Path) -> None:
    assert status(law, Reference(JOINED), tmp_path) == "passed"


def test_the_first_third_moves_what_is_written_too() -> None:
    """Which is why `coefficients.thirds-are-isolated` leaves it out."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 4, generator=generator)
    params = Params(*(torch.randn(shape, generator=generator) for shape in params_shapes(3, 4, JOINED)))
    phi = params.phi.clone()
    phi[:, : JOINED.rank] *= 2
    before, after = (mhc_ref.mappings(x, one, JOINED) for one in (params, params._replace(phi=phi)))
    assert not torch.equal(before.post, after.post)
    assert torch.equal(before.res, after.res)


def test_what_is_read_of_the_parameters_has_a_gradient_and_the_rest_none() -> None:
    generator = torch.Generator().manual_seed(0)
    n, channels, rank = 3, 5, JOINED.rank
    x = torch.randn(2, n, channels, generator=generator)
    shapes = params_shapes(n, channels, JOINED)
    params = Params(*(torch.randn(shape, generator=generator).requires_grad_() for shape in shapes))
    mhc_ref.block(x, params, torch.sin, JOINED).square().sum().backward()
    assert all(one is not None and one.grad is not None for one in params)
    phi = torch.tensor(params.phi.grad.tolist()).unflatten(0, (n, channels))  # pyright: ignore[reportOptionalMemberAccess]
    write = phi[..., rank + n : 2 * rank + n]
    assert beyond(JOINED) == 2 * rank + 1
    assert (phi[..., :rank] != 0).all()
    assert (phi[..., rank : rank + n] == 0).all()
    assert (write[:, channels // 2] != 0).all()
    assert (write.sum(1) == write[:, channels // 2]).all()
    assert (phi[..., 2 * rank + n :] != 0).all()
    bias, alpha = params.bias.grad, params.alpha.grad
    assert bias is not None
    assert alpha is not None
    assert ((bias != 0) == torch.tensor([False] * rank + [True] * n)).all()
    assert ((alpha != 0) == torch.tensor([True, False])).all()


def test_the_number_of_streams_is_read_off_the_parameters() -> None:
    for n, channels in ((1, 1), (2, 7), (5, 2)):
        params = Params(*(torch.zeros(shape) for shape in params_shapes(n, channels, JOINED)))
        assert streams_of_params(params, JOINED) == n


@pytest.mark.parametrize("field", [{"affine": True}, {"collapse": "head"}])
def test_what_it_does_not_go_with_is_said(field: dict[str, object]) -> None:
    (name,) = field
    with pytest.raises(ValueError, match=f"one_bottleneck=True conflicts with {name}="):
        JOINED.with_(**field)
