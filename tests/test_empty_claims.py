"""What claims nothing is counted and said; a bound that is no number is a fault of ours, wherever it becomes one."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mhc_ref import DEEPSEEK_V4, PAPER
from properties import bounds
from properties.bounds import Approx, Rounding
from properties.core.judging import Judge, LawBroken
from properties.core.rounding import example, known, noted
from properties.guards.faults import HarnessError
from properties.report.empty import mostly_empty
from properties.report.report import SCHEMA, Line, lines_of, made, read, runs

FLOAT32 = Rounding.of(torch.float32)


def judged(got: Tensor, exact: Tensor, bound: Tensor, size: float = 0.0) -> tuple[int, int]:
    bench = Judge()
    bench.within("h_res", got, exact, bound, size=size)
    return bench.claims, bench.abstentions


def test_a_bound_as_large_as_what_it_bounds_claims_nothing() -> None:
    exact = torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    assert judged(exact, exact, torch.full((2, 2), 0.6)) == (2, 2)  # of the second token, both entries
    assert judged(exact, exact, torch.full((2, 2), math.inf)) == (0, 4)
    assert judged(exact, exact, torch.full((2, 2), 1e-7)) == (4, 0)


def test_an_entry_that_cancels_is_as_large_as_its_token() -> None:
    exact = torch.tensor([[1e-9, 1.0], [1e-9, 1e-9]])
    assert judged(exact, exact, torch.full((2, 2), 1e-6)) == (2, 2)


def test_a_token_of_zeros_is_as_large_as_the_others_and_zeros_alone_are_claimed() -> None:
    exact = torch.tensor([[0.0, 0.0], [2.0, 1.0]])
    assert judged(exact, exact, torch.full((2, 2), 1.0)) == (4, 0)
    assert judged(exact, exact, torch.full((2, 2), 3.0)) == (0, 4)
    assert judged(0 * exact, 0 * exact, torch.full((2, 2), 1e-6)) == (4, 0)


def test_numbers_with_a_scale_of_their_own_are_claimed_near_zero() -> None:
    gate = torch.full((1, 2), 1e-30)
    assert judged(gate, gate, torch.full((1, 2), 1e-6)) == (0, 2)
    assert judged(gate, gate, torch.full((1, 2), 1e-6), size=1.0) == (2, 0)


def test_what_a_limit_bounds_is_as_large_as_the_limit_or_the_number() -> None:
    bench = Judge()
    bench.at_most("an entry is negative", torch.tensor([[-0.5, 0.0]]), torch.zeros(1, 2), torch.full((1, 2), 1e-6))
    bench.at_most("a sum", torch.ones(1, 2), torch.ones(1, 2), torch.full((1, 2), 1.5))
    assert bench.stages == {"an entry is negative": (2, 0), "a sum": (0, 2)}


def test_what_a_gap_excuses_claims_nothing_either() -> None:
    bench = Judge()
    bench.within("a stream", torch.ones(1), torch.ones(1), torch.full((1,), 1e-6), gap=torch.ones(1))
    assert (bench.claims, bench.abstentions) == (0, 1)


def test_an_empty_claim_still_refuses_what_is_no_number() -> None:
    with pytest.raises(LawBroken):
        Judge().within("h_res", torch.tensor([math.nan]), torch.ones(1), torch.full((1,), 2.0))


def test_stages_are_counted_apart_and_layers_together() -> None:
    bench = Judge()
    for layer in range(3):
        bench.within(f"the branch input of layer {layer}", torch.ones(2), torch.ones(2), torch.tensor([0.1, math.inf]))
    bench.near("h_res of 1e-05 x", torch.ones(2), torch.ones(2), torch.full((2,), 1e-7))
    assert bench.stages == {"the branch input of layer N": (3, 3), "h_res of N x": (2, 0)}


# -- bounds that are no numbers ----------------------------------------------------------------------------------------


def test_a_bound_that_is_no_number_is_a_fault_of_ours_where_nothing_infinite_went_into_it() -> None:
    wrong = torch.tensor([1.0, math.nan])
    with example(), pytest.raises(HarnessError, match=r"a bound is no number at \[1\] of \[2\]"):
        Approx(torch.ones(2), wrong)
    with example(), pytest.raises(HarnessError, match="nothing infinite went into it"):
        known(wrong)


@pytest.mark.parametrize("stage", ["products", "times", "contracted"])
def test_zero_times_an_infinite_error_is_infinite(stage: str) -> None:
    with example():
        infinite = Approx(torch.ones(1, 2).double(), torch.tensor([[math.inf, 0.0]]).double())
        zeros = Approx.exact(torch.zeros(1, 2))
        if stage == "times":
            found = bounds.times(infinite, zeros, FLOAT32)
        elif stage == "contracted":
            found = bounds.contracted("ti,ti->t", infinite, zeros, 2, FLOAT32)
        else:
            shared = noted(torch.tensor([math.inf]))
            found = Approx(torch.zeros(1), known(shared * torch.zeros(1)))
    assert found.error.flatten()[0] == math.inf


def test_an_infinity_of_another_example_explains_nothing() -> None:
    with example():
        Approx(torch.ones(1), torch.full((1,), math.inf))
    with example(), pytest.raises(HarnessError):
        Approx(torch.ones(1), torch.full((1,), math.nan))


@pytest.mark.parametrize("dialect", [PAPER, DEEPSEEK_V4])
@pytest.mark.parametrize("size", [1e-3, 1.0, 50.0, 1e4])
def test_no_error_of_logits_makes_the_bound_of_h_res_no_number(dialect: object, size: float) -> None:
    z = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 5
    for errors in (torch.full_like(z, size), torch.where(z > 0, size, 0 * z)):
        found = bounds.projection(Approx(z, errors), dialect, FLOAT32)  # pyright: ignore[reportArgumentType]
        assert not any(bool(part.isnan().any()) for part in found)


# -- the report --------------------------------------------------------------------------------------------------------


def line(law: str, claims: int, abstentions: int, **stages: list[int]) -> Line:
    return Line(
        "mine", {}, "float32", "cpu", law, "passed", claims=claims, abstentions=abstentions, stages=dict(stages)
    )


def test_a_law_whose_claims_were_mostly_empty_says_so() -> None:
    lines = [line("block.x", 1, 4, state=[0, 4]), line("block.y", 4, 1, state=[4, 1])]
    assert mostly_empty(lines) == ["block.x in float32: 4 of 5 claims were empty: state (4 of 4)"]


def test_many_mostly_empty_laws_are_counted() -> None:
    told = mostly_empty([line(f"block.{k}", 0, k + 1, state=[0, k + 1]) for k in range(5)])
    assert len(told) == 4
    assert told[-1] == "... and most claims of 2 more laws were empty (report.json, `stages`)"


def test_the_report_has_stages_and_reads_reports_without_them(tmp_path: Path) -> None:
    given = line("block.x", 1, 4, state=[0, 4])
    report = made([given], 1, {})
    assert (report["schema"], runs([given])[0]["laws"]["block.x"]["stages"]) == (SCHEMA, {"state": [0, 4]})
    assert lines_of(report) == [given]
    older = made([line("block.x", 1, 4)], 1, {})  # as earlier versions wrote it
    path = tmp_path / "report.json"
    path.write_text(json.dumps(older))
    assert lines_of(read(path))[0].stages == {}


@pytest.mark.parametrize("counts", [[1], [1, -1], [True, 2], "ab"])
def test_counts_of_another_form_are_no_report(tmp_path: Path, counts: object) -> None:
    report = made([line("block.x", 1, 4, state=[0, 4])], 1, {})
    report["runs"][0]["laws"]["block.x"]["stages"]["state"] = counts
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report))
    with pytest.raises(Exception, match="is no report of a run"):
        read(path)
