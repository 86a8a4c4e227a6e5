"""Pages of figures: explosions, atlases and the rows of a monitor, without a script and without matplotlib."""

from __future__ import annotations

import json
import math
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from typer import Typer
from typer.testing import CliRunner

from properties.commands.report import report as command
from properties.explosion import Monitor, atlas, draw, find_minimal
from properties.explosion.pictures.atlas import draw_atlas
from properties.explosion.pictures.watching import RowsError, rows_in, rows_page
from properties.report.page.figures import Chart, Field, Heat, Heats, Section, Table, Words, colours, figures, short


def text_of(data: bytes) -> str:
    """What a reader sees of a page."""
    body = data.decode().partition("</style>")[2]
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


def test_every_kind_of_part_is_drawn_and_nothing_is_markup() -> None:
    evil = "<b>x</b>"
    parts = [
        Words(evil),
        Heats([Heat(evil, [[1.0, -2.0], [0.0, math.nan]])]),
        Table(evil, ("a", "b"), [(evil, "1")]),
        Chart(evil, "x", "y", {evil: [(0, 1), (1, 10)]}, {"p": [(1, 5)]}, level=2.0),
        Field(evil, [[1.0, None], [1e3, math.inf]], ["r0", evil], ["s0", "s1"]),
    ]
    data = figures(evil, [Section(evil, parts)])
    assert b"<b>" not in data
    assert data.count(b"<td style=") == 4
    assert b"#7a1fa2" in data  # what is no finite number has a colour of its own
    assert data.count(b"<polyline") == 1
    assert data.count(b"<circle") == 1
    assert data.count(b"<rect") == 3  # nothing is drawn where nothing is known
    assert not re.findall(rb"""(?:src|href)=["'](?!data:|#)""", data)
    assert b"<script" not in data


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (1.25, "1.25"), (123456.0, "1.23e5"), (1e-9, "1.00e-9"), (math.inf, "inf"), (-2.0, "-2")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert short(value) == text


def test_colours_tell_signs_and_sizes_apart_and_can_be_read() -> None:
    assert colours(0.0, 1.0) == ("#ffffff", "#000000")
    assert colours(1.0, 1.0)[0] != colours(-1.0, 1.0)[0] != colours(-0.5, 1.0)[0]
    for part in range(-20, 21):
        assert contrast(*colours(part / 20, 1.0)) >= 4.5


def contrast(back: str, front: str) -> float:
    """The contrast of two colours by WCAG 2.2, 1.4.3."""

    def light(colour: str) -> float:
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in parts]
        return sum(weight * one for weight, one in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    high, low = sorted((light(back), light(front)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_a_field_of_many_steps_shows_the_largest_of_neighbours() -> None:
    numbers: list[list[float | None]] = [[1.0] * 999]
    numbers[0][500] = 1e6
    cells = list(Field("f", numbers, ["layer"], [str(k) for k in range(999)]).drawn())
    assert len(cells) <= 240
    assert len({colour for *_, colour, _ in cells}) == 2


def test_an_explosion_is_a_page_with_its_matrices_and_the_growing_streams(tmp_path: Path) -> None:
    found = find_minimal("hc", 12, entry_bound="1.25", max_streams=3)
    draw(found, tmp_path / "x.html")
    data = (tmp_path / "x.html").read_bytes()
    text = text_of(data)
    assert "hc: forward gain 12 at depth 2, 3 streams" in text
    assert "The size is proved" in text
    assert all(f"sub-layer {layer}: A" in text for layer in (1, 2))
    assert data.count(b"<table class=") == 2 * 3 + 1
    assert data.count(b"<polyline") == 2  # the stack and its bound


def test_an_explosion_of_one_block_and_a_deep_one_are_pages(tmp_path: Path) -> None:
    draw(find_minimal("block:gated", 100, max_streams=1), tmp_path / "a.html")
    draw(find_minimal("residual", 20, branch_bound="0.1"), tmp_path / "b.html")
    assert "this stack" in text_of((tmp_path / "a.html").read_bytes())
    assert "sub-layers 1 to 3" in text_of((tmp_path / "b.html").read_bytes())
    assert (tmp_path / "b.html").stat().st_size < 100_000


def test_an_atlas_is_a_page_with_every_point(tmp_path: Path) -> None:
    found = atlas(10, deviations=["1"], max_streams=1, budget=60)
    draw_atlas(found, tmp_path / "x.html")
    text = text_of((tmp_path / "x.html").read_bytes())
    assert "Every search found the depth of the closed form." in text
    assert found.threshold == Fraction(10)
    assert text.count("hc near identity, n = 1") >= 2


def rows(path: Path, bound: float) -> list[dict[str, Any]]:
    """Two passes of three layers, of which the second grows."""
    with Monitor(path=path, bound=bound) as monitor:
        for _ in range(2):
            for gain in (1.0, 4.0, 1.0):
                monitor.record(gain * torch.eye(2).expand(2, 2, 2), torch.ones(2, 2, 3))
            monitor.flush()
    return rows_in(path)


def test_the_rows_of_a_monitor_are_fields_of_layers_by_steps(tmp_path: Path) -> None:
    found = rows(tmp_path / "gains.jsonl", bound=2.0)
    data = rows_page(found, "gains")
    text = text_of(data)
    assert f"3 layers in {len({row['step'] for row in found})} passes of 1 run." in text
    assert "What left its bounds" in text or "left its bounds in a way that was new" in text
    assert "explode" in text
    assert "Forward gain of the product up to the layer" in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no rows"),
        ("hello\n", "line 1"),
        ('{"step": 1}\n', "line 1"),
        ('{"step": 0, "layer": 0, "forward_gain": 1, "schema": 99}\n', "of a later version"),
    ],
)
def test_what_has_no_rows_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(RowsError, match=said):
        rows_in(tmp_path / "x.jsonl")


def test_a_torn_last_line_is_passed_over(tmp_path: Path) -> None:
    row = json.dumps({"step": 0, "layer": 0, "forward_gain": 1.0})
    (tmp_path / "x.jsonl").write_text(f"{row}\n{row[:9]}")
    assert len(rows_in(tmp_path / "x.jsonl")) == 1


app = Typer()
app.command()(command)


def test_the_command_draws_rows_and_refuses_two_kinds_at_once(tmp_path: Path) -> None:
    rows(tmp_path / "gains.jsonl", bound=2.0)
    out = tmp_path / "x.html"
    done = CliRunner().invoke(app, [str(tmp_path / "gains.jsonl"), "--html", str(out), "--json"])
    assert (done.exit_code, json.loads(done.stdout)["reports"]) == (0, ["gains"])
    done = CliRunner().invoke(app, [str(tmp_path / "gains.jsonl"), str(tmp_path), "--html", str(out), "--json"])
    assert done.exit_code == 2
    assert "one .jsonl alone" in json.loads(done.stdout)["error"]
