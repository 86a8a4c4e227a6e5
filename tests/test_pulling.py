"""Gradients are taken as whoever trains takes them, whatever the graph is made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mhc_ref import PAPER, PRESETS, Mappings, Params
from mhc_ref.packing import params_shapes
from properties.catalogue.controls import RecomputedWithinThePass, build
from properties.core.case import Case
from properties.core.law import all_laws
from properties.core.pulling import accumulate, gradients, handed, pulled_back
from properties.core.trial import FloatTruth, Trial
from properties.engine.runner import Profile, examine
from properties.engine.subject import Subject
from properties.laws.sizes_backwards import MAPPINGS
from properties.strategies.layouts import TWICE

QUICK = Profile(3, derandomise=True, shrink=False, sizes=1, crowds=1, alone=1)


def within(function: Callable[..., Any], *given: Tensor) -> Any:
    return checkpoint(function, *given, use_reentrant=True)


def leaf(*values: float) -> Tensor:
    return torch.tensor(values, requires_grad=True)


def test_checkpointing_within_the_pass_has_the_gradients_that_it_leaves_in_the_leaves() -> None:
    x, weight, unused = leaf(1.0, 2.0), leaf(3.0), leaf(5.0)
    out = within(lambda x: weight * x.square(), x)  # the weight is found by no argument
    with pytest.raises(RuntimeError, match=r"incompatible with \.grad"):
        torch.autograd.grad(out.sum(), [x], retain_graph=True)
    found = pulled_back([out], [x, weight, unused], [torch.tensor([1.0, 10.0])])
    assert [one.tolist() for one in found] == [[6.0, 120.0], [41.0], [0.0]]


def test_what_leaves_have_from_before_stays_as_it_was() -> None:
    x, weight = leaf(1.0, 2.0), leaf(3.0)
    accumulate([within(lambda x: weight * x, x)], [torch.ones(2)])
    before = x.grad, weight.grad
    assert before[0] is not None
    assert before[0].tolist() == [3.0, 3.0]
    out = within(lambda x: weight * x, x)
    found = pulled_back([out], [x, weight], [torch.ones(2)])
    assert [one.tolist() for one in found] == [[3.0, 3.0], [3.0]]
    assert (x.grad, weight.grad) == before
    assert before[0].tolist() == [3.0, 3.0]


def test_so_do_leaves_that_nobody_asks_about() -> None:
    x, other, fresh = leaf(1.0, 2.0), leaf(3.0), leaf(4.0)
    other.grad = torch.tensor([7.0])
    out = within(lambda u: u.square(), x * other * fresh)
    (found,) = pulled_back([out], [x], [torch.ones(2)])
    assert found.tolist() == [288.0, 576.0]
    assert (x.grad, other.grad.tolist(), fresh.grad) == (None, [7.0], None)


def test_so_it_is_of_results_and_of_a_graph_that_is_kept() -> None:
    x = leaf(1.0, 2.0)
    between = 2 * x
    out = within(lambda u: u.square(), between)
    for keep in (True, False):
        found = pulled_back([out], [between, x], [torch.ones(2)], keep=keep)
        assert [one.tolist() for one in found] == [[4.0, 8.0], [8.0, 16.0]]
    with pytest.raises(RuntimeError, match="second time"):
        pulled_back([out], [x], [torch.ones(2)])


def test_what_nothing_depends_on_has_no_gradient() -> None:
    x, y = leaf(1.0), leaf(2.0)
    for out in (2 * x, within(lambda x: 2 * x, x)):
        assert [None if one is None else one.tolist() for one in gradients(out.sum(), [x, y])] == [[2.0], None]
        with pytest.raises(ValueError, match="a cotangent has shape"):
            handed([out], [torch.ones(3)])


class Counting(RecomputedWithinThePass):
    """Counts the calls that are made of it."""

    calls = 0

    def mappings(self, x: Tensor, params: Params) -> Mappings:
        self.calls += 1
        return super().mappings(x, params)


def test_a_graph_of_it_is_pulled_back_through_twice_and_not_made_anew() -> None:
    target = Counting(PAPER)
    trial = Trial(target, torch.float64, torch.device("cpu"), FloatTruth(PAPER))
    params = Params(*(torch.ones(shape, dtype=torch.float64) for shape in params_shapes(1, 2, PAPER)[:3]))
    bars = tuple(torch.ones(shape, dtype=torch.float64) for shape in ((1, 1), (1, 1), (1, 1, 1)))
    x = torch.tensor([[[1.0, 2.0]]], dtype=torch.float64)
    found = MAPPINGS.call(trial, Case(x=x, params=params, cotangents=bars, layout=TWICE))
    assert bool(found["the gradient by bias"].any())
    assert target.calls == 1


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["PAPER", "ATTN_RES"])
@pytest.mark.parametrize(
    "law",
    [
        "gradient.mappings-pull-back-to-state-and-parameters",
        "gradient.mappings-pull-back-however-they-are-called",
        "execution.recomputation-does-not-matter",
    ],
)
def test_who_computes_again_within_the_pass_is_not_accused(preset: str, law: str, tmp_path: Path) -> None:
    target = build("recomputed-within-the-pass", PRESETS[preset])
    found = examine(
        all_laws()[law], Subject("mine", target, torch.float64, torch.device("cpu")), QUICK, directory=tmp_path
    )
    assert (found.status, found.message) == ("passed", "")
