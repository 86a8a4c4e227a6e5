"""Cotangents that lie otherwise have the same values, and those that are expanded have them along their axes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_modes import judged
from torch import Tensor

from mhc_ref import HYPER_CONNECTIONS
from properties.core.implementation import Reference
from properties.laws.cotangents import EXPANDED, LYING, same_along
from properties.laws.sizes_layouts import COTANGENTS, handing

SHAPES = ((5, 4, 3), (5, 3), (2, 5, 4, 3), (1, 1, 1), (5,))


def noise(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("how", LYING)
def test_what_lies_otherwise_has_the_same_values(how: str, shape: tuple[int, ...]) -> None:
    bar = noise(shape)
    assert torch.equal(LYING[how](bar), bar)


def test_no_two_ways_are_the_same() -> None:
    laid = [one(noise(SHAPES[0])) for one in LYING.values()]
    places = {(one.stride(), one.storage_offset(), one.untyped_storage().nbytes()) for one in laid}
    assert len(places) == len(LYING)


@pytest.mark.parametrize("axes", EXPANDED.values())
def test_what_is_expanded_has_strides_of_zero_along_its_axes_alone(axes: tuple[int, ...]) -> None:
    bar = noise(SHAPES[0])
    found = same_along(bar, axes)
    expected = bar
    for axis in axes:
        expected = expected.narrow(axis, 0, 1)
    assert torch.equal(found, expected.expand(bar.shape))
    assert [axis for axis in range(3) if not found.stride(axis)] == sorted(axis % 3 for axis in axes)
    assert found.untyped_storage().nbytes() == bar.untyped_storage().nbytes()  # behind them other values lie
    assert not torch.equal(found.as_strided(bar.shape, bar.stride()), found)


@pytest.mark.parametrize("part", COTANGENTS)
def test_a_cotangent_arrives_as_the_layout_says(part: str) -> None:
    out, arrived = noise(SHAPES[0]).requires_grad_(), list[Tensor]()
    inner = out * 1
    inner.register_hook(arrived.append)
    (handed,) = handing([inner], part)
    handed.backward(torch.ones(SHAPES[0]))
    assert not arrived[0].is_contiguous()
    assert torch.equal(arrived[0], torch.ones(SHAPES[0]))


@pytest.mark.slow
def test_a_projection_that_is_the_identity_is_not_accused_of_what_autograd_adds_up(tmp_path: Path) -> None:
    """Its cotangent, through views, is the `.grad` of its logits, to which autograd adds the next one in place."""
    found = judged("gradient.projection-pulls-back-however-it-is-called", Reference(HYPER_CONNECTIONS), tmp_path)
    assert found.status == "passed", found.message
