"""Many seeds on the controls: the run takes them evenly and tells what it found."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import typer
from typer.testing import CliRunner

from mhc_ref import PRESETS
from properties.catalogue.controls import CATALOGUE, build
from properties.commands import bench, kill, seeds, sharpness
from properties.commands.kill_rows import Task
from properties.commands.seeds import outcome_of, runs
from properties.core.law import all_laws


def test_every_seed_meets_every_control_and_no_combination_comes_twice_before_all_have_come() -> None:
    found = list(runs(100, 4, []))
    assert [number for *_, number in found] == sorted(number for *_, number in found)
    assert {task.name for task, _, number in found if number == 99} == set(CATALOGUE)
    assert all(n in build(task.name, PRESETS[task.preset]).streams for task, n, _ in found)
    assert list(runs(100, 4, [], first=70)) == [one for one in found if one[2] >= 70]
    linear = {(task.preset, task.dtype, n) for task, n, _ in found if task.name == "linear"}
    assert len(linear) == min(100, 3 * sum(len(build("linear", PRESETS[one]).streams) for one in seeds.PRESETS))


def test_a_correct_implementation_has_nothing_to_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    few(monkeypatch)
    title, exercised, examples, wrong = outcome_of((Task("control", "linear", "PAPER", "float32", 2, False, ()), 4, 5))
    assert (title, exercised, wrong) == ("linear@PAPER float32, n = 4, seed 5", 1, [])
    assert examples > 0


def test_a_wrong_one_is_told_with_its_message(monkeypatch: pytest.MonkeyPatch) -> None:
    few(monkeypatch)
    *_, wrong = outcome_of((Task("deviation", "last-axis-only", "DEEPSEEK_V4", "float32", 2, False, ()), 4, 5))
    assert len(wrong) == 1
    assert "seed 5: deviation:last-axis-only breaks manifold.agrees-with-oracle in float32 on cpu" in wrong[0]


def test_laws_may_be_chosen() -> None:
    task = Task("control", "linear", "PAPER", "float32", 2, False, ("manifold.agrees", "block.agrees"))
    _, exercised, _, wrong = outcome_of((task, 4, 5))
    assert (exercised, wrong) == (sum(one.startswith(task.laws) for one in all_laws()), [])


@pytest.mark.parametrize("main", [seeds.main, kill.main])
@pytest.mark.parametrize(
    ("option", "hint"),
    [
        (["--only", "revered"], "there is no 'revered'; the closest are reversed"),
        (["--law", "manifold.agree-with-oracle"], "no law's id begins with 'manifold.agree-with-oracle'"),
    ],
)
def test_what_would_choose_nothing_is_refused(main: Callable[..., None], option: list[str], hint: str) -> None:
    result = CliRunner().invoke(app(main), option)
    assert result.exit_code == 2
    assert hint in " ".join(result.output.replace("│", " ").split())


@pytest.mark.parametrize("main", [kill.main, bench.main])
def test_a_device_that_is_not_there_is_refused(main: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device, hint in (("gpu", "device 'gpu' is none of cpu, cuda"), ("cuda", "there is no CUDA device here")):
        result = CliRunner().invoke(app(main), ["--device", device])
        assert result.exit_code == 2
        assert hint in " ".join(result.output.replace("│", " ").split())


def test_a_matrix_to_go_by_must_be_there() -> None:
    result = CliRunner().invoke(app(kill.main), ["--like", "nope.json"])
    assert result.exit_code == 2
    assert "there is no file nope.json" in result.output


def test_a_first_seed_that_leaves_none_is_refused() -> None:
    result = CliRunner().invoke(app(seeds.main), ["--seeds", "3", "--first", "3"])
    assert result.exit_code == 2
    assert "3 leaves no seed below --seeds 3" in result.output


def test_a_run_that_is_cut_short_says_how_far_it_got() -> None:
    result = CliRunner().invoke(app(seeds.main), ["--seeds", "1", "--only", "linear", "--seconds", "1e-9"])
    assert result.exit_code == 2
    assert "0 of 1 runs, 0 laws exercised, 0 examples, 0 accusations or errors" in result.output


@pytest.mark.parametrize(
    ("main", "options", "hint"),
    [
        (kill.main, ["--only", "stored-transposed"], "say deviation:stored-transposed or control:stored-transposed"),
        (kill.main, ["--jobs", "0"], "--jobs"),
        (kill.main, ["--examples", "-1"], "--examples"),
        (kill.main, ["--only", "linear", "--out", "/dev/null/x"], "expected a folder that can be written"),
        (sharpness.main, ["--out", "/dev/null/x"], "expected a folder that can be written"),
        (kill.main, ["--like", __file__], "is no kill.json"),
        (seeds.main, ["--jobs", "-1"], "--jobs"),
        (seeds.main, ["--seeds", "0"], "--seeds"),
        (seeds.main, ["--seconds", "nan"], "--seconds"),
        (bench.main, ["--impl", "nowhere.py:x"], "there is no file nowhere.py"),
        (bench.main, ["--dtype", "float7"], "takes float64, float32"),
        (bench.main, ["--law", "manifolds"], "no law's id begins with 'manifolds'"),
        (bench.main, ["--examples", "0"], "--examples"),
    ],
)
def test_a_usage_mistake_is_said_before_the_work_and_is_no_verdict(
    main: Callable[..., None], options: list[str], hint: str
) -> None:
    result = CliRunner(env={"COLUMNS": "400"}).invoke(app(main), options)
    assert result.exit_code == 2, result.output
    assert hint in result.output
    assert "Traceback" not in result.output


def app(main: Callable[..., None]) -> typer.Typer:
    """The command."""
    made = typer.Typer()
    made.command()(main)
    return made


def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """One law is enough."""
    one = all_laws()["manifold.agrees-with-oracle"]
    monkeypatch.setattr("properties.core.law.all_laws", lambda: {one.id: one})
