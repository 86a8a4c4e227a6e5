"""What is said of public bugs and of public implementations is true of what is here, and the pages are made from it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from mhc_ref import PRESETS
from properties.catalogue.deviations import CATALOGUE, HIDDEN
from properties.commands.kill_page import load
from properties.commands.record_pages import implementations_page, pages, rows
from properties.core.law import all_laws
from properties.core.slips import KINDS
from properties.targets.published import ADAPTERS

DOCS = Path(__file__).parents[1] / "docs"
BUGS = rows(DOCS / "corpus.json", "bugs")
KNOWN = rows(DOCS / "implementations.json", "implementations")
DEVIATIONS = {**dict(CATALOGUE.items()), **dict(HIDDEN.items())}


@pytest.mark.parametrize("name", ["corpus", "implementations"])
def test_a_file_is_as_its_schema_says(name: str) -> None:
    schema = json.loads((DOCS / f"{name}.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(json.loads((DOCS / f"{name}.json").read_text()))


def test_a_row_without_a_deviation_says_why_and_no_other_does() -> None:
    schema = json.loads((DOCS / "corpus.schema.json").read_text())
    validator = Draft202012Validator(schema)
    seen = next(one for one in BUGS if one["seen"])
    for wrong in ({**seen, "seen": []}, {**seen, "why": "because"}):
        assert not validator.is_valid({"schema": 1, "bugs": [wrong]})
    assert validator.is_valid({"schema": 1, "bugs": [{**seen, "seen": [], "why": "because"}]})


@pytest.mark.parametrize("name", ["corpus.md", "implementations.md"])
def test_a_page_is_made_from_its_file(name: str) -> None:
    """Where it is not: python -m properties.commands.record_pages docs."""
    assert (DOCS / name).read_text() == pages(DOCS)[name]


def test_rows_have_names_of_their_own() -> None:
    assert len({one["id"] for one in BUGS}) == len(BUGS)
    assert len({one["name"] for one in KNOWN}) == len(KNOWN)
    assert {one["kind"] for one in BUGS} <= set(KINDS)


def test_every_deviation_of_a_bug_is_killed_by_the_law_that_is_named() -> None:
    killed: dict[str, set[str]] = {}
    for row in load(DOCS / "kill.json"):
        killed.setdefault(row.name, set()).update(row.killed)
    for bug in BUGS:
        for each in bug["seen"]:
            name, law = each["deviation"], each["law"]
            assert name in DEVIATIONS, (bug["id"], name)
            assert law in all_laws(), (bug["id"], law)
            # What needs a device is shown in test_device_laws, on a fake one.
            assert DEVIATIONS[name].needs or law in killed[name], (bug["id"], name, law)


def test_every_section_of_the_findings_has_a_row() -> None:
    found = {anchor(line) for line in re.findall(r"^## (.+)$", (DOCS / "findings.md").read_text(), re.MULTILINE)}
    named = {one["finding"] for one in BUGS if "finding" in one}
    assert named == found - {"dialects-that-are-not-modelled"}


def anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_the_row_that_a_deviation_names_as_its_source_is_there() -> None:
    """`bug N` in a source is the row N of the survey, and the row names a deviation too."""
    survey = {one["survey"]: one for one in BUGS if "survey" in one}
    assert survey.keys() == set(range(1, 62))
    for name, one in DEVIATIONS.items():
        for numbers in re.findall(r"\bbugs? ([\d, ]+)", one.source):
            for number in map(int, re.findall(r"\d+", numbers)):
                assert survey[number]["seen"], (name, number)


def test_adapters_recipes_and_presets_that_are_named_exist() -> None:
    recipes = {page.stem for page in (DOCS / "recipes").glob("*.md")} - {"README"}
    assert {one["recipe"] for one in KNOWN if "recipe" in one} == recipes
    for one in KNOWN:
        assert set(one.get("adapters", ())) <= ADAPTERS.keys(), one["name"]
        assert one.get("dialect", "fields").split()[0] in (*PRESETS, "fields"), one["name"]


def test_every_adapter_is_an_implementation_of_the_list() -> None:
    assert {name for one in KNOWN for name in one.get("adapters", ())} == ADAPTERS.keys()


def test_what_fails_is_counted_from_the_known_failures() -> None:
    one: dict[str, Any] = {"name": "a", "language": "torch", "where": "https://a", "expressible": "yes"}
    tried = {**one, "name": "b", "adapters": ["b"]}
    for failing, green in ((set[str](), 1), ({"published:b"}, 0)):
        text = implementations_page([one, tried], failing)
        for counted in ("| known | 2 |", "| tried | 1 |", f"| tried, and every law holds | {green} |"):
            assert counted in text
