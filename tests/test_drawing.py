"""`mhc-properties report --svg`: a counterexample as a picture of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from properties import cli
from properties.report.page.drawing import drawing
from properties.report.report import ReportError

SVG = "{http://www.w3.org/2000/svg}"


def failure(got: Any, exact: Any, *, index: tuple[int, ...] = (0, 0, 0), start: tuple[int, ...] = (0, 0, 0)) -> Any:
    picture = {"shape": [1, 2, 2], "start": list(start), "index": list(index), "got": got, "exact": exact}
    numbers = {
        "found": "h_res",
        "where": "[0, 0, 0]",
        "against": "exact",
        "ratio": 262144.0,
        "error": 0.5,
        "bound": 2e-6,
    }
    return {**numbers, "picture": picture}


def report(**laws: Any) -> dict[str, Any]:
    entries = {
        id.replace("_", "."): {
            "status": "failed",
            "counterexample": f"{id}.safetensors",
            "example": ["h_res at [0, 0, 0]: 1 where 0.5 belongs", f"replay: mhc-properties replay {id}"],
            "failure": one,
        }
        for id, one in laws.items()
    }
    return {"causes": [], "runs": [{"implementation": "<mine>", "dtype": "float32", "laws": entries}]}


def texts(svg: bytes) -> list[str]:
    return [one.text or "" for one in ElementTree.fromstring(svg).iter(f"{SVG}text")]


ONES, HALVES = [[1.0, 1.0], [1.0, 1.0]], [[0.5, 0.5], [0.5, 0.5]]


def test_a_picture_has_what_came_what_belongs_there_and_the_difference() -> None:
    said = texts(drawing(report(manifold_sums=failure(ONES, HALVES))))
    assert said[0] == "<mine> breaks manifold.sums in float32"
    assert [one for one in said if one in ("what it gives", "what belongs there", "the difference")] == [
        *("what it gives", "what belongs there", "the difference")
    ]
    assert [said.count(number) for number in ("1", "0.5")] == [4, 8]
    assert said[-2:] == ["h_res at [0, 0, 0]: 1 where 0.5 belongs", "error / bound: 2.62e5"]


def test_the_worst_entry_has_a_frame_in_every_matrix() -> None:
    tree = ElementTree.fromstring(drawing(report(a_b=failure(ONES, HALVES, index=(3, 5, 6), start=(3, 4, 6)))))
    framed = [one for one in tree.iter(f"{SVG}rect") if one.get("stroke") == "#1c2330"]
    assert len(framed) == 3
    assert len({one.get("y") for one in framed}) == 1
    others = {one.get("y") for one in tree.iter(f"{SVG}rect") if one.get("rx") == "4"}
    assert framed[0].get("y") == max(others, key=lambda y: float(y or 0))


def test_numbers_that_json_has_no_word_for_and_zeros_that_are_left_out_are_drawn() -> None:
    sparse = {"rows": 2, "columns": 2, "entries": [[0, 1, "nan"]]}
    said = texts(drawing(report(a_b=failure(sparse, HALVES))))
    assert said.count("0") == 3
    assert said.count("nan") == 2
    assert said.count("-0.5") == 3


def test_a_law_is_chosen_by_how_its_id_begins_and_the_first_cause_otherwise() -> None:
    two = report(block_first=failure(ONES, HALVES), manifold_sums=failure(HALVES, ONES))
    assert "manifold.sums" in texts(drawing(two, "manifold"))[0]
    assert "block.first" in texts(drawing(two))[0]
    two["causes"] = [{"counterexample": "manifold_sums.safetensors"}]
    assert "manifold.sums" in texts(drawing(two))[0]


def test_where_nothing_can_be_drawn_the_laws_that_can_are_named() -> None:
    large = failure([[0.0] * 9], [[1.0] * 9])
    with pytest.raises(ReportError, match=r"begins with block has a matrix .* those that have one: manifold\.sums"):
        drawing(report(block_first=large, manifold_sums=failure(ONES, HALVES)), "block")
    with pytest.raises(ReportError, match="those that have one: none"):
        drawing(report(block_first=None))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--law", "manifold"], "expected --svg FILE beside it"),
        (["a", "b", "--svg", "x.svg"], "expected one report.json or its folder"),
        (["rows.jsonl", "--svg", "x.svg"], "expected one report.json or its folder"),
    ],
)
def test_what_cannot_be_meant_is_refused(words: list[str], why: str, tmp_path: Path) -> None:
    said = CliRunner().invoke(cli.app, ["report", *words, "--json"])
    assert said.exit_code == 2
    assert why in json.loads(said.output.splitlines()[-1])["error"]
