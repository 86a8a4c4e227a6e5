"""Many seeds on the controls: the run takes them evenly and tells what it found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
import typer
from typer.testing import CliRunner

from mhc_ref import PRESETS
from properties.campaign import kill, seeds
from properties.campaign.kinds.seeds import PRESETS as TRIED
from properties.campaign.kinds.seeds import outcome_of, runs
from properties.catalogue.controls import CATALOGUE, build
from properties.commands import bench, seeds_page, sharpness
from properties.commands.kill_page import load
from properties.commands.kill_rows import Task
from properties.commands.titled_dialects import dialects, elsewhere, titled
from properties.core.law import all_laws


@pytest.mark.slow
def test_every_seed_meets_every_control_and_no_combination_comes_twice_before_all_have_come() -> None:
    found = list(runs(100, 4))
    assert [number for *_, number in found] == sorted(number for *_, number in found)
    assert {task.name for task, _, number in found if number == 99} == set(CATALOGUE)
    assert all(n in build(task.name, titled(task.preset)).streams for task, n, _ in found)
    linear = {(task.preset, task.dtype, n) for task, n, number in found if task.name == "linear" and not number % 2}
    assert len(linear) == min(50, 3 * sum(len(build("linear", PRESETS[one]).streams) for one in TRIED))


def test_a_correct_implementation_has_nothing_to_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    few(monkeypatch)
    found = outcome_of((Task("control", "linear", "PAPER", "float32", 2, ()), 4, 5))
    assert found.pop("examples") > 0
    assert found == {"title": "linear@PAPER float32, n = 4, seed 5", "exercised": 1, "wrong": []}


def test_a_wrong_one_is_told_with_its_message(monkeypatch: pytest.MonkeyPatch) -> None:
    few(monkeypatch)
    wrong = outcome_of((Task("deviation", "last-axis-only", "DEEPSEEK_V4", "float32", 2, ()), 4, 5))["wrong"]
    assert len(wrong) == 1
    assert "seed 5: deviation:last-axis-only breaks manifold.agrees-with-oracle in float32 on cpu" in wrong[0]


def test_laws_may_be_chosen() -> None:
    task = Task("control", "linear", "PAPER", "float32", 2, ("manifold.agrees", "block.agrees"))
    found = outcome_of((task, 4, 5))
    assert (found["exercised"], found["wrong"]) == (sum(one.startswith(task.laws) for one in all_laws()), [])


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


@pytest.mark.slow
def test_what_is_cut_short_goes_on_with_the_same_command(tmp_path: Path) -> None:
    few = ["--seeds", "2", "--only", "linear", "--law", "manifold.agrees", "--engine", "serial", "--out", str(tmp_path)]
    cut = CliRunner().invoke(app(seeds.main), [*few, "--budget", "0.000001"])
    assert cut.exit_code == 3, cut.output
    assert "0 of 2 cells are answered" in cut.output
    whole = CliRunner().invoke(app(seeds.main), few)
    assert whole.exit_code == 0, whole.output
    assert "seeds: 2 runs of 1 controls, 2 seeds, 2 laws exercised" in whole.output


@pytest.mark.slow
def test_pieces_of_several_releases_are_kept_apart_and_a_seed_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few(monkeypatch, "block.agrees-with-oracle")
    docs = tmp_path / "docs"
    usual = ["--only", "linear", "--only", "tiled", "--engine", "serial", "--out", str(tmp_path / "c")]
    record = [*usual, "--record", str(docs)]
    monkeypatch.setattr(seeds_page, "release", lambda: "0.9.0")
    # Only the budget is spent: nothing was tried, and the page says so.
    cut = CliRunner().invoke(app(seeds.main), [*record, "--seeds", "2", "--budget", "0.000001"])
    assert cut.exit_code == 3, cut.output
    assert "controls that were never tried: linear" in (docs / "seeds.md").read_text()
    for _ in range(2):
        assert CliRunner().invoke(app(seeds.main), [*record, "--seeds", "2"]).exit_code == 0
    monkeypatch.setattr(seeds_page, "release", lambda: "0.10.0")
    more = CliRunner().invoke(app(seeds.main), [*record, "--seeds", "3", "--missing"])
    assert more.exit_code == 0, more.output
    assert "seeds: 2 runs of 2 controls, 1 seeds" in more.output
    rows = seeds_page.load(docs / "seeds.json")
    had = {one: sorted(int(s) for row in rows if row.release == one for s in row.seeds) for one in ("0.9.0", "0.10.0")}
    assert had == {"0.9.0": [0, 0, 1, 1], "0.10.0": [2, 2]}
    text = (docs / "seeds.md").read_text()
    assert text.index("release 0.9.0: 4 runs") < text.index("release 0.10.0: 2 runs")
    assert "| linear | 3 | " in text
    assert "seeds by 0.10.0 |" in text
    none = CliRunner(env={"COLUMNS": "400"}).invoke(app(seeds.main), [*record, "--seeds", "3", "--missing"])
    assert none.exit_code == 2
    assert "nothing is left" in none.output


def test_an_accusation_stays_in_the_record_until_that_release_takes_it_back() -> None:
    asked = {"name": "linear", "dtype": "float32", "seed": 4, "laws": []}
    wrong = seeds_page.rows_of([(asked, {"exercised": 9, "examples": 20, "wrong": ["linear: a law"]})])
    right = seeds_page.rows_of([(asked, {"exercised": 9, "examples": 20, "wrong": []})])
    other = [replace(row, release="0.1") for row in right]
    assert "* flagged: linear float32, release" in seeds_page.page(seeds_page.merged(wrong, other))
    assert "* flagged: none" in seeds_page.page(seeds_page.merged(wrong, right))
    some = seeds_page.rows_of([({**asked, "laws": ["block."]}, {"exercised": 1, "examples": 2, "wrong": []})])
    assert some == [], "a run of some laws is no seed"


def test_the_page_of_seeds_is_that_of_its_rows() -> None:
    docs = Path(__file__).parents[1] / "docs"
    rows = seeds_page.load(docs / "seeds.json")
    assert rows
    assert (docs / "seeds.md").read_text() == seeds_page.page(rows)
    assert {row.control for row in rows} <= set(CATALOGUE)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"schema": 9, "rows": []}', '{"schema": 1, "rows": [3]}'])
def test_a_file_that_is_no_record_is_refused_in_a_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "seeds.json").write_text(text)
    with pytest.raises(ValueError, match=r"seeds\.json is no seeds\.json: "):
        seeds_page.load(tmp_path / "seeds.json")


@pytest.mark.slow
def test_rows_of_the_matrix_are_kept_as_they_come(tmp_path: Path) -> None:
    docs, folder = tmp_path / "docs", tmp_path / "campaigns"
    few = ["--only", "h-res-transposed", "--law", "manifold.agrees", "--law", "block.agrees", "--engine", "serial"]
    found = CliRunner().invoke(app(kill.main), [*few, "--out", str(docs), "--campaigns", str(folder)])
    assert found.exit_code == 0, found.output
    assert "1 rows; to look at: none" in found.output
    (row,) = load(docs / "kill.json")
    assert (row.name, [*row.killed]) == ("h-res-transposed", ["block.agrees-with-oracle"])
    assert set(row.exercised) == {"block.agrees-with-oracle", "manifold.agrees-with-oracle"}
    again = CliRunner().invoke(app(kill.main), [*few, "--out", str(docs), "--campaigns", str(folder)])
    assert "1 of 1 cells are answered, 0 of them now" in again.output


@pytest.mark.slow
def test_a_whole_matrix_is_written_when_every_row_is_answered(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    cut = ["--engine", "serial", "--budget", "0.000001", "--out", str(docs), "--campaigns", str(tmp_path / "campaigns")]
    found = CliRunner().invoke(app(kill.main), cut)
    assert found.exit_code == 3, found.output
    assert "0 of " in found.output
    assert "is written when all are" in found.output
    assert not (docs / "kill.json").exists()


def test_laws_that_apply_to_no_chosen_control_are_no_success(tmp_path: Path) -> None:
    none = ["--seeds", "1", "--only", "tiled", "--law", "device.compiled", "--engine", "serial", "--out", str(tmp_path)]
    result = CliRunner().invoke(app(seeds.main), none)
    assert result.exit_code == 1, result.output
    assert "nothing was exercised" in result.output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("main", "options", "hint"),
    [
        (kill.main, ["--only", "stored-transposed"], "say deviation:stored-transposed or control:stored-transposed"),
        (kill.main, ["--engine", "nothing", "--only", "linear", "--law", "mixing.", "--out", "k"], "nothing"),
        (kill.main, ["--examples", "-1"], "--examples"),
        (kill.main, ["--only", "linear", "--out", "/dev/null/x"], "expected a folder that can be written"),
        (sharpness.main, ["--out", "/dev/null/x"], "expected a folder that can be written"),
        (seeds.main, ["--engine", "nothing"], "nothing"),
        (seeds.main, ["--seeds", "0"], "--seeds"),
        (seeds.main, ["--budget", "nan"], "'nan' is no time"),
        (seeds.main, ["--missing"], "it takes a record"),
        (seeds.main, ["--record", "r", "--law", "mixing."], "a record is of all laws"),
        (seeds.main, ["--record", "/dev/null/x"], "expected a folder that can be written"),
        (seeds.main, ["--out", "/dev/null/x"], "expected a folder that can be written"),
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


def few(monkeypatch: pytest.MonkeyPatch, law: str = "manifold.agrees-with-oracle") -> None:
    """One law is enough."""
    one = all_laws()[law]
    monkeypatch.setattr("properties.core.law.all_laws", lambda: {one.id: one})


@pytest.mark.slow
def test_every_second_seed_is_in_a_dialect_that_no_preset_has() -> None:
    found = list(runs(20, 4))
    assert found == list(runs(20, 4))
    named = dialects()
    for task, n, number in found:
        assert (task.preset in named) == (number % 2 == 0)
        dialect = titled(task.preset)
        assert CATALOGUE[task.name].applies(dialect)
        assert n in build(task.name, dialect).streams
    odd = {task.preset for task, _, number in found if number % 2}
    assert len(odd) > 400
    assert len({titled(one) for one in odd}) > 300


@pytest.mark.parametrize(
    ("title", "error"),
    [
        ("PAPPER", "there is no dialect 'PAPPER'"),
        ("PAPER with rms_eps", "'rms_eps' are no changes; expected some such as rms_eps=1e-6"),
        ("PAPER with rms_eps=", "are no changes"),
        ("PAPER with rms_eps=1 +", "are no changes"),
        ("PAPER with rms_eps=open('/')", "is no value"),
        ("PAPER with rms_epz=0.0", "rms_epz"),
        ("PAPER with pre='none'", "pre"),
    ],
)
def test_a_title_that_names_no_dialect_is_refused(title: str, error: str) -> None:
    with pytest.raises((LookupError, ValueError), match=error):
        titled(title)


def test_a_title_says_what_is_changed() -> None:
    assert titled("PAPER with rms_eps=0.0, pre='softmax'") == PRESETS["PAPER"].with_(rms_eps=0.0, pre="softmax")
    titles = [elsewhere("DEEPSEEK_V4", Random(seed)) for seed in range(40)]
    assert all(title.startswith("DEEPSEEK_V4 with ") for title in titles)
    assert not any(titled(title) == PRESETS["DEEPSEEK_V4"] for title in titles)
