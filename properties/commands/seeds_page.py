"""How many seeds each control has had, as it is kept (seeds.json) and as it is read (seeds.md).

A hundred seeds on every control take days of one core, so that they come in pieces, and the package changes in between.
What is kept says of every piece by which release it was tried, and pieces of several releases are not added up.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from packaging.version import Version

from properties.guards.printable import message_of, printable
from properties.guards.whole import write_whole

SCHEMA = 1
"""The number of the form of seeds.json: {schema, rows}."""

_ABOUT = """# Seeds on the controls

A [control](glossary.md) is a correct implementation that is written in another way. A law that fails on one of them
accuses an innocent, and a law that fails with some seeds only is flaky. `mhc-properties seeds --record docs` puts every
law to every control with one seed after another, each in the next combination of preset, dtype and number of streams.
Since release 0.19 every second seed changes up to four fields of the preset, as who implements one may change them. The
command adds to this page what it has tried: all laws, three examples each unless `--examples` says otherwise, without
shrinking. Each law is tried in one of its [crowds](sizes.md#every-other-law-at-three-sizes-more), which the seed
chooses. Laws that go through sizes visit the coarsest set of sizes, since a seed draws values and not sizes, and the
few laws of the profile `thorough` are left out (until release 0.10 the sizes were finer, and those laws were in it).
The rows are in `seeds.json`.

A release may change laws, bounds and what is drawn. So seeds that were tried by different releases are different
evidence: they are counted apart, and the last column speaks of the newest one alone. A seed that is tried again by
the same release counts once; sources between two releases count as the earlier one. `--missing` asks for the seeds
that no release has tried, so that a hundred can be reached in pieces:
`mhc-properties seeds --seeds 100 --missing --record docs --budget 2h`."""


@dataclass(frozen=True)
class Tried:
    """What one control has been put to in one dtype by one release.

    Attributes:
        seeds: by the number of the seed [laws that applied, examples that were tried].
        flagged: by the number of the seed what was said of laws that accused the control, or failed themselves.
    """

    control: str
    dtype: str
    release: str
    seeds: dict[str, list[int]] = field(default_factory=lambda: {})
    flagged: dict[str, list[str]] = field(default_factory=lambda: {})

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes two rows the same one."""
        return self.control, self.dtype, self.release

    def with_(self, other: Tried) -> Tried:
        """Both; of a seed that both have what the other one says."""
        kept = {seed: told for seed, told in self.flagged.items() if seed not in other.seeds}
        return Tried(*self.key, {**self.seeds, **other.seeds}, {**kept, **other.flagged})


def release() -> str:
    """The release that is installed."""
    try:
        return version("mhc-properties")
    except PackageNotFoundError:
        return "0"


def load(path: Path) -> list[Tried]:
    """The rows of a seeds.json; none where there is no such file.

    Raises:
        ValueError: it is none; the message says why.
    """
    if not path.exists():
        return []
    try:
        found = json.loads(path.read_bytes())
        if found["schema"] != SCHEMA:
            raise ValueError(f"its schema is {found['schema']!r}; this version reads {SCHEMA}")
        return [Tried(**row) for row in found["rows"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        shown = printable(str(path), 200)
        raise ValueError(f"{shown} is no seeds.json: {type(error).__name__}: {message_of(error, 300)}") from None


def save(path: Path, rows: Iterable[Tried]) -> None:
    """One row a line."""
    text = ",\n".join(json.dumps(asdict(row)) for row in rows)
    write_whole(path, f'{{"schema": {SCHEMA}, "rows": [\n{text}\n]}}\n'.encode())


def merged(rows: Iterable[Tried], more: Iterable[Tried]) -> list[Tried]:
    """Both, in the order of controls, dtypes and releases."""
    found: dict[tuple[str, str, str], Tried] = {}
    for row in (*rows, *more):
        found[row.key] = found[row.key].with_(row) if row.key in found else row
    return sorted(found.values(), key=lambda row: (row.control, row.dtype, _newer(row.release)))


def rows_of(answered: Iterable[tuple[dict[str, Any], dict[str, Any]]]) -> list[Tried]:
    """The rows of questions about all laws and their answers (`properties.campaign.kinds.seeds`), by this release."""
    now = release()
    return merged(
        [],
        (
            Tried(
                *(asked["name"], asked["dtype"], now),
                {str(asked["seed"]): [told["exercised"], told["examples"]]},
                {str(asked["seed"]): told["wrong"]} if told["wrong"] else {},
            )
            for asked, told in answered
            if not asked["laws"]
        ),
    )


def page(rows: Sequence[Tried]) -> str:
    """What it comes to, as Markdown: a line for every control, and within it one for every release."""
    from properties.catalogue.controls import CATALOGUE

    releases = sorted({row.release for row in rows}, key=_newer)
    flagged = [f"{row.control} {row.dtype}, release {row.release}" for row in rows if row.flagged]
    never = [name for name in CATALOGUE if not any(row.control == name for row in rows)]
    least = {one: min((_count(rows, name, one) for name in CATALOGUE), default=0) for one in releases}
    text = [
        *_ABOUT.splitlines(),
        "",
        *(
            f"* release {one}: {_runs(rows, one)} runs, {_sum(rows, one, 0)} laws that applied, {_sum(rows, one, 1)} "
            f"examples; every control has had at least {least[one]} seeds"
            for one in releases
        ),
        f"* controls that were never tried: {', '.join(never) or 'none'}",
        f"* flagged: {'; '.join(flagged) or 'none'}",
        "",
        "| control | seeds | dtypes | laws that applied | examples | flagged | seeds by "
        f"{releases[-1] if releases else release()} |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in sorted({row.control for row in rows}):
        here = [row for row in rows if row.control == name]
        dtypes = ", ".join(f"{one} {_count([r for r in here if r.dtype == one], name)}" for one in _dtypes(here))
        numbers = [sum(told[k] for row in here for told in row.seeds.values()) for k in (0, 1)]
        wrong = sum(len(row.flagged) for row in here)
        text.append(
            f"| {name} | {_count(here, name)} | {dtypes} | {numbers[0]} | {numbers[1]} | {wrong} "
            f"| {_count(here, name, releases[-1])} |"
        )
    return "\n".join(text) + "\n"


def _newer(text: str) -> Version:
    return Version(text)


def _dtypes(rows: Iterable[Tried]) -> list[str]:
    return sorted({row.dtype for row in rows})


def _count(rows: Iterable[Tried], control: str, only: str | None = None) -> int:
    """Different seeds that a control has had."""
    return len({seed for row in rows if row.control == control and only in (None, row.release) for seed in row.seeds})


def _runs(rows: Iterable[Tried], only: str) -> int:
    return sum(len(row.seeds) for row in rows if row.release == only)


def _sum(rows: Iterable[Tried], only: str, which: int) -> int:
    return sum(told[which] for row in rows if row.release == only for told in row.seeds.values())
