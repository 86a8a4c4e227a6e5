"""CONTRIBUTING says which rooms there are and where a change goes, and what any page names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / ".github" / "CONTRIBUTING.md").read_text()
CHANGES = {
    "a law",
    "a circumstance that must not matter to a call",
    "a bound",
    "a deviation",
    "a control",
    "a family",
    "a limit that targets may declare",
    "a question of `explode`",
    "a kind of campaign",
    "a cap sharper than what a mix guarantees",
    "an adapter",
    "a public bug, or a public implementation",
    "a command",
}


def rows() -> dict[str, tuple[str, str]]:
    """What is added -> where it goes, and what to copy."""
    found = [[cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.splitlines() if line.startswith("| a")]
    return {what: (where, copy) for what, where, copy in found}


def paths(text: str) -> list[str]:
    return [name for name in re.findall(r"`([^`\s]+)`", text) if "/" in name]


def test_every_kind_of_change_has_a_place_and_a_file_to_copy() -> None:
    assert set(rows()) == CHANGES
    for what, (where, copy) in rows().items():
        assert paths(where), what
        assert "`" in copy, what


def test_every_file_that_is_named_is_there() -> None:
    named = paths(PAGE)
    assert len(named) > 15
    missing = [name for name in named if not name.startswith(".venv/") and not (ROOT / name).exists()]
    assert missing == []


def test_a_family_to_copy_is_a_file_in_each_of_its_places() -> None:
    where, copy = rows()["a family"]
    name = copy.split("`")[1]
    folders = [path for path in paths(where) if path.endswith("/")]
    assert len(folders) == 3
    for folder in folders:
        assert (ROOT / folder / name).is_file()


def test_contributing_names_every_room() -> None:
    parts = PAGE.partition("## The parts")[2].partition("## ")[0]
    named = {name.removeprefix("properties/") for name in re.findall(r"`([\w/]+)/`", parts)} - {"mhc_ref", "properties"}
    rooms = {path.name for path in (ROOT / "properties").iterdir() if (path / "__init__.py").is_file()}
    assert named - {"mhc_ref/exact"} == rooms


PAGES = [ROOT / "README.md", ROOT / ".github" / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_that_a_page_names_or_links_are_there(page: Path) -> None:
    text = page.read_text()
    named = re.findall(r"`((?:properties|mhc_ref|tests|examples|docs)/[\w/.-]+\.[a-z]+|properties/[\w/]+/)`", text)
    linked = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    assert [name for name in named if not (ROOT / name).exists()] == []
    assert [name for name in linked if not (page.parent / name).exists()] == []
