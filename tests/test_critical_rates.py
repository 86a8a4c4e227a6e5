"""Critical learning rates: one knob at a time from a base run, and by depth; with pictures."""

import dataclasses
import json
import sys
from typing import Any

import pytest
from typer.testing import CliRunner

from properties import cli
from properties.explosion import PictureError, critical_rates
from properties.explosion.critical import KNOBS, REMEDIES, SUSPECTS, CriticalRates, Row, cell, grid, median_line
from properties.explosion.pictures.critical import draw_critical
from properties.explosion.questions.families import ask
from properties.explosion.training.runs import train

TINY: dict[str, Any] = {"steps": 12, "seeds": 2, "max_depth": 2, "max_streams": 2, "max_width": 8, "max_tokens": 32}


@pytest.fixture(scope="module")
def table():
    return critical_rates("train:hc", "1.3", vary="constrained", **TINY)


@pytest.mark.slow
def test_the_base_comes_first_and_constrained_mixing_is_proved(table):
    base, *mixed = table.rows
    assert (base.knob, *(row.knob for row in mixed)) == ("base", *["constrained"] * 3)
    assert [row.value for row in mixed] == ["mhc", "mhc-lite", "cayley"]
    assert all(base.rates)
    for row in mixed[:2]:  # what is orthogonal may reach sqrt(2) with two streams, which is above the threshold
        assert row.rates == (None, None)
        assert row.proof.startswith("None on this lattice, and none at any rate")
    assert "none (proved)" in table.to_text()
    assert table.complete


@pytest.mark.slow
def test_a_critical_rate_is_the_first_of_its_grid(table):
    """Run one by one: none below crosses, and that one does."""
    asked, (base, *_) = table.request, table.rows
    rates = grid(asked)
    for seed, rate in zip(asked.tried, base.rates, strict=True):
        upto = rates[: rates.index(rate) + 1]
        crossed = train(asked.largest(), "forward", upto, [seed] * len(upto)).crossing(1.3)
        assert [bool(step) for step in crossed.tolist()] == [False] * (len(upto) - 1) + [True]


def test_a_rate_above_the_grid_is_said_so():
    row = Row("norm", "post", 2, (0.01, None, None))
    assert row.spread == (0.01, None, None)
    assert cell(row, 1.0) == "> 1 [0.01, > 1]"
    assert Row("norm", "post", 2, (0.3, 0.1, 0.2)).spread == (0.1, 0.2, 0.3)


def test_every_knob_makes_a_question_that_can_be_run():
    """Fields of the question, in range; what is as the base has it is left out when it is varied."""
    asked = ask("train:hc", 10, max_depth=4, max_width=16, max_tokens=32, max_streams=4)
    assert KNOBS == {**SUSPECTS, **REMEDIES}
    for changes in KNOBS.values():
        turned = [dataclasses.replace(asked, **fields) for _, fields in changes]
        assert any(one.largest() != asked.largest() or one.steps != asked.steps for one in turned)


def test_by_depth_there_is_a_line_for_each_residual_norm_and_initialisation():
    tiny: dict[str, Any] = {**TINY, "max_depth": 1, "budget": 1e-6}
    found = critical_rates("train:mhc", "5", gain="backward", **tiny)
    assert not found.complete  # the proofs cost nothing; what is run was not
    assert found.rows[0].proof
    assert "Stopped before the end" in found.to_text()


@pytest.mark.slow
def test_the_command_prints_one_json_line_and_draws(tmp_path):
    pytest.importorskip("matplotlib")
    sizes = {**TINY, "seeds": 1, "steps": 8}
    tiny = [part for name, value in sizes.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    path = tmp_path / "rates.svg"
    arguments = ["explode", "train:hc", "--threshold", "1.2", *tiny, "--vary", "data", "--json", "--plot", str(path)]
    done = CliRunner().invoke(cli.app, arguments)
    printed = json.loads(done.stdout.splitlines()[-1])
    assert done.exit_code == 0
    assert [row["knob"] for row in printed["rows"]] == ["base", "data"]
    assert set(printed["rows"][0]) == {"knob", "value", "depth", "rates", "median", "proof"}
    assert path.stat().st_size > 5000


@pytest.mark.slow
def test_rates_by_depth_are_drawn_as_lines(tmp_path):
    pytest.importorskip("matplotlib")
    rows = [
        Row(knob, value, depth, (rate / depth, 0.1 / depth))
        for depth in (1, 2, 4)
        for knob, value, rate in (("base", "hc", 0.2), ("norm", "post", 0.3))
    ]
    rows += [Row("residual", "mhc", 1, (None, None), "None, proved."), Row("init", "deepseek", 1, (None, 0.1))]
    drawn = CriticalRates(ask("train:hc", 10), tuple(rows), True, 1.0)
    draw_critical(drawn, tmp_path / "rates.svg")
    assert (tmp_path / "rates.svg").stat().st_size > 5000
    assert median_line(rows[:6:2]) == [(1, 0.1, 0.1, 0.2), (2, 0.05, 0.05, 0.1), (4, 0.025, 0.025, 0.05)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hc", "--vary", "norm", "--entry-bound", "2"], "expected train:KIND"),
        (["train:hc", "--vary", "colour"], "vary is 'colour'; expected all or one of depth"),
        (["train:hc", "--minimise", "loss"], "minimise is 'loss'; expected rate"),
        (["train:hc", "--minimise", "rate", "--vary", "norm"], "without vary"),
        (["train:hc", "--vary", "norm", "--save", "x.safetensors"], "--save has no effect"),
    ],
)
def test_a_bad_question_is_refused_in_a_sentence(arguments, message):
    done = CliRunner().invoke(cli.app, ["explode", *arguments, "--threshold", "2", "--json"])
    assert done.exit_code == 2
    assert message in json.loads(done.stdout.splitlines()[-1])["error"]


def test_a_picture_without_matplotlib_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(PictureError, match="drawing needs matplotlib"):
        draw_critical(CriticalRates(ask("train:hc", 10), (), True, 1.0), tmp_path / "x.png")
