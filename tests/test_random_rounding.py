"""The reference with every operation rounded at random: a sample stays within every bound, and the worst comes near."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch

from properties.commands.sharpness import data, page
from properties.core.implementation import Reference
from properties.core.noise import RandomRounding
from properties.engine.sharpness import DEPTHS, TITLES, WAYS, Found, Place, Row, controls, evaluated

DTYPES = (torch.float32, torch.bfloat16)


def sampled(place: Place, ways: tuple[str, ...] = tuple(WAYS)) -> list[Found]:
    return [one for way in ways for one in evaluated(place, Reference(place.dialect), way=way)]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("title", TITLES)
def test_a_sample_stays_within_every_bound(title: str, dtype: torch.dtype) -> None:
    ways = ("at random", "against the norm")
    for place in (Place(title, dtype, 12), Place(title, dtype, 3, cancelling=True), Place(title, dtype, 3, layers=2)):
        for found in sampled(place, ways):
            assert found.ratio <= 1, f"{found.stage} at {place}"


NEAR = {"pre": 0.4, "post": 0.2, "h_pre": 0.05, "h_post": 0.05, "h_res": 0.02, "block": 0.02}
"""The part of the bound that the worst sample reaches. What a stage adds up over others is met by none of them alone:
gates admit any formula that is accurate absolutely, and a block every error of its mappings at once."""


@pytest.mark.slow
def test_the_worst_sample_comes_near_the_bound() -> None:
    worst: dict[str, float] = {}
    for found in sampled(Place("DEEPSEEK_V4", torch.float32, 64)):
        worst[found.stage] = max(worst.get(found.stage, 0.0), found.ratio)
    assert {stage for stage, least in NEAR.items() if worst[stage] < least} == set(), worst


@pytest.mark.slow
def test_a_bound_of_a_quarter_is_left_by_the_worst_sample_or_by_a_control() -> None:
    """Where operations add up alone, a quarter of the bound is not sound."""
    place = Place("DEEPSEEK_V4", torch.float32, 64)
    found = [*sampled(place), *(one for target in controls(place) for one in evaluated(place, target))]
    worst = {stage: max(one.ratio for one in found if one.stage == stage) for stage in ("pre", "post")}
    assert all(ratio > 0.25 for ratio in worst.values()), worst


@pytest.mark.slow
def test_every_stage_is_claimed_where_terms_have_one_sign() -> None:
    for place in (
        Place("DEEPSEEK_V4", torch.float32, 8192),
        Place("LUCIDRAINS", torch.float32, 16, DEPTHS[torch.float32][-1]),
    ):
        for found in evaluated(place, Reference(place.dialect)):
            assert not found.abstentions
            assert found.relative < 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_result_is_one_of_the_two_numbers_beside_it(dtype: torch.dtype) -> None:
    value = torch.randn(2000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u = torch.finfo(dtype).eps / 2

    def off(up: float) -> torch.Tensor:
        return (RandomRounding(0, up).rounded(value, dtype).double().abs() - value.abs()) / value.abs()

    usual = value.abs() > 1e-3  # float16 has subnormal numbers below
    assert float(off(0.5)[usual].abs().max()) <= 2 * u
    assert bool((off(0.0) <= 0).all())
    assert bool((off(1.0) >= 0).all())
    assert abs(float(off(0.5)[usual].mean())) < 0.1 * u  # without a drift
    exact = value.to(dtype)
    assert torch.equal(RandomRounding(0).rounded(exact.double(), dtype), exact)


def test_sums_and_products_are_rounded_term_by_term() -> None:
    tenths = torch.full((1, 1000), 0.1)
    with RandomRounding(0, up=1.0):
        total, product = tenths.sum(1), tenths @ torch.ones(1000, 1)
    assert total.item() - 100 > 1e-3  # a single rounding is 4e-6
    assert product.item() == total.item()


def test_float64_is_left_alone_and_a_written_tensor_is_rounded() -> None:
    third = torch.ones(1, dtype=torch.float64) / 3
    with RandomRounding(0, up=1.0):
        same = torch.ones(1, dtype=torch.float64) / 3
        written = torch.ones(1)
        written.div_(3)
        stored = third.to(torch.bfloat16)
    assert torch.equal(same, third)
    assert written.double().item() > 1 / 3 > torch.nextafter(written, torch.zeros(1)).item()
    assert stored.double().item() > 1 / 3


def test_the_page_says_what_a_row_found_and_is_the_one_that_the_command_writes() -> None:
    row = Row("h_res", "float32", "C = 64", False, 2.4e-5, 0.25, "linear in PAPER", 0.01, math.nan, 3, 1)
    kept = data([row, dataclasses.replace(row, cancelling=True, relative=math.inf, ratio=0.5)])
    assert [kept["rows"][k][name] for k in (0, 1) for name in ("bound", "ratio")] == [2.4e-5, 0.25, None, 0.5]
    assert kept["rows"][0]["worst"] is None
    assert kept["rows"][0]["empty"] == 0.25
    text = page(kept["rows"])
    assert "| stage | float32 |\n| --- | --- |\n| h_res | 0.25 |\n" in text
    assert "Over all 2 rows, correct code comes to 0.5 of its bound at most: h_res in float32 at C = 64." in text
    docs = Path(__file__).parents[1] / "docs"
    assert (docs / "sharpness.md").read_text() == page(json.loads((docs / "sharpness.json").read_bytes())["rows"])
