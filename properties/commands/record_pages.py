"""The pages of what is known of others, made from their JSON files: public bugs (corpus) and public implementations.

    python -m properties.commands.record_pages docs

A row of `corpus.json` is a bug, and `seen` says which deviation stands for it and which law sees that. A row of
`implementations.json` is an implementation; whether every law holds on it is not said there but read from the known
failures of the adapters.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from properties.engine.known import PUBLISHED, load
from properties.guards.whole import write_whole

SCHEMA = 1
"""The number of the form of both files."""

Row = Mapping[str, Any]


def rows(path: Path, key: str) -> list[dict[str, Any]]:
    """What a file holds under `key`.

    Raises:
        ValueError: another schema.
    """
    found = json.loads(path.read_bytes())
    if found["schema"] != SCHEMA:
        raise ValueError(f"{path} has the schema {found['schema']!r}; this version reads {SCHEMA}")
    return found[key]


CORPUS = """\
# Public bugs

Generated from [corpus.json](corpus.json) ([schema](corpus.schema.json)) by `python -m properties.commands.record_pages docs`.

{bugs} bugs, questions and findings of review that were told in public about implementations of hyper-connections. {seen} of them
have a deviation that stands for them, a wrong implementation of ours with the same slip ({stand} in all), and a law that sees it in
the [kill matrix](kill.md). {unseen} have none, and say why.

By kind: {kinds}.

A deviation is a target: `mhc-properties check deviation:h-res-transposed@DEEPSEEK_V4 --law block` prints the smallest input
that shows it and saves it in a file that replays on any other implementation. Whoever has a tool of their own can run it on
`properties.catalogue.deviations.build(name, dialect)`, which has the methods of `properties.Implementation`.
*State* says how far the slip came: *shipped* is in merged or released code. The sources of deviations name the first {survey} as "bug N".
"""  # noqa: E501  # a paragraph of the page is one line


def corpus_page(bugs: Sequence[Row]) -> str:
    """Every public bug with the wrong implementation that stands for it, as Markdown."""
    from properties.catalogue.deviations import CATALOGUE, HIDDEN

    slips = {name: one.slip for names in (CATALOGUE, HIDDEN) for name, one in names.items()}
    seen, unseen = [one for one in bugs if one["seen"]], [one for one in bugs if not one["seen"]]
    kinds = Counter(one["kind"] for one in bugs)
    head = CORPUS.format(
        bugs=len(bugs),
        seen=len(seen),
        stand=len({each["deviation"] for one in seen for each in one["seen"]}),
        unseen=len(unseen),
        kinds=", ".join(f"{kind} {number}" for kind, number in sorted(kinds.items())),
        survey=sum("survey" in one for one in bugs),
    )
    lines = [
        "| bug | kind | state | what | smallest input | stands for it | law |",
        "|---|---|---|---|---|---|---|",
        *(_bug(one, slips) for one in seen),
        "",
        "## Without a deviation",
        "",
        "| bug | kind | state | what | why |",
        "|---|---|---|---|---|",
        *(_row(_linked(one), one["kind"], one["state"], one["what"], one["why"]) for one in unseen),
    ]
    return head + "\n" + "\n".join(lines) + "\n"


def _bug(bug: Row, slips: Mapping[str, str]) -> str:
    said = "<br>".join(f"`{each['deviation']}`: {slips[each['deviation']]}" for each in bug["seen"])
    laws = "<br>".join(dict.fromkeys(f"`{each['law']}`" for each in bug["seen"]))
    return _row(_linked(bug), bug["kind"], bug["state"], bug["what"], bug["input"], said, laws)


def _linked(bug: Row) -> str:
    """The project, and a word for each link: the number of an issue, or the beginning of a commit."""
    return bug["project"] + " " + ", ".join(f"[{_word(link)}]({link})" for link in bug["links"])


def _word(link: str) -> str:
    *_, before, last = link.split("/")
    return {"issues": f"#{last}", "commit": last}.get(before, "source")


IMPLEMENTATIONS = """\
# Public implementations

Generated from [implementations.json](implementations.json) ([schema](implementations.schema.json)) by
`python -m properties.commands.record_pages docs`.

| known | a dialect says all of it | a part of it | none of it | not read | tried | every law holds | a recipe |
|---|---|---|---|---|---|---|---|
| {known} | {yes} | {part} | {no} | {unread} | {tried} | {green} | {recipe} |

*green*: every law that applies holds on what its adapter offers ([conformance](conformance.md) says what that is). *failures*:
some do not ([findings](findings.md)). *recipe*: there is an [adapter to paste](recipes/README.md), which was not run on the library
itself; it is not counted as tried.
"""  # noqa: E501  # a paragraph of the page is one line


def implementations_page(known: Sequence[Row], failing: set[str]) -> str:
    """Every implementation that is known, and how far it was tried, as Markdown.

    Args:
        failing: the implementations, as targets, for which known failures are stored.
    """
    states = {one["name"]: state_of(one, failing) for one in known}
    numbers = Counter(states.values())
    said = Counter(one["expressible"] for one in known)
    head = IMPLEMENTATIONS.format(
        known=len(known),
        **{word: said[word] for word in ("yes", "part", "no", "unread")},
        tried=numbers["green"] + numbers["failures"],
        green=numbers["green"],
        recipe=numbers["recipe"],
    )
    lines = [
        "| implementation | language | licence | dialect | state | adapter | note |",
        "|---|---|---|---|---|---|---|",
        *(_implementation(one, states[one["name"]]) for one in known),
    ]
    return head + "\n" + "\n".join(lines) + "\n"


def state_of(one: Row, failing: set[str]) -> str:
    if "adapters" in one:
        return "failures" if failing & {f"published:{name}" for name in one["adapters"]} else "green"
    return "recipe" if "recipe" in one else "not tried"


def _implementation(one: Row, state: str) -> str:
    says = {"yes": "", "part": "in part: ", "no": "none", "unread": "not read"}[one["expressible"]]
    by = ", ".join(f"`{name}`" for name in one.get("adapters", ()))
    if "recipe" in one:
        by = f"[{one['recipe']}](recipes/{one['recipe']}.md)"
    name, dialect = f"[{one['name']}]({one['where']})", says + one.get("dialect", "")
    return _row(name, one["language"], one.get("licence", ""), dialect, state, by, one.get("note", ""))


def _row(*cells: str) -> str:
    """A line of a table; a bar within a cell is no border."""
    return " | ".join(["", *(cell.replace("|", "\\|") for cell in cells), ""]).strip()


def pages(folder: Path) -> dict[str, str]:
    """Name -> text of the pages that the files of a folder make."""
    failing = {entry.implementation for entry in load(PUBLISHED)}
    return {
        "corpus.md": corpus_page(rows(folder / "corpus.json", "bugs")),
        "implementations.md": implementations_page(rows(folder / "implementations.json", "implementations"), failing),
    }


if __name__ == "__main__":
    for name, text in pages(Path(sys.argv[1])).items():
        write_whole(Path(sys.argv[1]) / name, text.encode())
