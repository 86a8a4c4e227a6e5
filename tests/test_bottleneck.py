"""A branch that reads every channel by a weight of its own: what its parts are given, and what is said of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import mhc_ref
from mhc_ref import QWEN4_EXP, RESIDUAL, Mappings, Params
from mhc_ref.packing import params_shapes
from properties.catalogue import controls
from properties.core.exact_truth import ExactTruth
from properties.core.implementation import Implementation
from properties.core.law import all_laws
from properties.core.truth import FloatTruth
from properties.diagnosis import identify
from properties.engine.runner import Profile, Subject, Verdict, examine
from properties.targets.arrays import from_arrays
from properties.targets.modules import from_module
from properties.targets.process.client import Limits, Session, make
from properties.targets.process.smoke import _trivial

READS = (
    "mixing.pre-is-the-weighted-sum",
    "sizes.streams-are-read",
    "sizes.reading-pulls-back",
    "precision.reading-keeps-the-compute-precision",
    "execution.post-does-not-see-strides",
    "gradient.pre-and-post-pull-back-to-every-factor",
    "precision.gradients-sum-over-channels-in-the-compute-precision",
)
"""The laws that give `pre` an h_pre of their own."""


class Strict(Implementation):
    """The parts of a block, of which `pre` takes a weight for each channel and nothing else."""

    dialect = QWEN4_EXP
    dtypes = (torch.float32,)

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        return mhc_ref.mappings(x, params, self.dialect)

    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        if h_pre.shape != x.shape:
            raise ValueError(f"h_pre is {tuple(h_pre.shape)}, and the state {tuple(x.shape)}")
        return mhc_ref.pre(x, h_pre)

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        return mhc_ref.post(x, y, h_post, h_res, self.dialect)


class FirstChannel(Strict):
    """All channels are read by the weight of the first."""

    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        return mhc_ref.pre(x, h_pre[..., :1].expand(x.shape))


def verdict(law: str, implementation: Implementation, path: Path) -> Verdict:
    subject = Subject("mine", implementation, torch.float32, torch.device("cpu"))
    return examine(all_laws()[law], subject, Profile(examples=6, derandomise=True, shrink=False), directory=path)


@pytest.mark.slow
@pytest.mark.parametrize("law", READS)
def test_laws_of_reading_give_a_weight_for_each_channel(law: str, tmp_path: Path) -> None:
    found = verdict(law, Strict(), tmp_path)
    assert found.status == "passed", found.reason


@pytest.mark.slow
@pytest.mark.parametrize("law", [READS[0], READS[1], READS[3]])
def test_a_read_by_the_weight_of_the_first_channel_is_seen(law: str, tmp_path: Path) -> None:
    assert verdict(law, FirstChannel(), tmp_path).status == "failed"


@pytest.mark.slow
def test_the_parts_are_read_off_by_weights_of_channels() -> None:
    found = identify(Strict())
    assert found.compared == "QWEN4_EXP"
    assert "read's sum over streams: could not" not in found.to_text()


def test_arrays_and_servers_are_given_weights_of_channels_too() -> None:
    def read(x: Any, h_pre: Any) -> Any:
        if h_pre.shape != x.shape:
            raise ValueError(f"h_pre is {h_pre.shape}, and the state {x.shape}")
        return (h_pre * x).sum(-2)

    found = from_arrays("numpy", dialect=QWEN4_EXP, pre=read, dtypes=("float32",), token_axes=1)
    x = torch.arange(24.0).view(2, 1, 3, 4)
    assert torch.equal(found.pre(x, x + 1), mhc_ref.pre(x, x + 1))
    said = {"protocol": 2, "name": "far", "dialect": "QWEN4_EXP", "streams": [2], "methods": ["mappings", "pre"]}
    trivial = _trivial(make(Session("none", Limits()), {**said, "dtypes": ["float32"]}))
    assert trivial["mappings"][1] == ((1, 2, 2), (1, 2), (1, 2, 2))
    assert trivial["pre"][0][1].shape == (1, 2, 2)


def test_names_of_the_parameters_of_gates_are_refused() -> None:
    with pytest.raises(ValueError, match="every channel by a gate of low rank; names are for the parameters of gates"):
        from_module(torch.nn.Identity, {"phi": "a", "bias": "b", "alpha": "c"}, dialect=QWEN4_EXP)


@pytest.mark.parametrize("name", ["bottleneck-normalised-first", "bottleneck-by-exponentials", "reversed"])
def test_a_control_may_be_tuned_to_another_read(name: str) -> None:
    tuned = controls.build(name, QWEN4_EXP).tuned(read="streamwise")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 4, generator=generator)
    params = Params(*(torch.randn(shape, generator=generator) for shape in params_shapes(3, 4, tuned.dialect)))
    expected = mhc_ref.block(x, params, torch.sin, tuned.dialect)
    torch.testing.assert_close(tuned.block(x, params, torch.sin), expected, rtol=1e-5, atol=1e-5)
    assert tuned.dialect.read == "streamwise"


def test_a_control_may_be_tuned_to_a_read_by_channel() -> None:
    tuned = controls.build("norm-after-matmul", RESIDUAL).tuned(read="bottleneck")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 4, generator=generator)
    params = Params(*(torch.randn(shape, generator=generator) for shape in params_shapes(3, 4, tuned.dialect)))
    expected = mhc_ref.block(x, params, torch.sin, tuned.dialect)
    torch.testing.assert_close(tuned.block(x, params, torch.sin), expected, rtol=1e-5, atol=1e-5)


def test_an_end_by_the_last_gates_is_refused() -> None:
    with pytest.raises(ValueError, match="conflicts with collapse='last-pre'"):
        QWEN4_EXP.with_(collapse="last-pre")


def test_gradients_by_weights_of_channels_are_those_of_mpmath() -> None:
    generator = torch.Generator().manual_seed(0)
    x, h_pre, bar = (torch.randn(*shape, generator=generator) for shape in ((2, 3, 4), (2, 3, 4), (2, 4)))
    for one, other in zip(
        ExactTruth(QWEN4_EXP).pre_vjp(x, h_pre, bar), FloatTruth(QWEN4_EXP).pre_vjp(x, h_pre, bar), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-14, atol=1e-14)
