"""Many cases in one pass have the verdicts that each has alone, on the CPU and on another device."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from fake_device import FAKE, FakeMode, fake_device
from many_cases import CPU, LAWS, ORACLES, POST, Touched, batch_of, compared, heard_alike, subject_of
from torch import Tensor

from mhc_ref import DEEPSEEK_V4, PAPER, PRESETS, Dialect
from properties.bounds import Approx, Rounding
from properties.bounds.arithmetic import addends
from properties.bounds.projection import projection
from properties.catalogue import controls, deviations
from properties.commands.batched_prediction import Costs, Counting, predicted
from properties.core.implementation import Implementation, Reference
from properties.core.rounding import STORED
from properties.core.rows import Rows, place, rows, together
from properties.core.truth import wide
from properties.engine.batches import judged
from properties.families.sinkhorn.arrays import as_on_a_device
from properties.laws.batches import TOGETHER

OF_THE_BATCH = {
    *("accumulator-not-cleared", "cached-by-pointer", "cached-by-shape", "first-call-doubled", "neighbour-gate"),
    *("norm-over-tokens", "previous-coefficients", "racing-reduction", "token-0-for-all", "token-tail-unwritten"),
}
"""Deviations whose answer to a token depends on the other tokens, on the calls before or on chance: among others they
answer otherwise than alone, and so they must."""


def all_of(catalogue: Any, dialect: Dialect, dtype: torch.dtype, every: int = 1) -> list[Implementation]:
    names = [
        name
        for name, one in catalogue.CATALOGUE.items()
        if one.applies(dialect) and dtype in getattr(one, "dtypes", (dtype,))
    ]
    return [catalogue.build(name, dialect) for name in names[::every]]


@pytest.mark.slow
@pytest.mark.parametrize(
    "dialect", [PAPER, pytest.param(DEEPSEEK_V4, marks=pytest.mark.thorough)], ids=["PAPER", "DEEPSEEK_V4"]
)
def test_deviations_have_the_verdicts_together_that_they_have_alone(dialect: Dialect) -> None:
    wrong = all_of(deviations, dialect, torch.float32)
    assert len(wrong) > 200
    assert {name for one in wrong for name in compared(one, torch.float32, ORACLES, 3)} <= OF_THE_BATCH


@pytest.mark.slow
@pytest.mark.parametrize("dialect", [PAPER, DEEPSEEK_V4], ids=["PAPER", "DEEPSEEK_V4"])
def test_controls_have_the_verdicts_together_that_they_have_alone(dialect: Dialect) -> None:
    right = all_of(controls, dialect, torch.float32)
    assert len(right) > 20
    for one in right:
        assert not list(compared(one, torch.float32, ORACLES, 4, right=True)), one.name


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.float32])
@pytest.mark.parametrize("dialect", [PAPER, DEEPSEEK_V4], ids=["PAPER", "DEEPSEEK_V4"])
def test_some_of_every_kind_have_the_same_verdicts_in_every_dtype(dialect: Dialect, dtype: torch.dtype) -> None:
    some = all_of(deviations, dialect, dtype, 40) + all_of(controls, dialect, dtype, 12)
    assert {name for one in some for name in compared(one, dtype, ORACLES, 3)} <= OF_THE_BATCH


@pytest.mark.parametrize("id", TOGETHER)
def test_ratios_and_claims_of_a_case_are_those_that_it_has_alone(id: str) -> None:
    heard_alike(id, DEEPSEEK_V4, CPU, 40)


@pytest.mark.slow
@pytest.mark.parametrize("id", ORACLES)
def test_answers_of_another_device_have_the_ratios_that_the_cpu_finds_in_them(id: str) -> None:
    with fake_device():
        heard_alike(id, PAPER, FAKE, 12)


def test_the_most_addends_are_counted_case_by_case() -> None:
    x = Approx.exact(torch.tensor([[[1.0, 1.0]], [[0.0, 1.0]], [[0.0, 0.0]], [[0.0, 1.0]]]))
    assert addends(x, over=(-2, -1)) == 2
    with together(Rows(torch.tensor([0, 1, 1, 2]), 3, CPU)):
        assert torch.equal(torch.as_tensor(addends(x, over=(-2, -1))), torch.tensor([2, 1, 1, 1]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_counts_of_several_tokens_have_the_errors_that_each_has(dtype: torch.dtype) -> None:
    r = Rounding.of(dtype, "tf32" if dtype == torch.float32 else "compute")
    counts = torch.tensor([0, 1, STORED, STORED + 1, 300, 2**26])
    for one in (r, r.at("norm"), Rounding.of(torch.bfloat16)):
        assert one.gamma(counts).tolist() == [one.gamma(k) for k in counts.tolist()]
        assert one.dot(counts).tolist() == [one.dot(k) for k in counts.tolist()]


def counted(left: list[int]) -> Any:
    """`FakeMode`, which notes how many numbers leave the device."""
    dispatch = FakeMode.__torch_dispatch__

    def watching(self: FakeMode, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        wanted = (kwargs or {}).get("device")
        leaves = wanted is not None and torch.device(wanted).type == "cpu" and isinstance(args[0], Tensor)
        if leaves and args[0].device.type == FAKE.type:
            left.append(args[0].numel())
        return dispatch(self, func, types, args, kwargs)

    return mock.patch.object(FakeMode, "__torch_dispatch__", watching)


@pytest.mark.slow
@pytest.mark.parametrize("id", ORACLES)
def test_cases_are_judged_where_they_are_computed(id: str) -> None:
    """The bounds, the truth and the verdicts on another device are those of the CPU, and no number of theirs leaves."""
    ours = Reference(DEEPSEEK_V4)
    ours.devices = ("cpu", FAKE.type)
    for n in (1, 4):
        batch = batch_of(id, DEEPSEEK_V4, torch.float32, n, 40)
        here, left = judged(LAWS[id], subject_of(ours), batch), list[int]()
        with fake_device(), counted(left):
            there = judged(LAWS[id], subject_of(ours, on=FAKE), batch)
            assert there.ratios.device.type == there.said.device.type == FAKE.type
            assert left == []
            ratios, said, unsaid = (one.cpu() for one in (there.ratios, there.said, there.unsaid))
        torch.testing.assert_close(ratios, here.ratios, rtol=1e-6, atol=1e-9)
        assert torch.equal(said, here.said)
        assert torch.equal(unsaid, here.unsaid)


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_judged_on_another_device(name: str) -> None:
    ours = Reference(PRESETS[name])
    ours.devices = ("cpu", FAKE.type)
    for id in ORACLES:
        if LAWS[id].inapplicable(ours, torch.float32, CPU) is None:
            n = 3 if 3 in ours.streams else min(ours.streams)
            batch = batch_of(id, ours.dialect, torch.float32, n, 12)
            here = judged(LAWS[id], subject_of(ours), batch)
            with fake_device():
                ratios = judged(LAWS[id], subject_of(ours, on=FAKE), batch).ratios.cpu()
            torch.testing.assert_close(ratios, here.ratios, rtol=1e-6, atol=1e-9)


def test_the_implementation_is_called_once_for_a_pass() -> None:
    calls: list[tuple[int, ...]] = []

    def touch(x: Tensor, out: Tensor) -> Tensor:
        calls.append(tuple(x.shape[:1]))
        return out

    judged(POST, subject_of(Touched(touch)), batch_of(POST.id, PAPER, torch.float32, 2, 250))
    assert calls == [(250,)]


def test_outside_of_a_pass_numbers_are_judged_on_the_cpu() -> None:
    assert rows() is None
    assert place() == CPU
    with fake_device():
        away = torch.ones(2).to(FAKE)
        assert wide(away).device.type == Approx.exact(away).value.device.type == "cpu"
        with together(Rows(torch.zeros(2, dtype=torch.long).to(FAKE), 1, FAKE)):
            assert wide(away).device.type == Approx.exact(torch.ones(2)).value.device.type == FAKE.type
        assert place() == CPU


# -- what a device is asked to do --------------------------------------------------------------------------------------


@pytest.mark.parametrize("iterations", [0, 1, 20])
@pytest.mark.parametrize("name", ["PAPER", "DEEPSEEK_V4", "LUCIDRAINS"])
def test_divisions_are_bounded_alike_in_numpy_and_in_torch(name: str, iterations: int) -> None:
    dialect, generator = PRESETS[name].with_(iterations=iterations), torch.Generator().manual_seed(iterations)
    sizes = torch.tensor([0.0, 1.0, 4.0, 30.0, 95.0, 300.0], dtype=torch.float64).reshape(-1, 1, 1)
    for n in (1, 2, 4):
        z = sizes * torch.randn(len(sizes), n, n, generator=generator, dtype=torch.float64)
        for known in (0.0, 1e-6, 1e-2):
            logits, r = Approx(z, torch.full_like(z, known)), Rounding.of(torch.float32)
            ours = projection(logits, dialect, r)
            with as_on_a_device():
                theirs = projection(logits, dialect, r)
            for one, other in zip(ours, theirs, strict=True):
                torch.testing.assert_close(other, one, rtol=1e-9, atol=0)


@pytest.mark.slow
def test_operations_waits_and_bytes_of_a_pass_are_counted() -> None:
    x = torch.ones(4, 3, dtype=torch.float64)
    with Counting() as counts:
        y = (x.view(3, 4) + 1).sum()  # one view, two operations
        assert bool(y > 0)  # one operation more, for which the host waits
    assert (counts.operations, counts.waits) == (4, 1)
    assert counts.moved == 8 * (12 + 12) + 8 * (12 + 1) + (8 + 1) + 1


@pytest.mark.slow
def test_more_tokens_in_a_pass_are_predicted_to_be_faster() -> None:
    ours, law = Reference(PAPER), LAWS["block.agrees-with-oracle"]
    ours.streams = (2,)
    subject = subject_of(ours)
    few, many_ = (predicted(law, subject, at_once=count, randomness=0, passes=2) for count in (32, 4096))
    assert few.operations > 1000
    assert few.waits > 20
    assert many_.moved > 50 * few.moved
    assert many_.rate() > 10 * few.rate()
    dear = Costs(operation=1.0, wait=0.0)
    assert few.seconds(dear) == pytest.approx(few.operations + few.drawing)
