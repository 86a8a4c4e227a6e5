"""The table of implementations as data: entries, their form, and what a report is worth as an entry or a badge."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from jsonschema import Draft202012Validator
from test_report_page import CAUSE, lines
from typer import Typer
from typer.testing import CliRunner

from mhc_ref import DEEPSEEK_V4, PAPER
from properties import cli
from properties.commands import conformance_table
from properties.commands.conformance_table import Run
from properties.commands.report import report as command
from properties.core.law import FAMILIES, all_laws
from properties.report import badge, standing
from properties.report.report import Line, Unreached, made
from properties.targets.published import ADAPTERS

ROOT = Path(__file__).parents[1]
SCHEMA = json.loads((ROOT / "docs" / "conformance.schema.json").read_text())
ELSEWHERE = sorted((ROOT / "docs" / "reports").glob("*.json"))
FORM = Draft202012Validator(SCHEMA)
WHERE = "https://example.org/mine"


def told(name: str = "Mine", **more: Any) -> dict[str, Any]:
    """The entry of the four lines of `lines`, one of which fails."""
    found = lines(name, **more)
    return standing.standing(name, found, made="2026-01-02", command="make it", versions={"torch": "2"}, where=WHERE)


@pytest.mark.parametrize("path", [ROOT / "docs" / "conformance.json", *ELSEWHERE], ids=lambda path: path.name)
def test_a_file_of_entries_is_as_its_schema_says(path: Path) -> None:
    Draft202012Validator.check_schema(SCHEMA)
    FORM.validate(json.loads(path.read_text()))
    for entry in standing.read(path):
        for run in entry["runs"]:
            assert set(run["families"]) <= set(FAMILIES)
            failed = sum(counts["failed"] + counts["error"] for counts in run["families"].values())
            assert failed == len(run["failed"]), entry["name"]
            passed = sum(counts["passed"] for counts in run["families"].values())
            assert passed == len(run.get("held", range(passed))), entry["name"]
        left_out = sum(counts["not-applicable"] for run in entry["runs"] for counts in run["families"].values())
        assert left_out == sum(entry["not_applicable"].values()), entry["name"]


def test_a_report_that_was_made_elsewhere_says_where_its_source_lies() -> None:
    assert [path.name for path in ELSEWHERE for entry in standing.read(path) if "where" not in entry] == []


def test_every_entry_is_of_an_adapter_and_every_failure_of_a_law_with_its_file() -> None:
    for entry in standing.read(ROOT / "docs" / "conformance.json"):
        assert entry["name"] in ADAPTERS
        for run in entry["runs"]:
            for one in run["failed"]:
                assert one["law"] in all_laws()
                assert "counterexample" not in one or (ROOT / one["counterexample"]).is_file()
                assert "link" not in one or (ROOT / one["link"].partition("#")[0]).is_file()


def test_an_entry_counts_by_family_and_says_what_failed() -> None:
    entry = told()
    FORM.validate({"schema": 1, "implementations": [entry]})
    run = entry["runs"][0]
    assert run["families"]["manifold"] == {"passed": 0, "failed": 1, "error": 0, "not-applicable": 0}
    assert run["families"]["mixing"] == {"passed": 0, "failed": 0, "error": 0, "not-applicable": 1}
    assert run["held"] == ["block.agrees-with-oracle", "depth.expand-copies"]
    assert [one["law"] for one in run["failed"]] == ["manifold.last-axis-sums"]
    assert run["failed"][0]["failure"]["picture"]["got"] == [[1, 2], [3, "nan"]]
    assert run["failed"][0]["explained"] is False
    assert entry["not_applicable"] == {"does not offer collapse": 1}


def test_a_failure_of_many_numbers_goes_without_them() -> None:
    found = lines()
    assert found[1].failure is not None
    wide = {"name": "y", "dtype": "float32", "shape": [999], "start": [0], "values": [[0.123] * 999]}
    found[1].failure["inputs"] = [wide] * 3
    entry = standing.standing("Mine", found, made="2026-01-02", command="c", versions={})
    assert entry["runs"][0]["failed"][0]["failure"]["inputs"] == []
    assert entry["runs"][0]["failed"][0]["failure"]["picture"] is not None


def test_a_new_entry_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    standing.write(path, [told("a"), told("b")])
    standing.write(path, standing.merged(standing.read(path), [told("c"), told("a", broken=False)]))
    found = standing.read(path)
    assert [entry["name"] for entry in found] == ["a", "b", "c"]
    assert [len(entry["runs"][0]["failed"]) for entry in found] == [0, 1, 1]
    assert len(path.read_text().splitlines()) == 5  # one entry a line


@pytest.mark.parametrize("text", ["not json", "[]", '{"schema": 2, "implementations": []}', '{"schema": 1}'])
def test_what_is_no_table_is_refused_in_words(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(standing.StandingError, match=r"x\.json"):
        standing.read(path)


def test_conformance_renews_the_entries_that_it_runs_and_keeps_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "table.json"
    standing.write(out, [told("fla"), told("mhc")])

    def run(name: str, report: Path, **options: object) -> Run:
        found = [Line(f"published:{name}", {}, "float32", "cpu", "manifold.last-axis-sums", "passed")]
        report.mkdir(parents=True, exist_ok=True)
        (report / "report.json").write_text(json.dumps(made(found, len(found), {})))
        return Run(name, tuple(found))

    monkeypatch.setattr(conformance_table, "run", run)
    arguments = [
        "conformance",
        "mhc",
        "mlx-lm",
        "--out",
        str(out),
        "--campaigns",
        str(tmp_path / "c"),
        "--engine",
        "serial",
    ]
    assert CliRunner().invoke(cli.app, arguments).exit_code == 0
    found = {entry["name"]: entry for entry in standing.read(out)}
    assert list(found) == ["fla", "mhc", "mlx-lm"]
    assert found["fla"] == told("fla")
    assert found["mhc"]["runs"][0]["held"] == ["manifold.last-axis-sums"]
    assert "mhc-properties" in found["mhc"]["versions"]
    out.write_text("[]")
    refused = CliRunner().invoke(cli.app, arguments)
    assert refused.exit_code == 2
    assert "is no table of implementations" in re.sub(r"\s+", " ", refused.output.replace("│", " "))


# -- badges -----------------------------------------------------------------------------------------------------------


def of(statuses: list[str], dialect: Any = PAPER, **more: Any) -> dict[str, Any]:
    """A report of laws with these statuses."""
    names = list(all_laws())
    found = [Line("Mine", dialect.fields(), "float32", "cpu", names[k], status) for k, status in enumerate(statuses)]
    return made(found, len(found), {}, **more)


@pytest.mark.parametrize(
    ("report", "words", "colour"),
    [
        (of(["passed"] * 3), "3 laws, dialect PAPER, 0 failures", "#2f7d4f"),
        (of(["passed"]), "1 law, dialect PAPER, 0 failures", "#2f7d4f"),
        (of(["passed", "not-applicable"], DEEPSEEK_V4), "1 law, dialect DEEPSEEK_V4, 0 failures", "#2f7d4f"),
        (of(["passed", "failed"]), "2 laws, dialect PAPER, 1 failure", "#b3261e"),
        (of(["passed", "known"]), "2 laws, dialect PAPER, 1 failure (known)", "#8a5a00"),
        (of(["failed", "known"]), "2 laws, dialect PAPER, 2 failures (1 known)", "#b3261e"),
        (of(["passed", "error"]), "1 law, dialect PAPER, 0 failures, 1 not judged", "#57606a"),
        (of(["not-applicable"]), "0 laws, dialect PAPER, 0 failures", "#57606a"),
        (of(["passed"], complete=False), "1 law, dialect PAPER, 0 failures, unfinished", "#57606a"),
        (of(["passed"], PAPER.with_(iterations=3)), "1 law, dialect PAPER with 1 other field, 0 failures", "#2f7d4f"),
    ],
)
def test_a_badge_says_what_was_tried_and_what_failed(report: dict[str, Any], words: str, colour: str) -> None:
    assert badge.words(report) == words
    drawn = badge.badge(report).decode()
    assert colour in drawn
    picture = ElementTree.fromstring(drawn)
    assert picture.get("aria-label") == f"mhc-properties: {words}"
    texts = [one for one in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert [one.text for one in texts] == ["mhc-properties", words]
    for one in texts:  # the words lie within the picture
        assert float(one.get("x", "0")) + float(one.get("textLength", "0")) < float(picture.get("width", "0"))


def test_what_was_not_reached_is_no_clean_badge() -> None:
    found = [Line("Mine", PAPER.fields(), "float32", "cpu", "manifold.last-axis-sums", "passed")]
    report = made(found, 2, {}, unreached=Unreached(("block.agrees-with-oracle",), "in 60 s"))
    assert badge.words(report).endswith("unfinished")
    assert badge.colour(report) == "#57606a"


def test_a_name_is_no_markup_in_a_badge() -> None:
    drawn = badge.drawn('a"<b>&', "#000000", left="c<d")
    assert ElementTree.fromstring(drawn.decode()).get("aria-label") == 'c<d: a"<b>&'


def test_the_command_writes_a_badge_and_an_entry_of_a_report(tmp_path: Path) -> None:
    app = Typer()
    app.command()(command)
    (tmp_path / "report.json").write_text(json.dumps(made(lines(), 4, {"torch": "2"}, causes=[CAUSE])))
    svg, entry = tmp_path / "badge.svg", tmp_path / "mine.json"
    words = [str(tmp_path), "--badge", str(svg), "--entry", str(entry), "--where", WHERE, "--json"]
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 0, said.output
    answer = json.loads(said.stdout)
    assert answer["badge"] == str(svg)
    assert answer["says"].startswith("3 laws, ")
    assert answer["says"].endswith(", 1 failure")
    assert svg.read_bytes().startswith(b"<svg")
    FORM.validate(json.loads(entry.read_text()))
    assert standing.read(entry)[0]["where"] == WHERE
    assert not (tmp_path / "report.html").exists()
    without = CliRunner().invoke(app, [str(tmp_path), "--entry", str(entry), "--json"])
    assert without.exit_code == 2
    assert "expected --where https://" in without.stdout
    several = CliRunner().invoke(app, [str(tmp_path), str(tmp_path), "--badge", str(svg), "--json"])
    assert several.exit_code == 2
