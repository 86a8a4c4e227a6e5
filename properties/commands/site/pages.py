"""The pages that are generated: the table, implementations, laws, dialects, deviations, and the way in."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from properties.commands.kill_rows import Row
from properties.commands.record_pages import word
from properties.commands.site.facts import ADAPTERS, PUBLIC, Facts, about, dialects, slug
from properties.commands.site.formulas import LAWS, METHODS
from properties.commands.site.prose import Prose
from properties.commands.titled_dialects import PRESET_ORDER
from properties.core.law import Law
from properties.engine.counterexample import Counterexample
from properties.engine.known import Known
from properties.engine.picturing import inputs_of
from properties.report import standing
from properties.report.page.figures import Heat, Heats, short
from properties.report.page.render import environment

EVIDENCE = ("implementations", "corpus", "identify-table", "adversary", "sharpness")
"""Pages of docs/ whose rows are in a data file, and stand below them here."""
_HERE = Path(__file__).parent
_SHOWN = 3
"""Minimal examples that are drawn on the page of a law."""
_SMALL = 64
"""Numbers of an input that is drawn; a larger one is told in words."""


class Page(NamedTuple):
    """A page below the root of the site, in Markdown with pieces of HTML; `below`: it goes on a page of docs/."""

    path: str
    text: str
    below: bool = False


class Pages:
    """Draws every generated page from the facts."""

    def __init__(self, facts: Facts, explosions: list[Any] | None = None) -> None:
        self.facts, self.explosions = facts, explosions or []
        self.dialects = list(dialects())
        self.templates = environment(_HERE / "templates")
        self.addresses = (
            {law: f"laws/{law}.html" for law in facts.laws}
            | {name: f"deviations/{name}.html" for name in facts.deviations}
            | {one["name"]: f"dialects/{one['name']}.html" for one in self.dialects}
            | {f"{PUBLIC}{one['slug']}": f"implementations/{one['slug']}.html" for one in facts.entries}
        )

    def all(self) -> Iterator[Page]:
        """Every page."""
        yield self.home()
        yield self.table()
        yield from self.evidence()
        yield from (self.implementation(entry) for entry in self.facts.entries)
        yield self.laws()
        yield from (self.law(one) for one in self.facts.laws.values())
        yield self.every_dialect()
        yield from (self.dialect(one) for one in self.dialects)
        yield self.deviations()
        yield from (self.deviation(name) for name in self.facts.deviations)
        yield self.exploding()

    def _page(self, path: str, template: str, **values: Any) -> Page:
        prose = Prose(self.addresses, path.count("/"))
        text = self.templates.get_template(template).render(
            facts=self.facts, prose=prose, link=prose.link, up=prose.up, short=short, **values
        )
        return Page(path, text)

    # -- the way in ----------------------------------------------------------------------------------------------------

    def home(self) -> Page:
        """What the project is, and what it knows, in numbers and one picture."""
        killed = [name for name, rows in self.facts.rows_of.items() if any(row.killed for row in rows)]
        states = Counter(one["state"] for one in self.facts.rows)
        numbers = {
            "laws": len(self.facts.laws),
            "killed": len(killed),
            "deviations": len(self.facts.deviations),
            "public": len(self.facts.public),
            "tried": states["green"] + states["failures"],
            "failing": states["failures"],
            "bugs": len(self.facts.bugs),
        }
        return self._page("index.md", "home.md.j2", numbers=numbers, ones=self._ones(), formula=METHODS["block"])

    def _ones(self) -> Heats | None:
        """The matrix that a published package mixes by where another one belongs, if an entry has its numbers."""
        for entry, _, one in self.facts.failing.get("manifold.every-n-takes-its-iterations", ()):
            picture = (one.get("failure") or {}).get("picture")
            if entry["name"] == "x-transformers" and picture:
                return _pictured(one["failure"])
        return None

    # -- implementations -----------------------------------------------------------------------------------------------

    def table(self) -> Page:
        """Implementations by families of laws."""
        made = sorted({entry["made"] for entry in self.facts.entries})
        return self._page(
            "table.md", "table.md.j2", made=made, families=self.facts.families, cell=cell, about=_about, count=_count
        )

    def evidence(self) -> Iterator[Page]:
        """What pages of docs/ count, row by row, below them."""
        slugs = {entry["name"]: entry["slug"] for entry in self.facts.entries if not entry["elsewhere"]}
        values = {"slips": self.facts.deviations, "word": word, "slugs": slugs}
        for name in EVIDENCE:
            page = self._page(f"{name}.md", f"{name}.md.j2", **values)
            yield page._replace(below=True)

    def implementation(self, entry: Mapping[str, Any]) -> Page:
        """One implementation: what holds, what fails with its smallest input, what does not apply."""
        name = entry["name"]
        statement, source = about(name) if name in ADAPTERS and not entry["elsewhere"] else ("", "")
        failed = [(run, one, self._example(entry, run["dtype"], one)) for run in entry["runs"] for one in run["failed"]]
        failed.sort(key=lambda three: not three[2].get("maps"))  # what can be seen comes first
        return self._page(
            f"implementations/{entry['slug']}.md",
            "implementation.md.j2",
            entry=entry,
            statement=statement,
            source=source,
            row=None if entry["elsewhere"] else self.facts.row_of(name),
            failed=failed,
            families=[one for one in self.facts.families if any(one in run["families"] for run in entry["runs"])],
            cell=cell,
            finding=finding,
        )

    def _example(self, entry: Mapping[str, Any], dtype: str, one: Mapping[str, Any]) -> dict[str, Any]:
        """What is drawn of a failure: from the entry where it has the numbers, else from the stored counterexample."""
        stored = None if entry["elsewhere"] else self.facts.stored.get((entry["name"], one["law"], dtype))
        if failure := one.get("failure"):
            return _of_failure(failure) | {"file": stored and stored[0].counterexample.name, "target": ""}
        return _of_stored(*stored) if stored else {}

    # -- laws ----------------------------------------------------------------------------------------------------------

    def laws(self) -> Page:
        """Every law by family."""
        groups = {
            family: [one for one in self.facts.laws.values() if standing.family_of(one.id) == family]
            for family in self.facts.families
        }
        return self._page("laws/index.md", "laws.md.j2", groups=groups)

    def law(self, law: Law) -> Page:
        """One law: what it says and why, who fails it, what it kills."""
        kills = sorted(self.facts.killed_by[law.id], key=lambda row: -_size(row, law.id))
        failing = self.facts.failing[law.id]
        held = [
            (entry, run["dtype"])
            for entry in self.facts.entries
            for run in entry["runs"]
            if law.id in run.get("held", ())
        ]
        drawn = [(entry, dtype, one, self._example(entry, dtype, one)) for entry, dtype, one in failing]
        return self._page(
            f"laws/{law.id}.md",
            "law.md.j2",
            law=law,
            formula=LAWS.get(law.id),
            methods=[(name, METHODS[name]) for name in law.needs if name in METHODS],
            kills=kills,
            failing=failing,
            held=held,
            examples=[one for one in drawn if one[3]][:_SHOWN],
            source=law.module.replace(".", "/") + ".py",
            finding=finding,
        )

    # -- dialects ------------------------------------------------------------------------------------------------------

    def every_dialect(self) -> Page:
        """The presets side by side."""
        return self._page("dialects/index.md", "dialects.md.j2", dialects=self.dialects, speakers=self._speakers)

    def dialect(self, one: Mapping[str, Any]) -> Page:
        """One preset: its fields, and who speaks it."""
        wrong = [name for name, rows in self.facts.rows_of.items() if any(row.preset == one["name"] for row in rows)]
        return self._page(
            f"dialects/{one['name']}.md",
            "dialect.md.j2",
            one=one,
            speakers=self._speakers(one["name"]),
            wrong=wrong,
        )

    def _speakers(self, dialect: str) -> list[dict[str, Any]]:
        """The public implementations that say this dialect, or it with other fields."""
        return [one for one in self.facts.rows if one["dialect"].split(" with ")[0] == dialect]

    # -- deviations ----------------------------------------------------------------------------------------------------

    def deviations(self) -> Page:
        """Every wrong implementation of the catalogue."""
        killers = {
            name: max((len(row.killed) for row in self.facts.rows_of.get(name, ())), default=0)
            for name in self.facts.deviations
        }
        return self._page("deviations/index.md", "deviations.md.j2", killers=killers)

    def deviation(self, name: str) -> Page:
        """One wrong implementation: its slip, where that happened, and which laws see it."""
        one = self.facts.deviations[name]
        rows = sorted(self.facts.rows_of.get(name, ()), key=lambda row: place_of(row.preset))
        bugs = [bug for bug in self.facts.bugs if any(each["deviation"] == name for each in bug["seen"])]
        return self._page(
            f"deviations/{name}.md",
            "deviation.md.j2",
            one=one,
            rows=rows,
            bugs=bugs,
            presets=[dialect["name"] for dialect in self.dialects if one.applies(_preset(dialect["name"]))],
            dtypes=[str(dtype).removeprefix("torch.") for dtype in one.dtypes],
        )

    # -- explosions ----------------------------------------------------------------------------------------------------

    def exploding(self) -> Page:
        """The smallest networks that explode, layer by layer."""
        return self._page("exploding.md", "exploding.md.j2", explosions=self.explosions)


def cell(counts: Mapping[str, int] | None) -> tuple[str, str, str]:
    """A family of one run: its status, what stands in the cell, and that in words."""
    if not counts:
        return "", "", "no law was tried"
    held, failed, errors, without = (counts[name] for name in standing.COUNTED)
    exercised = held + failed
    words = f"{held} of {exercised} laws held"
    words += f", {failed} failed" if failed else ""
    words += f", {errors} could not be judged" if errors else ""
    words += f", {without} do not apply" if without else ""
    if not exercised and not errors:
        return "not-applicable", "–", f"none of {without} laws applies"
    status = "failed" if failed else "error" if errors else "passed"
    return status, f"{held}/{exercised}" + (" !" if errors else ""), words


def finding(link: str, up: str) -> str:
    """The address of a page of docs/, as known failures name it."""
    page, _, anchor = link.removeprefix("docs/").partition("#")
    return f"{up}{page.removesuffix('.md')}.html" + (f"#{anchor}" if anchor else "")


def place_of(preset: str) -> int:
    """Where a preset stands among the rows of a deviation; dialects without a name come last."""
    return PRESET_ORDER.index(preset) if preset in PRESET_ORDER else len(PRESET_ORDER)


def _count(entry: Mapping[str, Any], name: str) -> int:
    return sum(counts[name] for run in entry["runs"] for counts in run["families"].values())


def _about(entry: Mapping[str, Any]) -> str:
    return " ".join((entry["name"], *entry["versions"], *(run["dtype"] for run in entry["runs"]))).lower()


def _size(row: Row, law: str) -> float:
    ratio = row.killed[law].ratio
    return float("inf") if ratio is None else ratio


def _preset(name: str) -> Any:
    from mhc_ref import PRESETS

    return PRESETS[name]


def _of_failure(failure: Mapping[str, Any]) -> dict[str, Any]:
    drawn = [one for one in failure.get("inputs", ()) if "values" in one]
    told = [(one["name"], one["text"]) for one in failure.get("inputs", ()) if "text" in one]
    return {
        "said": _said(failure["found"], failure["where"], failure["got"], failure["exact"]),
        "ratio": failure.get("ratio"),
        "maps": _pictured(failure),
        "inputs": Heats([_input(one) for one in drawn]) if drawn else None,
        "told": told,
    }


def _of_stored(known: Known, case: Counterexample) -> dict[str, Any]:
    found = case.failure
    inputs = inputs_of(case.case)
    drawn = [one for one in inputs if "values" in one and _numbers(one) <= _SMALL]
    large = [
        (one["name"], f"{one['dtype']}{one['shape']}") for one in inputs if "values" in one and _numbers(one) > _SMALL
    ]
    return {
        "said": _said(found["what"], found["where"], found["got"], found["exact"]),
        "ratio": found.get("ratio"),
        "maps": None,
        "inputs": Heats([_input(one) for one in drawn]) if drawn else None,
        "told": [(one["name"], one["text"]) for one in inputs if "text" in one] + large,
        "file": known.counterexample.name,
        "target": case.target,
    }


def _said(found: str, where: str, got: str, exact: str) -> str:
    place = f" at {where}" if where else ""
    return f"{found}{place}: {got}" + (f" where {exact} belongs" if exact else "")


def _numbers(one: Mapping[str, Any]) -> int:
    size = 1
    for length in one["shape"]:
        size *= length
    return size


def _rows(values: Any) -> list[list[Any]]:
    """The rows of a picture, of which those of few numbers are told by their entries alone."""
    if isinstance(values, list):
        return values
    rows = [[0.0] * values["columns"] for _ in range(values["rows"])]
    for i, j, number in values["entries"]:
        rows[i][j] = number
    return rows


def _floats(values: Any) -> list[list[float]]:
    return [[float(number) for number in row] for row in _rows(values)]


def _input(one: Mapping[str, Any]) -> Heat:
    shape = ", ".join(map(str, one["shape"]))
    return Heat(f"{one['name']} [{shape}] {one['dtype']}", _floats(one["values"]))


def _pictured(failure: Mapping[str, Any]) -> Heats | None:
    """What came, what belongs there, and the difference, side by side on one scale."""
    picture = failure.get("picture")
    if not picture:
        return None
    got, exact, error = (_floats(picture[name]) for name in ("got", "exact", "error"))
    most = max((abs(one) for row in (*got, *exact) for one in row if math.isfinite(one)), default=0.0)
    belongs = {"exact": "exact", "other": "another output", "limit": "at most"}.get(failure["against"], "wanted")
    return Heats([Heat("got", got, most), Heat(belongs, exact, most), Heat("difference", error)])


__all__ = ["Page", "Pages", "cell", "finding", "slug"]
