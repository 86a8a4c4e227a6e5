"""The page of a report in a real browser: what is seen, and what keys, addresses and files that are dropped do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import serious
from playwright.sync_api import Browser, Page
from test_report_page import CAUSE, lines

from properties.report.page.render import Shown, page
from properties.report.report import made


def report(name: str = "Mine", ratio: float = 0.25) -> dict[str, Any]:
    return made(lines(name, ratio), 4, {"torch": "2.13.0"}, causes=[CAUSE])


class Seen:
    """A page that is open, and what its console has said."""

    def __init__(self, page: Page, path: Path) -> None:
        self.page, self.path, self.said = page, path, list[str]()
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda asked: self.said.append(asked.url) if asked.url.startswith("http") else None)

    def open(self, address: str = "") -> Page:
        self.page.goto("about:blank")
        self.page.goto(f"{self.path.as_uri()}{address}")
        return self.page


@pytest.fixture
def seen(browser: Browser, tmp_path: Path) -> Iterator[Seen]:
    path = tmp_path / "report.html"
    path.write_bytes(page([Shown("run", report())]))
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    opened = Seen(context.new_page(), path)
    opened.open()
    yield opened
    context.close()
    assert opened.said == []  # no error, and nothing was fetched


def test_the_first_screen_has_verdict_denominator_and_cause_with_its_numbers(seen: Seen) -> None:
    text = seen.page.inner_text("main")
    assert "1 failure from 1 cause" in text
    assert "3 of 4 laws exercised, 1 not applicable, 0 silently absent." in text
    assert "h_res is applied transposed (36 <= T <= 64)" in text
    maps = seen.page.locator("#causes .map")
    assert [maps.nth(k).locator("caption").inner_text() for k in range(4)] == [
        "got",
        "exact",
        "difference",
        "allowed by rounding",
    ]
    assert maps.nth(0).locator("td").all_inner_texts() == ["1", "2", "3", "nan"]
    assert maps.nth(0).locator("td.worst").inner_text() == "nan"
    box = maps.nth(0).bounding_box()
    assert box is not None
    assert box["y"] + box["height"] < 900
    assert "mhc-properties replay x.safetensors --impl mine.py:Mine" in text


def test_the_cause_of_most_failures_comes_first(browser: Browser, tmp_path: Path) -> None:
    path, found = tmp_path / "report.html", report()
    (cause,) = found["causes"]
    causes = [cause | {"id": f"c{laws}", "laws": laws, "summary": f"cause of {laws}"} for laws in (2, 17, 1)]
    path.write_bytes(page([Shown("run", found | {"causes": causes})]))
    opened = browser.new_page()
    opened.goto(path.as_uri())
    shown = opened.locator("#causes h3").all_inner_texts()
    opened.close()
    assert [text.split(" (")[0] for text in shown] == ["cause of 17", "cause of 2", "cause of 1"]


def test_a_cell_opens_its_law_and_escape_goes_back_to_it(seen: Seen) -> None:
    address = "#manifold.last-axis-sums/Mine/float32"
    seen.page.click("#overview button.cell.failed")
    dialog = seen.page.locator("dialog")
    dialog.wait_for()
    assert "failed in float32 on Mine" in dialog.inner_text()
    assert seen.page.evaluate("location.hash") == address
    seen.page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    seen.page.wait_for_url(lambda url: "#" not in url)
    assert seen.page.evaluate("document.activeElement.dataset.address") == address


def test_a_law_shows_what_it_says_its_ratios_and_the_sizes_that_failed(seen: Seen) -> None:
    text = seen.open("#manifold.last-axis-sums/Mine/float32").inner_text("dialog")
    assert "What it says" in text
    assert "Why it holds" in text
    strip = seen.page.locator("dialog .strip span")
    assert strip.all_inner_texts() == ["1–3", "36–37 ×", "64 ×"]
    assert [strip.nth(k).get_attribute("class") for k in range(3)] == [None, "failed", "some"]
    assert seen.page.locator("dialog svg rect.over").count() == 1
    assert seen.page.locator("dialog svg rect.bar").count() == 2


def test_arrow_keys_walk_over_the_squares_and_enter_opens_one(seen: Seen) -> None:
    seen.page.focus("#overview button.cell")
    first = seen.page.evaluate("document.activeElement.dataset.address")
    seen.page.keyboard.press("ArrowDown")
    second = seen.page.evaluate("document.activeElement.dataset.address")
    assert first != second
    seen.page.keyboard.press("Home")
    assert seen.page.evaluate("document.activeElement.dataset.address") == first
    seen.page.keyboard.press("Enter")
    seen.page.wait_for_selector("dialog[open]")
    assert seen.page.locator("#overview button.cell[tabindex='0']").count() == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("address", "laws"),
    [
        ("#?status=failed", ["last-axis-sums"]),
        ("#?q=oracle", ["agrees-with-oracle"]),
        ("#?family=depth", ["expand-copies"]),
        ("#?q=nothing+of+the+kind", []),
        ("#?dtype=bfloat16", []),
    ],
)
def test_filters_have_an_address(seen: Seen, address: str, laws: list[str]) -> None:
    rows = seen.open(address).locator("#table tbody th[scope=row]")
    assert rows.all_inner_texts() == laws


def test_words_filter_while_they_are_typed(seen: Seen) -> None:
    seen.page.fill("[data-filter=q]", "oracle")
    assert seen.page.locator("#table tbody th[scope=row]").all_inner_texts() == ["agrees-with-oracle"]
    assert seen.page.url.endswith("#?q=oracle")
    seen.page.click("#clear")
    assert seen.page.locator("#table tbody th[scope=row]").count() == 4


def test_a_report_that_is_dropped_stands_beside_the_others(seen: Seen, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text(json.dumps(made(lines("Other", 0.25, broken=False), 4, {})))
    seen.page.set_input_files("#file", other)
    seen.page.wait_for_selector("#overview th:has-text('Other')")
    assert "other.json was added." in seen.page.inner_text("#said")
    seen.page.select_option("[data-filter=only]", "one")
    assert seen.page.locator("#table tbody th[scope=row]").all_inner_texts() == ["last-axis-sums"]
    changed = report(ratio=0.9)
    other.write_text(json.dumps(changed))
    seen.page.set_input_files("#file", other)
    seen.page.wait_for_selector("#overview th:has-text('run: Mine')")
    seen.page.select_option("[data-filter=only]", "changed")
    assert seen.page.locator("#table tbody th[scope=row]").all_inner_texts() == ["agrees-with-oracle"]


@pytest.mark.parametrize(
    "text", ["not json", "[]", '{"runs": 3}', '{"schema": 99, "runs": []}', '{"runs": [{}], "totals": {}}']
)
def test_what_is_no_report_is_refused_in_words(seen: Seen, tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.json").write_text(text)
    seen.page.set_input_files("#file", tmp_path / "bad.json")
    # What waits for a function evaluates text in the page, which the page forbids.
    seen.page.locator("#said", has_text="bad.json is no report of a run").wait_for()
    assert "1 failure from 1 cause" in seen.page.inner_text("#verdict")


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ({"causes": 5}, "is no report of a run"),
        ({"causes": [None]}, "is no report of a run"),
        (
            {"runs": [{"implementation": "a", "dtype": "b", "laws": {"a.b": {"status": "?"}}}]},
            "its law a.b has no status",
        ),
    ],
)
def test_a_report_that_cannot_be_drawn_is_left_out_and_the_others_stay(
    seen: Seen, tmp_path: Path, odd: dict[str, Any], words: str
) -> None:
    cells = seen.page.locator("#overview button.cell").count()
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(report() | odd, default=vars))
    seen.page.set_input_files("input[type=file]", str(path))
    seen.page.get_by_text(words).wait_for()
    assert seen.page.locator("#overview button.cell").count() == cells
    assert "cause" in seen.page.inner_text("#causes")


def test_a_law_whose_entry_cannot_be_shown_says_so(seen: Seen, tmp_path: Path) -> None:
    other = report("Other")
    other["runs"][0]["laws"]["manifold.last-axis-sums"]["visited"] = {"tokens": 5}
    path = tmp_path / "other.json"
    path.write_text(json.dumps(other, default=vars))
    seen.page.set_input_files("input[type=file]", str(path))
    seen.page.get_by_text("other.json was added").wait_for()
    seen.page.evaluate("location.hash = '#manifold.last-axis-sums/Other/float32'")
    seen.page.get_by_text("cannot be shown").wait_for()
    assert seen.page.locator("dialog").is_hidden()


def test_nothing_that_a_report_says_is_markup(browser: Browser, tmp_path: Path) -> None:
    evil = '<img src=x onerror="document.title=1">'
    found = report(f"{evil}</script>")
    path = tmp_path / "evil.html"
    path.write_bytes(page([Shown(evil, found)]))
    opened = browser.new_page()
    opened.goto(path.as_uri())
    assert opened.locator("img").count() == 0
    assert evil in opened.inner_text("h1")
    assert opened.title().startswith(evil)
    opened.close()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_axe_finds_nothing_serious(browser: Browser, tmp_path: Path, scheme: Any, width: int) -> None:
    path = tmp_path / "report.html"
    path.write_bytes(page([Shown("run", report())]))
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    opened = context.new_page()
    for address in ("", "#manifold.last-axis-sums/Mine/float32"):
        opened.goto("about:blank")
        opened.goto(path.as_uri() + address)
        assert serious(opened, moderate=True) == []
        assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
    context.close()
