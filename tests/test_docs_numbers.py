"""Numbers that pages and sources quote: those of files that commands wrote, and of the version that is pinned."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any

from mhc_ref.presets import SOURCES
from properties.report import standing

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def numbers_of(run: dict[str, Any]) -> tuple[str, str]:
    """The share of the wrong mutants that were seen, and how many were missed, as a page says them."""
    wrong = run["killed"] + run["survived"]
    return f"{run['killed'] / wrong:.1%}".replace("%", " %"), f"{run['survived']} of {wrong}"


def test_the_page_about_trust_says_what_the_last_run_of_the_adversary_missed() -> None:
    label, run = list(json.loads((DOCS / "adversary.json").read_bytes())["runs"].items())[-1]
    text = " ".join((DOCS / "how-far-to-trust.md").read_text("utf-8").split())
    for said in numbers_of(run):
        assert said in text, f"how-far-to-trust.md does not say {said!r}, which is of the run {label!r}"
    command = next(line for line in (DOCS / "adversary.md").read_text("utf-8").splitlines() if line[:4] == "    ")
    assert shlex.split(command)[-2:] == ["--label", label]
    assert f"`{command.strip()}`" in text


def test_the_page_of_the_conformance_says_how_many_laws_each_entry_was_tried_with() -> None:
    groups: dict[tuple[tuple[int, ...], int], list[str]] = defaultdict(list)
    for entry in standing.read(DOCS / "conformance.json"):
        release = tuple(map(int, entry["versions"]["mhc-properties"].split(".")))
        totals = (sum(sum(counts.values()) for counts in run["families"].values()) for run in entry["runs"])
        laws = max(totals, default=0)
        groups[release, laws].append(entry["name"])
    rows = [
        f"| {'.'.join(map(str, release))} | {laws} | {len(names)} | {', '.join(names)} |"
        for (release, laws), names in sorted(groups.items())
    ]
    text = (DOCS / "conformance.md").read_text("utf-8")
    assert "\n".join(["|---|---|---|---|", *rows, ""]) in text, "\n".join(["conformance.md needs these rows:", *rows])


def test_what_was_read_in_transformers_was_read_in_the_version_that_is_pinned() -> None:
    """Findings may be about another version: they are of the one in which they were found."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    pinned = extras["transformers"][0].removeprefix("transformers==")
    texts = {f"preset {name}": text for name, text in SOURCES.items()}
    for place in (
        "properties/families",
        "properties/catalogue",
        "properties/explosion",
        "properties/targets/published",
    ):
        texts |= {str(path): path.read_text("utf-8") for path in (ROOT / place).rglob("*.py")}
    texts |= {page: (DOCS / page).read_text("utf-8") for page in ("models.md", "monitor.md")}
    named = [
        (where, found)
        for where, text in texts.items()
        for found in re.findall(r"(?<![-\w])transformers (\d+\.\d+(?:\.\d+)?)", text)
    ]
    assert len(named) > 10
    assert [(where, found) for where, found in named if not f"{pinned}.".startswith(f"{found}.")] == []
