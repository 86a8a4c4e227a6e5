"""Gates of places, which no logit moves: what laws ask of streams that are renamed is asked of the others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mhc_ref import DEEPSEEK_V4, PAPER, Dialect, Params
from mhc_ref.packing import params_shapes
from properties.core.case import Case
from properties.core.deviant import Deviant
from properties.core.law import all_laws
from properties.core.trial import LawBroken
from properties.engine.subject import Subject
from properties.engine.trying import try_case

NAMELESS = "coefficients.streams-have-no-names"


def renamed(target: Deviant) -> float:
    """The ratio of the law on three streams of which each has its own numbers."""
    generator, shapes = torch.Generator().manual_seed(1), params_shapes(3, 2, target.dialect)
    phi, bias = (torch.randn(shape, generator=generator) for shape in (shapes.phi, shapes.bias))
    x = torch.randn(2, 3, 2, generator=generator)
    case = Case(x=x, params=Params(phi, bias, torch.ones(shapes.alpha)), order=(1, 2, 0))
    return try_case(all_laws()[NAMELESS], Subject("target", target, torch.float32, torch.device("cpu")), case).worst


@pytest.mark.parametrize("dialect", [PAPER, DEEPSEEK_V4], ids=["PAPER", "DEEPSEEK_V4"])
@pytest.mark.parametrize("field", ["pre", "post"])
def test_the_newest_stream_stays_the_last_one_when_streams_are_renamed(dialect: Dialect, field: str) -> None:
    assert renamed(Deviant(dialect.with_(**{field: "newest"}))) < 1


class KnowsItsFirstStream(Deviant):
    """The first stream is written to twice as much."""

    def h_post(self, logits: Tensor) -> Tensor:
        return super().h_post(logits) * torch.tensor([2.0, *[1.0] * (logits.shape[-1] - 1)])


class MovesWithTheState(Deviant):
    """Reads the stream that is largest, where the newest one was declared."""

    def read_weights(self, logits: Tensor, x: Tensor, params: Params) -> Tensor:
        largest = x.abs().sum(-1).argmax(-1)
        return torch.nn.functional.one_hot(largest, x.shape[-2]).to(logits)


def test_the_other_gates_have_no_names_and_constant_ones_do_not_move() -> None:
    newest = PAPER.with_(pre="newest")
    with pytest.raises(LawBroken, match="h_post"):
        renamed(KnowsItsFirstStream(newest))
    with pytest.raises(LawBroken, match="h_pre"):
        renamed(MovesWithTheState(newest))
