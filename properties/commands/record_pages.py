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
"""The number of the form of both files, and of the others that the site draws."""

Row = Mapping[str, Any]


def rows(path: Path, key: str) -> Any:
    """What a file holds under `key`: rows, as a rule.

    Raises:
        ValueError: no such file, or another schema; the message names the file.
    """
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get(key), list | dict):
        raise ValueError(f'{path} is not what it should be; expected {{"schema": {SCHEMA}, "{key}": ...}}')
    if found.get("schema") != SCHEMA:
        raise ValueError(f"{path} has the schema {found.get('schema')!r}; this version reads {SCHEMA}")
    for one in found[key] if isinstance(found[key], list) else found[key].values():
        if not isinstance(one, dict):
            raise ValueError(f"{path} holds {one!r} among its {key}, which is no object with names")
    return found[key]


CORPUS = """\
# Public bugs

{bugs} bugs, questions and limits of public implementations of hyper-connections: {told} were told in public, {own} were
found here and stand in [findings](findings.md). {seen} of them have a *deviation* that stands for them, a
wrong implementation of ours with the same slip ({stand} in all), and a law that sees it in the [kill matrix](kill.md).
{unseen} have none, and say why.

The rows are in [corpus.json](corpus.json) ([schema](corpus.schema.json)): where the bug was told, or which project has
it, how far it came, what was wrong, the smallest input that shows it, and the deviation and the law. `make site` draws
them below this page, with a search. This page is made by `python -m properties.commands.record_pages docs`.

| kind | bugs | an example |
|---|---|---|
{kinds}

A deviation is a target. `mhc-properties check deviation:h-res-transposed@DEEPSEEK_V4 --law block` prints the smallest
input that shows it, and saves it in a file that replays on any other implementation. Whoever has a tool of their own
can run it on `properties.catalogue.deviations.build(name, dialect)`, which has the methods of
`properties.Implementation`.
The sources of deviations name the first {survey} bugs as "bug N".
"""


def corpus_page(bugs: Sequence[Row]) -> str:
    """How many public bugs of each kind there are, and for how many a wrong implementation stands, as Markdown."""
    seen = [one for one in bugs if one["seen"]]
    kinds = Counter(one["kind"] for one in bugs)
    first = {kind: next(one for one in bugs if one["kind"] == kind) for kind in kinds}
    lines = [
        _row(kind, str(number), f"{linked(first[kind])}: {first[kind]['what']}")
        for kind, number in sorted(kinds.items(), key=lambda pair: (-pair[1], pair[0]))
    ]
    return CORPUS.format(
        bugs=len(bugs),
        told=sum("finding" not in one for one in bugs),
        own=sum("finding" in one for one in bugs),
        seen=len(seen),
        stand=len({each["deviation"] for one in seen for each in one["seen"]}),
        unseen=len(bugs) - len(seen),
        kinds="\n".join(lines),
        survey=sum("survey" in one for one in bugs),
    )


def linked(bug: Row) -> str:
    """The project, and a word for each link."""
    return bug["project"] + " " + ", ".join(f"[{word(link)}]({link})" for link in bug["links"])


def word(link: str) -> str:
    """What stands for a link: the number of an issue, or the beginning of a commit."""
    *_, before, last = link.split("/")
    return {"issues": f"#{last}", "pull": f"#{last}", "commit": last[:7]}.get(before, "source")


IMPLEMENTATIONS = """\
# Public implementations

{known} implementations of hyper-connections are known to be public. {tried} of them were tried.

| implementations | number |
|---|---|
| known | {known} |
| a dialect says all that they compute | {yes} |
| a dialect says a part of it | {part} |
| a dialect says none of it | {no} |
| not read | {unread} |
| tried | {tried} |
| tried, and every law holds | {green} |
| a recipe, not counted as tried | {recipe} |

*Every law holds*: every law that applies, on what its adapter offers ([conformance](conformance.md) says what that is).
On the other {failures} that were tried some do not ([findings](findings.md)). *A recipe*: there is an
[adapter to paste](recipes/README.md), which was not run on the library itself.

By language: {languages}.

How it grew, of the {known} that are known today:

| release | a dialect says all | a part | tried | every law holds |
|---|---|---|---|---|
{grew}
| now | {yes} | {part} | {tried} | {green} |

Since 0.7.0 two are said in part for options that no dialect says: several fractions, and several views of the streams.

The rows are in [implementations.json](implementations.json) ([schema](implementations.schema.json)): name, language,
where it is, licence, dialect, adapter or recipe, and why it was not tried. `make site` draws them below this page, with
a search. This page is made by `python -m properties.commands.record_pages docs`.
"""


GREW = (("0.4.0", 48, 5, 17, 12), ("0.7.0", 59, 15, 30, 21))
"""Release, said in all, in part, tried, every law holds: before families of other designs were open, and after."""


def implementations_page(known: Sequence[Row], failing: set[str]) -> str:
    """How many implementations are known, and how far they were tried, as Markdown.

    Args:
        failing: the implementations, as targets, for which known failures are stored.
    """
    numbers = Counter(state_of(one, failing) for one in known)
    said = Counter(one["expressible"] for one in known)
    languages = Counter(name for one in known for name in one["language"].split(", "))
    return IMPLEMENTATIONS.format(
        known=len(known),
        **{word: said[word] for word in ("yes", "part", "no", "unread")},
        tried=numbers["green"] + numbers["failures"],
        green=numbers["green"],
        failures=numbers["failures"],
        recipe=numbers["recipe"],
        languages=", ".join(f"{name} {count}" for name, count in languages.most_common()),
        grew="\n".join(_row(*map(str, then)) for then in GREW),
    )


def state_of(one: Row, failing: set[str]) -> str:
    if "adapters" in one:
        return "failures" if failing & {f"published:{name}" for name in one["adapters"]} else "green"
    return "recipe" if "recipe" in one else "not tried"


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
