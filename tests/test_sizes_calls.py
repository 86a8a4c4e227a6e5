"""Sweeps in other ways to call: tokens on two axes or none, in inference mode, with cotangents that fade, of many n."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mhc_ref import DEEPSEEK_V4, Mappings, Params
from properties.catalogue.deviations.strides import as_if_contiguous
from properties.core.deviant import Deviant
from properties.core.law import all_laws
from properties.core.size import Size
from properties.core.sweep import Point, Reach, Sweep
from properties.engine.counterexample import Counterexample
from properties.engine.runner import examine, try_stored
from properties.engine.subject import Profile, Subject, Verdict
from properties.strategies.layouts import APART, BARE, CUT, INFERENCE, OFFSET, SEQUENCES, STEP, THREE
from properties.strategies.setting import Setting
from properties.strategies.sweep_inputs import FADING, PADDED, SAID, faded
from properties.strategies.sweeps import Run, points_of

KINDS = {
    "streams-are-mixed": "mixture",
    "mixing-pulls-back": "mixture backwards",
    "matrices-pull-back": "project backwards",
    "depths-pass": "layers",
}


def subject(target: type[Deviant]) -> Subject:
    made = target(DEEPSEEK_V4)
    made.name = target.__name__
    return Subject(made.name, made, torch.float32, torch.device("cpu"))


def swept(name: str, target: type[Deviant], where: Path, *runs: Run) -> Verdict:
    """What the law of that name says where it visits these runs alone."""
    law = all_laws()[f"sizes.{name}"]
    assert law.sweep is not None

    def visit(setting: Setting, reach: Reach, seed: int) -> Sequence[Point]:
        return points_of(runs, setting, KINDS[name], seed)

    few = replace(law, sweep=Sweep(visit, law.sweep.at))
    return examine(few, subject(target), Profile(4, derandomise=True, sizes=3), directory=where)


class Mixes(Deviant):
    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        return super().post(x, y, h_post, h_res.mT if self.wrong(x) else h_res)

    def wrong(self, x: Tensor) -> bool:
        return False


class TailsOfSequences(Mixes):
    def wrong(self, x: Tensor) -> bool:
        return x.ndim == 4 and x.shape[1] > 16 and x.shape[1] % 16 != 0


class DecodeStep(Mixes):
    def wrong(self, x: Tensor) -> bool:
        return x.ndim == 4 and x.shape[1] == 1 < x.shape[0]


class ThirdAxis(Mixes):
    def wrong(self, x: Tensor) -> bool:
        return x.ndim == 5 and x.shape[1] > 1


class CutSequences(Mixes):
    def wrong(self, x: Tensor) -> bool:
        return x.ndim == 4 and not x.is_contiguous() and x[0].is_contiguous()


class Inference(Mixes):
    def wrong(self, x: Tensor) -> bool:
        return torch.is_inference_mode_enabled() and x.shape[0] > 32


@pytest.mark.parametrize(
    ("target", "layout"),
    [
        (TailsOfSequences, SEQUENCES),
        (DecodeStep, STEP),
        (ThirdAxis, THREE),
        (Inference, INFERENCE),
        (CutSequences, CUT),
    ],
)
def test_how_it_is_called_is_told_from_sizes_and_replays(target: type[Deviant], layout: str, tmp_path: Path) -> None:
    runs = [Run(8, 4, (1, 24, 33, 34, 64), layout=one) for one in ("", SEQUENCES, STEP, THREE, INFERENCE, CUT)]
    found = swept("streams-are-mixed", target, tmp_path, *runs)
    assert found.status == "failed"
    assert f"it fails only {APART[layout]}" in found.message
    assert "sizes fail" not in found.message
    assert found.counterexample is not None
    kept = Counterexample.load(found.counterexample).case
    assert kept.layout == layout
    with pytest.raises(AssertionError):
        try_stored(all_laws()["sizes.streams-are-mixed"], subject(target), kept)
    try_stored(all_laws()["sizes.streams-are-mixed"], subject(Mixes), kept)


class _Underflows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return torch.where(g.abs() < 1e-12, 0.0, g)


class Underflows(Deviant):
    """Behind the last full 32 tokens a small gradient is no gradient."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        out, full = super().post(x, y, h_post, h_res), len(x) // 32 * 32
        return torch.cat([out[:full], _Underflows.apply(out[full:])]) if full else out  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]


def test_a_small_gradient_that_is_lost_in_a_tail_shows_where_cotangents_fade(tmp_path: Path) -> None:
    tokens = (1, 14, 44)
    assert swept("mixing-pulls-back", Underflows, tmp_path, Run(6, 4, tokens, gradients=True)).status == "passed"
    runs = [Run(6, 4, tokens, gradients=True, look=look) for look in ("", FADING)]
    found = swept("mixing-pulls-back", Underflows, tmp_path, *runs)
    assert found.status == "failed"
    assert "it fails only where the cotangents of some tokens are far smaller than those of others" in found.message


def _unaligned(one: Tensor) -> bool:
    return one.storage_offset() * one.element_size() % 16 != 0


class UnalignedCotangent(Deviant):
    """A cotangent that does not begin at a multiple of 16 bytes is read from there on that does."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        out = super().post(x, y, h_post, h_res)
        if out.requires_grad:
            out.register_hook(lambda bar: bar.roll(1) if _unaligned(bar) else bar)
        return out


class UnalignedState(Deviant):
    """Where gradients are recorded, a state that does not begin at a multiple of 16 bytes is read by another kernel."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        out = super().post(x, y, h_post, h_res)
        return out.detach() + 0.5 * (out - out.detach()) if out.requires_grad and _unaligned(x) else out


class SlicedCotangent(Deviant):
    """A cotangent of which rows lie apart is read as if they did not."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        out = super().post(x, y, h_post, h_res)
        if out.requires_grad:
            out.register_hook(lambda bar: bar if bar.is_contiguous() else as_if_contiguous(bar))
        return out


@pytest.mark.parametrize(
    ("wrong", "layout"), [(UnalignedCotangent, "offset 1"), (UnalignedState, "offset 2"), (SlicedCotangent, "slice")]
)
def test_states_and_cotangents_of_a_backward_pass_lie_anywhere(
    wrong: type[Deviant], layout: str, tmp_path: Path
) -> None:
    runs = [Run(7, 4, (1, 3, 17), gradients=True, layout=one) for one in ("", layout)]
    assert swept("mixing-pulls-back", Deviant, tmp_path, *runs).status == "passed"
    assert swept("mixing-pulls-back", wrong, tmp_path, runs[0]).status == "passed"
    found = swept("mixing-pulls-back", wrong, tmp_path, *runs)
    assert found.status == "failed"
    assert layout == "slice" or f"it fails only {OFFSET}" in found.message


def test_every_backward_sweep_goes_to_these_layouts_and_to_every_n_with_small_cotangents() -> None:
    for law in ("matrices", "tokens-and-channels", "reading", "mixing", "blocks", "ends", "beginnings"):
        name = f"{law}-pull-back" if f"sizes.{law}-pull-back" in all_laws() else f"{law}-pulls-back"
        points = visited(name, (2, 3, 4, 8))
        assert {"offset 1", "offset 2", "slice", THREE} <= {point.more.get("layout", "") for point in points}, law
        fading = {point.size.streams for point in points if SAID[FADING] in point.apart}
        assert fading >= {2, 3, 4, 8} or law in ("ends", "beginnings"), law


def test_layers_see_thousands_of_tokens() -> None:
    most = max(point.size.tokens for point in visited("depths-pass", (4,)) if point.size.layers > 1)
    assert most > 4096


def test_where_streams_are_zero_cotangents_fade_as_well() -> None:
    points = visited("mixing-pulls-back", (4,))
    both = next(point for point in points if SAID["silent"] in point.apart and SAID[FADING] in point.apart)
    case = both.whole.case
    assert bool((case.x[::3, -1] == 0).all())
    assert bool((case.x[PADDED:] == 0).all())
    assert bool((case.x[:PADDED] != 0).any())
    assert case.cotangents[0][3].abs().max() < 1e-6 * case.cotangents[0][4].abs().max()
    assert max(point.size.tokens * point.size.channels for point in points) > 1 << 16


class BareBackward(Deviant):
    """The gradient of one matrix without an axis of tokens is half of it."""

    def project(self, logits: Tensor) -> Tensor:
        out = super().project(logits)
        return out.detach() + 0.5 * (out - out.detach()) if logits.ndim == 2 else out


def test_gradients_are_taken_without_an_axis_of_tokens(tmp_path: Path) -> None:
    runs = [Run(6, 4, (1, 3), gradients=True), Run(6, 4, (1,), gradients=True, layout=BARE)]
    found = swept("matrices-pull-back", BareBackward, tmp_path, *runs)
    assert found.status == "failed"
    assert f"it fails only {APART[BARE]}" in found.message


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_cotangents_fade_by_powers_of_two_or_are_zero_at_the_first_of_a_tile(dtype: torch.dtype) -> None:
    bar = torch.full((61, 2), 1.5, dtype=dtype)
    ratio = faded(bar).double() / bar.double()
    masked = torch.arange(61) % 16 == 0
    assert bool((ratio[masked] == 0).all())
    assert bool((ratio[~masked].frexp().mantissa == 0.5).all())
    changed = set((ratio != 1).any(1).nonzero().flatten().tolist())
    assert changed == {*range(3, 61, 5), *range(0, 61, 16)}
    assert ratio[~masked].min() == (2.0**-11 if dtype == torch.float16 else 2.0**-100)


def visited(law: str, streams: tuple[int, ...]) -> list[Point]:
    sweep = all_laws()[f"sizes.{law}"].sweep
    assert sweep is not None
    return list(sweep.points(Setting(DEEPSEEK_V4, streams, torch.float32), Reach(4, 8192, 8192, 65), 0))


MANY: dict[str, Callable[[Size], bool]] = {
    "n == 16 and T >= 33": lambda s: s.streams == 16 and s.tokens >= 33,
    "n == 9": lambda s: s.streams == 9,
}
WIDE = [
    f"{name}"
    for name in ("tokens-and-channels-are-mapped", "streams-are-mixed", "blocks-pass", "tokens-and-channels-pull-back")
]


@pytest.mark.parametrize("condition", MANY)
@pytest.mark.parametrize("law", WIDE)
def test_the_least_and_the_most_of_many_streams_are_swept(law: str, condition: str) -> None:
    sizes = [point.size for point in visited(law, (4, 9, 12, 16))]
    assert any(MANY[condition](size) for size in sizes)
    assert all(size.streams != 12 for size in sizes)


def test_wide_states_of_many_streams_are_swept() -> None:
    sizes = [point.size for point in visited("tokens-and-channels-are-mapped", (4, 16))]
    assert any(size.streams == 16 and size.channels >= 256 for size in sizes)


@pytest.mark.parametrize("law", ["depths-pass", "stacks-pass", "depths-pull-back"])
def test_one_more_layer_than_a_mask_has_bits_is_swept(law: str) -> None:
    assert max(point.size.layers for point in visited(law, (4,))) == 65


@pytest.mark.parametrize("law", ["streams-are-read", "matrices-are-projected", "blocks-pass", "stacks-pass"])
def test_forward_sweeps_are_called_in_every_way(law: str) -> None:
    layouts = {point.more.get("layout") for point in visited(law, (4,))}
    assert {SEQUENCES, STEP, THREE, INFERENCE} <= layouts


class Mask(Deviant):
    """Layers from 64 on find no bit in a mask, and are mixed untransposed."""

    def layers(self, x: Tensor, params: Sequence[Params], branches: Sequence[Any]) -> Tensor:
        for i, (one, branch) in enumerate(zip(params, branches, strict=True)):
            h: Mappings = self.mappings(x, one)
            x = self.post(x, branch(self.pre(x, h.pre)), h.post, h.res.mT if i >= 64 else h.res)
        return x


@pytest.mark.slow
def test_a_layer_beyond_a_mask_is_met(tmp_path: Path) -> None:
    found = swept("depths-pass", Mask, tmp_path, Run(4, 4, (2,), (3, 64, 65)))
    assert found.status == "failed"
    assert (
        "the smallest is T = 2, C = 4, n = 4, L = 65, and below it T = 2, C = 4, n = 4, L = 64 passes" in found.message
    )
