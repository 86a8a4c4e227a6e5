"""Numbers that pages quote are those of the files that commands have written."""

from __future__ import annotations

import json
import shlex
from collections import defaultdict
from pathlib import Path
from typing import Any

from properties.report import standing

DOCS = Path(__file__).parents[1] / "docs"


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
