"""Reports as a table of worst ratios."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from properties.commands.ratios import cell, main, table
from properties.report.report import Line, write


def line(
    law: str = "block.a",
    status: str = "passed",
    ratio: float | None = 0.25,
    dtype: str = "float32",
    device: str = "cuda",
) -> Line:
    return Line("ref:PAPER", {}, dtype, device, law, status, worst_ratio=ratio)


@pytest.mark.parametrize(
    ("one", "text"),
    [
        (line(ratio=0.99876), "0.999"),
        (line(ratio=0.0), "0"),
        (line(status="failed", ratio=None), "FAILED"),
        (line(status="error"), "ERROR"),
        (line(status="known"), "KNOWN"),
        (line(status="not-applicable"), "–"),
        (None, "not run"),
    ],
)
def test_a_cell_is_the_ratio_or_says_why_there_is_none(one: Line | None, text: str) -> None:
    assert cell(one) == text


def test_rows_are_laws_and_columns_are_runs() -> None:
    lines = [line("mixing.b", dtype="bfloat16", ratio=0.5), line(), line(dtype="float64"), line(dtype="bfloat16")]
    assert table(lines) == [
        "| law | ref:PAPER float64 | ref:PAPER float32 | ref:PAPER bfloat16 |",
        "|---|---|---|---|",
        "| block.a | 0.25 | 0.25 | 0.25 |",
        "| mixing.b | not run | not run | 0.5 |",
    ]


def test_the_device_is_named_where_there_are_two() -> None:
    assert table([line(), line(device="cpu")])[0] == "| law | ref:PAPER float32 cpu | ref:PAPER float32 cuda |"


@pytest.mark.parametrize(
    ("first", "second", "text"),
    [
        (line(status="not-applicable"), line(ratio=0.5), "0.5"),
        (line(ratio=0.5), line(ratio=0.75), "0.75"),
        (line(ratio=0.5), line(status="failed", ratio=None), "FAILED"),
        (line(status="failed", ratio=2.0), line(ratio=0.5), "FAILED"),
    ],
)
def test_of_two_reports_the_one_that_says_more_counts(first: Line, second: Line, text: str) -> None:
    for lines in ([first, second], [second, first]):
        assert table(lines)[2] == f"| block.a | {text} |"


COMMAND = Typer()
COMMAND.command()(main)


def test_reports_are_read_and_anything_else_is_refused(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    write(report, [line()], 1, {})
    found = CliRunner().invoke(COMMAND, [str(report)])
    assert found.exit_code == 0, found.output
    assert "| block.a | 0.25 |" in found.output
    (tmp_path / "other.json").write_text(json.dumps({"runs": [{"laws": 3}]}))
    for name, text in (("none.json", "there is no file"), ("other.json", "is no report of a run")):
        refused = CliRunner(env={"COLUMNS": "300"}).invoke(COMMAND, [str(tmp_path / name)])
        assert refused.exit_code == 2
        assert text in refused.output
