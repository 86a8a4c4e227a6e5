"""What the site is drawn from: the laws and the catalogues of this version, and the data files that commands write."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from properties.commands.adversary_page import survivors
from properties.commands.kill_page import load as kill_rows
from properties.commands.kill_rows import Row
from properties.commands.record_pages import rows, state_of
from properties.core.law import Law, all_laws
from properties.core.slips import Deviation
from properties.engine.counterexample import Counterexample
from properties.engine.known import PUBLISHED, Known, load
from properties.report import standing
from properties.targets.published import ADAPTERS, about

PUBLIC = "published:"
_ROW = {"licence": "", "dialect": "", "adapters": (), "recipe": "", "note": ""}
_ENTRY = {"where": "", "by": "", "profile": "", "trouble": ""}
_FAILED = {"why": "", "link": "", "counterexample": "", "failure": None}
"""What may be missing in the data files."""


@dataclass(frozen=True)
class Facts:
    """Everything that pages are drawn from.

    Attributes:
        root: the checkout.
        laws: by id; deviations: by name, the hidden ones last.
        kills: the rows of the kill matrix.
        public: the rows of docs/implementations.json, all that is known to be public.
        bugs: the rows of docs/corpus.json.
        standings: the entries of docs/conformance.json; elsewhere: those of docs/reports/.
        known: the stored failures of published implementations.
        identified: the parts of docs/identify-table.json.
        survivors: what no law sees, of docs/adversary.json.
        sharp: the rows of docs/sharpness.json.
    """

    root: Path
    laws: Mapping[str, Law]
    deviations: Mapping[str, Deviation]
    kills: list[Row]
    public: list[dict[str, Any]]
    bugs: list[dict[str, Any]]
    standings: list[dict[str, Any]]
    elsewhere: list[dict[str, Any]]
    known: list[Known]
    identified: dict[str, Any]
    survivors: list[dict[str, str]]
    sharp: list[dict[str, Any]]

    @cached_property
    def killed_by(self) -> dict[str, list[Row]]:
        """The rows in which a law kills, by law."""
        found: dict[str, list[Row]] = {law: [] for law in self.laws}
        for row in self.kills:
            for law in row.killed if row.kind != "control" else ():
                found.setdefault(law, []).append(row)
        return found

    @cached_property
    def rows_of(self) -> dict[str, list[Row]]:
        """The rows of the kill matrix by deviation."""
        found: dict[str, list[Row]] = {}
        for row in self.kills:
            if row.kind != "control":
                found.setdefault(row.name, []).append(row)
        return found

    @cached_property
    def stored(self) -> dict[tuple[str, str, str], tuple[Known, Counterexample]]:
        """The stored counterexamples by (implementation, law, dtype)."""
        read = ((one, Counterexample.load(one.counterexample)) for one in self.known)
        return {(one.implementation.removeprefix(PUBLIC), one.law, case.dtype): (one, case) for one, case in read}

    @cached_property
    def entries(self) -> list[dict[str, Any]]:
        """Every entry of the table with `slug`, the name of its page; those from elsewhere come last."""
        order = {name: place for place, name in enumerate(ADAPTERS)}
        known = sorted(self.standings, key=lambda entry: order.get(entry["name"], len(order)))
        ours = [_whole(entry) | {"slug": entry["name"], "elsewhere": False} for entry in known]
        theirs = (_whole(entry) | {"slug": f"elsewhere-{slug(entry['name'])}"} for entry in self.elsewhere)
        return [*ours, *(entry | {"elsewhere": True} for entry in theirs)]

    @cached_property
    def not_run(self) -> list[str]:
        """The adapters that have no entry."""
        there = {entry["name"] for entry in self.standings}
        return [name for name in ADAPTERS if name not in there]

    @cached_property
    def failing(self) -> dict[str, list[tuple[dict[str, Any], str, dict[str, Any]]]]:
        """Who fails a law, by law: (entry, dtype, what failed)."""
        found: dict[str, list[tuple[dict[str, Any], str, dict[str, Any]]]] = {law: [] for law in self.laws}
        for entry in self.entries:
            for run in entry["runs"]:
                for one in run["failed"]:
                    found.setdefault(one["law"], []).append((entry, run["dtype"], one))
        return found

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The public implementations, each with its state and everything that may be missing."""
        failing = {entry.implementation for entry in self.known}
        return [_ROW | one | {"state": state_of(one, failing)} for one in self.public]

    @cached_property
    def families(self) -> list[str]:
        """The families of laws, in their order."""
        return list(dict.fromkeys(standing.family_of(law) for law in self.laws))

    def row_of(self, adapter: str) -> dict[str, Any] | None:
        """The public implementation that an adapter is of."""
        return next((one for one in self.rows if adapter in one["adapters"]), None)


def _whole(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry with everything that may be missing."""
    runs = [run | {"failed": [_FAILED | one for one in run["failed"]]} for run in entry["runs"]]
    return {**_ENTRY, **entry, "runs": runs}


def gather(root: Path) -> Facts:
    """Everything, read from a checkout.

    Raises:
        ValueError, StandingError, KnownError: a data file that cannot be read.
    """
    from properties.catalogue.deviations import CATALOGUE, HIDDEN

    docs = root / "docs"
    laws = all_laws()
    order = list(dict.fromkeys(standing.family_of(one) for one in laws))
    return Facts(
        root,
        dict(sorted(laws.items(), key=lambda pair: order.index(standing.family_of(pair[0])))),
        {**CATALOGUE, **HIDDEN},
        kill_rows(docs / "kill.json"),
        rows(docs / "implementations.json", "implementations"),
        rows(docs / "corpus.json", "bugs"),
        standing.read(docs / "conformance.json"),
        [entry for path in sorted((docs / "reports").glob("*.json")) for entry in standing.read(path)],
        load(PUBLISHED),
        rows(docs / "identify-table.json", "parts"),
        survivors({"survivors": rows(docs / "adversary.json", "survivors")}),
        rows(docs / "sharpness.json", "rows"),
    )


def dialects() -> Iterator[dict[str, Any]]:
    """Every preset: its name, source and fields, each with what it means and whether it is the default."""
    from mhc_ref import Dialect, registry
    from mhc_ref.presets import PRESETS, SOURCES
    from properties.core.family import family

    words = meanings(Dialect.__doc__ or "")
    default = Dialect()
    for name, one in PRESETS.items():
        brought = {
            field: said.words or said.expected
            for slot_field, slot in registry.SLOTS.items()
            for field, said in registry.brought(slot, getattr(one, slot_field)).items()
        }
        chosen = [(slot, getattr(one, field)) for field, slot in registry.SLOTS.items()]
        said = [(slot, value, family(slot, value)) for slot, value in dict.fromkeys(chosen)]
        yield {
            "name": name,
            "source": SOURCES.get(name, ""),
            "fields": [
                {
                    "name": field,
                    "value": value,
                    "default": getattr(default, field, None),
                    "differs": value != getattr(default, field, None),
                    "means": brought.get(field) or words.get(field, ""),
                }
                for field, value in one.fields().items()
            ],
            "slots": [
                (slot, value, getattr(one, "words", ""), getattr(one, "source", "")) for slot, value, one in said
            ],
        }


def meanings(docstring: str) -> dict[str, str]:
    """What the attributes of a class are, by name, as the section Attributes of its docstring says."""
    part = docstring.partition("Attributes:\n")[2].partition("\n\n")[0]
    found: dict[str, str] = {}
    for names, text in re.findall(r"^ {8}([\w, ]+): ((?:.|\n {9,})+)", part, re.MULTILINE):
        for name in names.split(", "):
            found[name] = " ".join(text.split())
    return found


def slug(name: str) -> str:
    """A name as it can stand in an address."""
    return re.sub(r"[^\w.-]+", "-", name.lower(), flags=re.ASCII).strip("-") or "unnamed"


__all__ = ["ADAPTERS", "Facts", "about", "dialects", "gather", "meanings", "slug"]
