"""The atlas: searched points lie on the closed-form frontiers, and never below them."""

import json
import math

import pytest
from typer.testing import CliRunner

from properties import cli
from properties.explosion import atlas
from properties.explosion.atlas import CONSTRAINED, FAMILIES, NEAR_AVERAGE, NEAR_IDENTITY


@pytest.fixture(scope="module")
def small():
    return atlas(20, deviations=("0.2", 1), max_streams=2)


@pytest.mark.slow
def test_every_search_finds_the_depth_of_the_closed_form(small):
    assert small.complete
    assert small.agree
    assert {point.family for point in small.points} == set(FAMILIES)
    for point in small.points:
        if point.family in (NEAR_IDENTITY, NEAR_AVERAGE):
            rate = 1 + point.streams * float(point.deviation)
            assert point.searched == math.ceil(math.log(20) / math.log(rate))
        if point.family == CONSTRAINED:
            assert ("is at most 1" if point.streams == 1 else "stays below 2") in point.impossible


@pytest.mark.slow
def test_the_table_has_a_row_for_each_family_and_n(small):
    text = small.to_text()
    assert "reaches 20" in text
    assert text.count("impossible at every depth") == 2
    assert [line.split()[-2:] for line in text.splitlines() if line.strip().startswith("hc near identity")] == [
        ["17", "5"],
        ["9", "3"],
    ]
    assert "16 of 16 searches" in text


@pytest.mark.slow
def test_a_search_that_missed_would_show(small):
    import dataclasses

    points = tuple(dataclasses.replace(point, searched=99) for point in small.points[:1])
    missed = dataclasses.replace(small, points=points)
    assert not missed.agree
    assert "99 [17]" in missed.to_text()


def test_constrained_mixing_below_its_cap_is_left_to_its_own_search():
    few = atlas("1.5", deviations=(1,), max_streams=2)
    assert [point.streams for point in few.points if point.family == CONSTRAINED] == [1]


def test_a_spent_budget_leaves_points_without_a_search():
    stopped = atlas(20, deviations=(1,), max_streams=1, budget=1e-9)
    assert not stopped.complete
    assert "Stopped before the end" in stopped.to_text()


@pytest.mark.slow
def test_the_command_prints_one_json_line_and_draws(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "atlas.svg"
    arguments = ["atlas", "--threshold", "20", "--deviation", "1", "--max-streams", "2", "--json", "--plot", str(path)]
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 0
    printed = json.loads(done.stdout.splitlines()[-1])
    assert printed["agree"]
    assert path.stat().st_size > 5000


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--threshold", "1"], 2, "threshold is 1"),
        (["--threshold", "nan"], 2, "threshold is 'nan'"),
        (["--deviation", "0"], 2, "is 0; expected more than 0"),
        (["--deviation", "1", "--max-streams", "1", "--budget", "1e-9"], 1, "Stopped before the end"),
    ],
)
def test_exit_codes(arguments, code, message):
    done = CliRunner().invoke(cli.app, ["atlas", *arguments])
    assert done.exit_code == code
    assert message in done.output
