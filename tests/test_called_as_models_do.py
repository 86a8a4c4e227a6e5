"""Slips that show where calls are as models make them: views of wide states, micro-batches, a frozen state, serving."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mhc_ref import DEEPSEEK_V4, Mappings, Params
from mhc_ref.packing import params_shapes
from properties.core.deviant import Deviant
from properties.core.law import all_laws
from properties.core.size import Size
from properties.core.sweep import Point, Reach
from properties.engine.runner import Profile, Subject, examine
from properties.laws.sizes_layouts import arranged
from properties.strategies.layouts import INFERENCE, SEQUENCES
from properties.strategies.setting import Setting
from properties.strategies.sweep_inputs import layer_params


class FrozenStateTail(Deviant):
    """Over a state that asks for no gradient the bias learns from full tiles of 4 tokens."""

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        full = len(x) // 4 * 4 if x.ndim > 2 else 0
        if x.requires_grad or not 0 < full < len(x):
            return super().mappings(x, params)
        tail = super().mappings(x[full:], params._replace(bias=params.bias.detach()))
        return Mappings(*map(torch.cat, zip(super().mappings(x[:full], params), tail, strict=True)))


class ServesInPlace(Deviant):
    """In inference mode the streams are written over those that were given."""

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        out = super().post(x, y, h_post, h_res)
        return x.copy_(out) if x.is_inference() else out


SEEN: dict[type[Deviant], tuple[str, ...]] = {
    FrozenStateTail: (
        "gradient.every-token-pulls-back-through-the-mappings",
        "gradient.every-token-pulls-back-through-a-block",
    ),
    ServesInPlace: ("execution.pre-and-post-leave-their-inputs-alone", "execution.blocks-leave-their-input-alone"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("target", "law"), [(target, law) for target, laws in SEEN.items() for law in laws])
def test_what_is_wrong_in_one_circumstance_is_seen_where_a_law_makes_it(
    target: type[Deviant], law: str, tmp_path: Path
) -> None:
    subject = Subject(target.__name__, target(DEEPSEEK_V4), torch.float32, torch.device("cpu"))
    found = examine(all_laws()[law], subject, Profile(10, derandomise=True, shrink=False), directory=tmp_path)
    assert found.status == "failed", found.reason


def visited(law: str, reach: Reach) -> Sequence[Point]:
    sweep = all_laws()[f"sizes.{law}"].sweep
    assert sweep is not None
    return sweep.points(Setting(DEEPSEEK_V4, (4,), torch.float32), reach, 0)


FINE, OTHER = Reach(4, 8192, 8192, 65), Reach(2, 550, 550, 24, models=8192)
LAWS = ("tokens-and-channels-are-mapped", "streams-are-mixed", "blocks-pass")
WIDE: dict[str, tuple[Reach, Callable[[Size, str], bool]]] = {
    "one token, C = 7168": (FINE, lambda s, layout: s.tokens == 1 and s.channels == 7168),
    "slices, C % 64 == 0": (FINE, lambda s, layout: not s.contiguous and s.channels % 64 == 0),
    "inference mode, C >= 1024": (FINE, lambda s, layout: layout == INFERENCE and s.channels >= 1024),
    "other dtypes, C = 1024": (OTHER, lambda s, layout: s.channels == 1024),
}


@pytest.mark.parametrize("condition", WIDE)
@pytest.mark.parametrize("law", LAWS)
def test_widths_of_models_are_visited_as_models_call(law: str, condition: str) -> None:
    reach, meets = WIDE[condition]
    assert any(meets(point.size, point.more.get("layout", "")) for point in visited(law, reach))


def test_mixing_is_taken_to_every_width_of_models_in_other_dtypes() -> None:
    assert {1024, 4096, 7168} <= {point.size.channels for point in visited("streams-are-mixed", OTHER)}


def test_backward_sweeps_go_to_many_tokens_of_wide_states() -> None:
    sizes = [point.size for point in visited("mixing-pulls-back", FINE)]
    assert any(size.tokens * size.channels >= 1 << 15 and size.tokens > 64 for size in sizes)


def test_sequences_are_few_and_long_or_many_and_short() -> None:
    shapes = [tuple(arranged(torch.zeros(count, 1), SEQUENCES).shape[:2]) for count in range(1, 131)]
    assert all(first * second == count for count, (first, second) in enumerate(shapes, 1))
    assert any(first == 4 < second for first, second in shapes)
    assert any(first > second > 1 for first, second in shapes)
    assert any(1 < first < second for first, second in shapes)


def test_a_norm_weight_is_met_in_deep_layers() -> None:
    setting = Setting(DEEPSEEK_V4, (4,), torch.float32)
    made = layer_params(setting, 4, 4, 9, 0)
    assert [one.norm_weight is None for one in made] == [layer % 2 == 0 for layer in range(9)]
    weight = made[7].norm_weight
    assert weight is not None
    assert weight.shape == params_shapes(4, 4, DEEPSEEK_V4).norm_weight
