"""No law, and nothing that derives a method, calls a target outside of what it declares."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

import mhc_ref
from mhc_ref import PAPER, Branch, Mappings, Params
from properties import Implementation
from properties.core.implementation import project_from_mappings
from properties.core.law import all_laws
from properties.core.sweep import Reach
from properties.engine.runner import Profile, examine
from properties.engine.subject import Subject
from properties.strategies.setting import Setting

QUICK = Profile(3, derandomise=True, shrink=False, sizes=1, crowds=1, alone=1)


class Refused(AssertionError):
    """A call outside of what is declared."""


class Strict(Implementation):
    """The reference within narrow limits, and nothing else."""

    dialect = PAPER
    streams = (2, 4)
    dtypes = (torch.float32,)
    channel_multiple = 8
    max_tokens = 48
    norm_weight = False
    zero_tokens = False
    strided = False

    def held(self, *states: Tensor, params: Sequence[Params] = (), wide: bool = True) -> None:
        """Refuse what is not declared; `states` have the axes [..., n, C], or [..., C] where they are not `wide`."""
        for one in states:
            tokens = one[..., 0, 0].numel() if wide else one[..., 0].numel()
            wrong = {
                "channels": one.shape[-1] % 8 != 0,
                "streams": wide and one.shape[-2] not in self.streams,
                "tokens": not 0 < tokens <= 48,
                "dtype": one.dtype not in (torch.float32,),
                "strides": not one.is_contiguous(),
            }
            if any(wrong.values()):
                raise Refused(f"{[name for name, found in wrong.items() if found]} of {tuple(one.shape)} {one.dtype}")
        if any(one.norm_weight is not None for one in params):
            raise Refused("a norm weight")


class WithMappings(Strict):
    def mappings(self, x: Tensor, params: Params) -> Mappings:
        self.held(x, params=[params])
        return mhc_ref.mappings(x, params, PAPER)


class WithParts(WithMappings):
    def pre(self, x: Tensor, h_pre: Tensor) -> Tensor:
        self.held(x)
        return mhc_ref.pre(x, h_pre)

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        self.held(x)
        return mhc_ref.post(x, y, h_post, h_res, PAPER)


class WithProject(Strict):
    def project(self, logits: Tensor) -> Tensor:
        matrices = logits.numel() // max(1, logits.shape[-1] ** 2)
        if logits.shape[-1] not in self.streams or not 0 < matrices <= 48 or not logits.is_contiguous():
            raise Refused(f"logits {tuple(logits.shape)}")
        return mhc_ref.project(logits, PAPER)


class WithBlock(Strict):
    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        self.held(x, params=[params])
        return mhc_ref.block(x, params, branch, PAPER)


class WithLayers(Strict):
    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        self.held(x, params=params)
        return mhc_ref.layers(x, params, branches, PAPER)


class WithStack(Strict):
    def stack(self, h: Tensor, params: Sequence[Params], branches: Sequence[Branch]) -> Tensor:
        self.held(h, params=params, wide=False)
        return mhc_ref.stack(h, params, branches, PAPER)


EVERY = (WithMappings, WithParts, WithProject, WithBlock, WithLayers, WithStack)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(all_laws()))
def test_a_law_calls_within_what_is_declared(name: str, tmp_path: Path) -> None:
    """Each law with one of the ways to offer it; `-m thorough` tries them all."""
    applying = 0
    first = zlib.crc32(name.encode()) % len(EVERY)
    for made in (*EVERY[first:], *EVERY[:first]):
        subject = Subject(made.__name__, made(), torch.float32, torch.device("cpu"))
        verdict = examine(all_laws()[name], subject, QUICK, directory=tmp_path)
        assert verdict.status != "failed", (made.__name__, verdict.message)
        applying += verdict.status == "passed"
        if applying:
            break


@pytest.mark.thorough
@pytest.mark.parametrize("made", EVERY)
def test_every_law_calls_within_what_is_declared(made: type[Strict], tmp_path: Path) -> None:
    subject = Subject(made.__name__, made(), torch.float32, torch.device("cpu"))
    for law in all_laws().values():
        verdict = examine(law, subject, QUICK, directory=tmp_path)
        assert verdict.status != "failed", (law.id, verdict.message)


@pytest.mark.parametrize("multiple", [1, 3, 64])
def test_a_projection_of_mappings_is_asked_with_channels_that_are_declared(multiple: int) -> None:
    class Some(WithMappings):
        streams = (3,)
        channel_multiple = multiple

        def held(self, *states: Tensor, params: Sequence[Params] = (), wide: bool = True) -> None:
            assert all(one.shape[-1] % multiple == 0 for one in states)

    logits = torch.randn(5, 3, 3)
    torch.testing.assert_close(project_from_mappings(Some(), logits), mhc_ref.project(logits, PAPER))


LIMITED: dict[str, Setting] = {
    "one token": Setting(PAPER, (1,), torch.bfloat16, max_tokens=1, token_counts=(1,), depths=(1,)),
    "three tokens of lanes": Setting(PAPER, (3, 8), torch.float32, max_tokens=3, channel_multiple=24, strided=False),
    "a tile of wide lanes": Setting(
        PAPER, (2, 16), torch.float16, max_tokens=65, channel_multiple=256, channels=(768,)
    ),
}


@pytest.mark.parametrize("limits", LIMITED)
@pytest.mark.parametrize("reach", [Reach(2, 550, 550, 24, models=8192), Reach(4, 8192, 8192, 65)])
def test_a_sweep_visits_only_sizes_that_are_declared(limits: str, reach: Reach) -> None:
    setting = LIMITED[limits]
    for sweep in (law.sweep for law in all_laws().values() if law.sweep is not None):
        for size in {point.size for point in sweep.points(setting, reach, 0)}:
            assert size.tokens <= setting.max_tokens, size
            assert size.channels % setting.channel_multiple == 0, size
            assert size.streams in setting.streams, size
            assert size.contiguous or setting.strided, size
