"""The page of a report: what goes into it, how large it is, and what the command answers."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer import Typer
from typer.testing import CliRunner

from mhc_ref import PAPER, Params
from properties.commands.report import report as command
from properties.core.case import BranchSpec, Case
from properties.core.judging import Judge, LawBroken
from properties.core.picture import LEAST, MOST, WINDOW, Picture, Window, bin_of, sparse
from properties.engine.picturing import failure
from properties.report.cause import Cause
from properties.report.page.render import Shown, page
from properties.report.report import Line, made, read, write

CAUSE = Cause("Mine: transposed", "Mine", "h_res is applied transposed", None, "post", where="36 <= T <= 64")
FAILURE = {
    "found": "a row sum", "where": "[1, 1]", "got": "nan", "exact": "4", "against": "exact", "kind": "nan",
    "error": None, "bound": 1e-7, "ratio": None, "gap": 0.0,
    "picture": {"shape": [2, 2], "start": [0, 0], "index": [1, 1],
                "got": [[1, 2], [3, "nan"]], "exact": [[1, 2], [3, 4]],
                "error": {"rows": 2, "columns": 2, "entries": [[1, 1, "nan"]]}, "bound": [[1e-7, 1e-7], [1e-7, 1e-7]]},
    "inputs": [{"name": "x", "dtype": "float32", "shape": [1, 2], "start": [0, 0], "values": [[-1, 1]]},
               {"name": "n", "text": "2"}],
    "more_inputs": 0,
}  # fmt: skip


def lines(name: str = "Mine", ratio: float = 0.25, broken: bool = True) -> list[Line]:
    """Four laws: one holds, one is broken, one holds exactly, one does not apply."""
    said = (
        "a row sum at [1, 1]: nan where 4 belongs",
        "replay: mhc-properties replay x.safetensors --impl mine.py:Mine",
    )
    sums = Line(
        name, {}, "float32", "cpu", "manifold.last-axis-sums", "failed" if broken else "passed",
        worst_ratio=None if broken else 0.25, claims=7,
        causes=(CAUSE.key,) if broken else (), belongs=("first",) if broken else (),
        readable=1.0, example=said if broken else (), counterexample="x.safetensors" if broken else None,
        failure=FAILURE if broken else None, nearness={"a row sum": [[LEAST, 3], [-1, 9], [3, 1]]},
        visited={"tokens": [[1, 2, 0], [2, 2, 0], [3, 2, 0], [36, 2, 2], [37, 1, 1], [64, 2, 1]]},
    )  # fmt: skip
    return [
        Line(name, {}, "float32", "cpu", "block.agrees-with-oracle", "passed", worst_ratio=ratio, examples=9, claims=4),
        sums,
        Line(name, {}, "float32", "cpu", "depth.expand-copies", "passed", worst_ratio=0.0, examples=9, claims=4),
        Line(name, {}, "float32", "cpu", "mixing.head-reads-streams", "not-applicable", "does not offer collapse"),
    ]


def test_a_window_is_around_the_place_and_no_larger_than_can_be_looked_at() -> None:
    numbers = torch.arange(3 * 40 * 20.0).view(3, 40, 20)
    picture = Picture.of((1, 30, 19), numbers, numbers + 1, torch.ones(3, 40, 20), torch.full((3, 40, 20), 0.5))
    assert picture.window == Window((3, 40, 20), (1, 22, 4), WINDOW, WINDOW)
    assert picture.got[30 - 22][19 - 4] == numbers[1, 30, 19].item()
    assert picture.exact[0][0] == numbers[1, 22, 4].item() + 1


@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (1, 1, 1, 7)])
def test_a_window_of_any_shape_has_two_axes(shape: tuple[int, ...]) -> None:
    ones = torch.ones(shape)
    picture = Picture.of((0,) * len(shape), ones, ones, ones, torch.full(shape, torch.inf))
    assert len(picture.got[0]) == (shape[-1] if shape else 1)
    assert picture.bound[0][0] == "inf"
    json.dumps(picture.to_json(), allow_nan=False)


def test_mostly_zeros_are_their_entries() -> None:
    assert sparse([[0.0, 0.0, 2.0, 0.0]]) == {"rows": 1, "columns": 4, "entries": [[0, 2, 2.0]]}
    assert sparse([[1.0, 0.0]]) == [[1.0, 0.0]]


@pytest.mark.parametrize(
    ("ratio", "bin"),
    [(0.0, LEAST), (1.0, 0), (0.999, -1), (0.3, -2), (float("inf"), MOST), (float("nan"), LEAST), (1e-300, LEAST)],
)
def test_ratios_are_counted_by_half_decades(ratio: float, bin: int) -> None:
    assert bin_of(ratio) == bin


def test_a_broken_claim_has_its_numbers_and_every_claim_its_nearness() -> None:
    judge, exact = Judge(), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    judge.within("h_res", exact, exact, torch.full((2, 2), 0.5))
    with pytest.raises(LawBroken) as raised:
        judge.within("h_res", exact.mT, exact, torch.full((2, 2), 0.5))
    picture = raised.value.picture
    assert picture is not None
    assert (picture.got, picture.exact, picture.index) == ([[1, 3], [2, 4]], [[1, 2], [3, 4]], (0, 1))
    assert judge.nearness == {"h_res": {LEAST: 1, bin_of(2.0): 1}}


def test_a_failure_is_plain_data_with_every_input() -> None:
    params = Params(torch.zeros(4, 8), torch.zeros(8), torch.ones(3))
    case = Case(
        x=torch.eye(2), params=(params,), branch=BranchSpec("scale", torch.ones(2)), dialect=PAPER, n=2, order=(1, 0)
    )
    found = failure(case, LawBroken("a fact", ratio=float("inf"), got="no", exact="yes", against="wanted"))
    json.dumps(found, allow_nan=False)
    names = [one["name"] for one in found["inputs"]]
    assert names == [
        "x",
        "params[0].phi",
        "params[0].bias",
        "params[0].alpha",
        "branch (scale)",
        "dialect",
        "n",
        "order",
    ]
    assert found["inputs"][1]["values"] == {"rows": 4, "columns": 8, "entries": []}
    assert (found["ratio"], found["picture"]) == (None, None)


def embedded(data: bytes) -> dict[str, Any]:
    """The data of a page."""
    found = re.search(rb'<script type="application/json" id="data">(.*?)</script>', data, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_a_page_has_all_of_the_report_and_fetches_nothing() -> None:
    report = made(lines(), 4, {"torch": "2"}, causes=[CAUSE])
    data = page([Shown("run", report)])
    assert embedded(data)["reports"] == [{"name": "run", "report": json.loads(json.dumps(report))}]
    text = data.decode()
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", text)
    assert "default-src 'none'" in text
    assert "<h1>Mine</h1>" in text


def test_counterexamples_come_from_beside_the_report_and_from_nowhere_else(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "counterexamples").mkdir(parents=True)
    (folder / "counterexamples" / "x.safetensors").write_bytes(b"small")
    (tmp_path / "secret.safetensors").write_bytes(b"secret")
    report = made(lines(), 4, {}, causes=[CAUSE])
    assert embedded(page([Shown("run", report, folder)]))["files"] == {"x.safetensors": "c21hbGw="}
    for evil in ("../../secret.safetensors", str(tmp_path / "secret.safetensors"), "/etc/hostname", ""):
        report["causes"][0]["counterexample"] = evil
        report["runs"][0]["laws"]["manifold.last-axis-sums"]["counterexample"] = evil
        assert embedded(page([Shown("run", report, folder)]))["files"] == {}


@pytest.mark.slow
def test_a_page_of_very_many_failures_leaves_the_largest_pictures_out_and_says_so() -> None:
    large = {**FAILURE, "inputs": [{"name": "x", "dtype": "float32", "shape": [16, 16], "start": [0, 0],
             "values": [[0.123456789] * 16] * 16}] * 6}  # fmt: skip
    many = [
        replace(lines()[1], law=f"manifold.law-{k}", failure=large, counterexample=f"{k}.st", causes=())
        for k in range(200)
    ]
    report = made([*lines(), *many], 204, {}, causes=[CAUSE])
    assert len(json.dumps(report)) > 3_000_000
    data = page([Shown("run", report)])
    assert len(data) < 1 << 20
    laws = embedded(data)["reports"][0]["report"]["runs"][0]["laws"]
    assert laws["manifold.last-axis-sums"]["failure"] == FAILURE  # a cause shows it
    left = [law["failure"].get("left_out") for id, law in laws.items() if "law-" in id]
    assert {"inputs"} <= {part for parts in left for part in parts or ()}
    assert page([Shown("run", report)]) == data


def test_a_page_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="one report at least"):
        page([])


@pytest.mark.parametrize("old", [1, 2, 3])
def test_a_report_of_an_older_form_is_drawn(tmp_path: Path, old: int) -> None:
    report: dict[str, Any] = {**made(lines(), 4, {}, causes=[CAUSE]), "schema": old}
    for entry in report["runs"][0]["laws"].values():
        for name in ("failure", "visited", "nearness", "causes", "belongs"):
            entry.pop(name, None)
    report.pop("laws")
    if old < 3:
        report.pop("causes")
    if old < 2:
        report.pop("schema")
        report.pop("complete")
    (tmp_path / "report.json").write_text(json.dumps(report))
    assert b"<h1>Mine</h1>" in page([Shown("old", read(tmp_path / "report.json"))])


app = Typer()
app.command()(command)


def test_the_command_names_reports_by_what_tells_them_apart(tmp_path: Path) -> None:
    for name in ("a/old", "a/new"):
        (tmp_path / name).mkdir(parents=True)
        write(tmp_path / name / "report.json", lines(), 4, {}, causes=[CAUSE])
    out = tmp_path / "both.html"
    words = [str(tmp_path / "a/old"), str(tmp_path / "a/new/report.json"), "--html", str(out), "--json"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"html": str(out), "bytes": out.stat().st_size, "reports": ["old", "new"]}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("missing", "there is no file"),
        ("text", "is no report of a run"),
        ("later", "of a later version"),
        ("infinite", "expected finite numbers"),
        ("too-large", "expected finite numbers"),
    ],
)
def test_what_is_no_report_is_refused(tmp_path: Path, given: str, said: str) -> None:
    (tmp_path / "text").write_text("hello")
    (tmp_path / "infinite").write_text(json.dumps({**made(lines(), 4, {}), "seconds": math.inf}))
    (tmp_path / "too-large").write_text('{"seconds": 1e999, ' + json.dumps(made(lines(), 4, {}))[1:])
    (tmp_path / "later").write_text(json.dumps({**made(lines(), 4, {}), "schema": 99}))
    result = CliRunner().invoke(app, [str(tmp_path / given), "--html", str(tmp_path / "x.html"), "--json"])
    assert result.exit_code == 2
    assert said in json.loads(result.stdout)["error"]
    assert not (tmp_path / "x.html").exists()


def test_half_a_character_in_a_report_is_shown_as_none(tmp_path: Path) -> None:
    found = made(lines(), 4, {})
    found["totals"]["sentence"] = "half \ud800 of one"
    (tmp_path / "report.json").write_text(json.dumps(found))
    out = tmp_path / "x.html"
    result = CliRunner().invoke(app, [str(tmp_path), "--html", str(out)])
    assert result.exit_code == 0, result.output
    assert "half ? of one" in out.read_text("utf-8")


def test_a_page_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    write(tmp_path / "report.json", lines(), 4, {})
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(app, [str(tmp_path), "--html", str(tmp_path / "file" / "x.html"), "--json"])
    assert (result.exit_code, "could not be written" in json.loads(result.stdout)["error"]) == (2, True)
