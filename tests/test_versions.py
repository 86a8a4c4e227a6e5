"""The lower bounds of pyproject.toml are the versions that continuous integration tries."""

from __future__ import annotations

import importlib
import json
import re
import tomllib
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.version import Version

import properties
from properties.campaign import folder as campaign
from properties.commands import adversary_page, kill_page, record_pages, seeds_page, sharpness
from properties.diagnosis import table
from properties.engine import known_file
from properties.explosion import monitor
from properties.explosion.monitor import history
from properties.guards import sealed
from properties.report import report, standing
from properties.targets.process import protocol

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def tried() -> dict[str, Version]:
    """The versions of .ci/lowest.txt, by package."""
    lines = (ROOT / ".ci" / "lowest.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {name: Version(version) for name, version in pairs}


def allowed() -> dict[str, Version]:
    """The lowest version that each dependency with a lower bound allows, by package."""
    extras = PROJECT["optional-dependencies"]
    found: dict[str, Version] = {}
    for text in (*PROJECT["dependencies"], *extras["test"], *extras["report"]):
        requirement = Requirement(text)
        for one in requirement.specifier:
            assert one.operator in ("==", ">="), f"{text}: only a lower bound or a pin says what was tried"
            if one.operator == ">=":
                found[requirement.name] = Version(one.version)
    return found


def test_the_lowest_versions_that_are_allowed_are_the_ones_that_are_tried() -> None:
    assert tried() == allowed()


def test_every_dependency_has_a_lower_bound() -> None:
    assert [text for text in PROJECT["dependencies"] if ">=" not in text.partition(";")[0]] == []


def test_the_workflow_tries_the_lowest_and_the_newest() -> None:
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    lowest = PROJECT["requires-python"].removeprefix(">=")
    assert "PIP_CONSTRAINT: .ci/lowest.txt" in workflow
    pythons = set(re.findall(r'"(3\.\d+)"', workflow))
    assert lowest in pythons
    assert {"3.13", "3.14"} <= pythons
    assert "macos-latest" in workflow


def test_the_version_has_a_chapter_in_the_changelog() -> None:
    chapters = re.findall(r"^## \[?([0-9.]+)\]?", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert chapters[0] == PROJECT["version"]


NUMBERS = {
    "`report.json`": report.SCHEMA,
    "counterexample (`.safetensors`)": sealed.SCHEMA,
    "explosion (`.safetensors`)": sealed.SCHEMA,
    "known failures (`.toml`)": known_file.SCHEMA,
    "rows of the monitor (`.jsonl`)": monitor.SCHEMA,
    "last passes of a monitor (`.safetensors`)": history.SCHEMA,
    "the protocol of `proc:`": protocol.VERSION,
    "manifest and answers of a campaign (`.json`)": campaign.SCHEMA,
    "`kill.json`": kill_page.SCHEMA,
    "`seeds.json`": seeds_page.SCHEMA,
    "`corpus.json` and `implementations.json`": record_pages.SCHEMA,
    "`identify-table.json`": table.SCHEMA,
    "`adversary.json`": adversary_page.SCHEMA,
    "`sharpness.json`": sharpness.SCHEMA,
    "`conformance.json`, and what `report --entry` writes": standing.SCHEMA,
}
"""Every file that is written for others, with the number of the form in which it is written now."""


def test_the_page_about_stability_has_the_number_of_every_file() -> None:
    page = (ROOT / "docs" / "stability.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| ")]
    numbers = {row[0]: row[2] for row in rows if len(row) == 4 and row[0] != "file"}
    assert numbers == {name: str(number) for name, number in NUMBERS.items()}


def test_the_files_that_come_with_the_package_say_their_number() -> None:
    assert json.loads((ROOT / "docs" / "kill.json").read_text())["schema"] == kill_page.SCHEMA
    assert tomllib.loads(known_file.PUBLISHED.read_text())["schema"] == known_file.SCHEMA


def test_the_names_that_are_promised_are_there() -> None:
    page = (ROOT / "docs" / "stability.md").read_text()
    promised = re.findall(r"`(properties(?:\.\w+)+)`", page)
    assert "properties.modules.from_module" in promised
    for name in promised:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name
    assert properties.__all__
