"""The table of what `identify` says about everything that this package knows.

    mhc-properties campaign run identify --out build/identify

Presets, controls and published implementations must come out as what they are; every deviation as its fields, its name
or an equivalent; of two deviations at a time both, or an equivalent, or one and that it would hide the other.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mhc_ref import PRESETS, Dialect
from properties.catalogue import controls
from properties.catalogue.deviations import CATALOGUE, ELSEWHERE, HIDDEN, Deviant
from properties.core.deviant import redialected
from properties.core.implementation import Implementation, Reference
from properties.diagnosis.composing import compose
from properties.diagnosis.diagnose import identify
from properties.diagnosis.identification import Identification
from properties.guards.whole import write_whole
from properties.targets import published

PREFERRED = (
    *("DEEPSEEK_V4", "PAPER", "MHC_LITE", "HYPER_CONNECTIONS", "LIGER", "RESIDUAL"),
    *("IHC", "DEEPSEEK_V4_1", "KROMHC", "CAYLEY", "QWEN4_EXP", "MUSE_SPARK", "ATTN_RES"),
)
"""Where a deviation applies to several presets, the first of these is taken; LUCIDRAINS, whose norm clamps at
1e-12, where it shows in nothing else."""

SCHEMA = 1
"""The number of the form of identify-table.json."""

OUTSIDE = {
    "published:x-transformers": "projection",
    "published:hyper-connections-channel-first": "layers",
    "published:hyper-connections-unconstrained-channel-first": "post",
}
"""Published implementations that compute what no dialect does, and the first stage at which they leave theirs
(docs/findings.md): a matrix of ones, tokens that are added up."""

EQUIVALENT = {
    "expand-stream-0-only": "it is what expand = 'one-hot' declares",
    "bottleneck-end-is-a-mean": "it is what collapse = 'mean' declares",
    "identity-matrix": "it is what residual = 'identity' declares",
    "ends-on-first-axis": "a softmax over rows, then 19 times columns and rows: without the last division",
    "first-axis-once-more": "a softmax over rows, then 20 times columns and rows: rows once more",
}
"""Deviations that are told as a change of fields although they are none by construction, and why that is the same."""


@dataclass(frozen=True)
class Row:
    """One target: what it is, what was said about it, and whether that is right.

    verdict: ``right``; ``outside``: no dialect, said so, with the right first bad stage; ``fields``: a deviation found
    as the change of fields that it is; ``named``; ``equivalent``: other words for the same answers, within the bound on
    fresh questions; ``tie``: one of two, and said that the other would not show next to it; ``missed``; ``wrong``.
    """

    target: str
    verdict: str
    said: str
    ratio: float
    calls: int
    seconds: float

    @property
    def good(self) -> bool:
        """Whether what was said reproduces the target."""
        return self.verdict not in ("missed", "wrong")

    def line(self) -> str:
        """For the table."""
        return (
            f"{self.target:<58} {self.verdict:<11} {self.ratio:8.2g} {self.calls:5d} {self.seconds:6.2f}  {self.said}"
        )

    def data(self) -> dict[str, Any]:
        """For a file."""
        # A number beyond all others has no place in JSON.
        ratio = float(f"{self.ratio:.2g}") if math.isfinite(self.ratio) else None
        return {"target": self.target, "verdict": self.verdict, "ratio": ratio, "calls": self.calls, "said": self.said}


def row(target: str, implementation: Implementation, wanted: Sequence[str] = (), seconds: float = 600.0) -> Row:
    """Identify one target of which it is known what is wrong with it."""
    hidden = len(CATALOGUE) if len(wanted) > 1 else 0  # of two slips one may hide the other
    begun = time.process_time()
    found = identify(implementation, seconds=seconds, hidden=hidden)
    spent = time.process_time() - begun
    if target in OUTSIDE:
        verdict = "outside" if not found.explained and found.stage == OUTSIDE[target] else "wrong"
    else:
        verdict = _verdict(found, implementation, wanted)
    said = found.headline() + "".join(f" [as well: {tie.words}]" for tie in found.ties)
    said += f" [{EQUIVALENT[wanted[0]]}]" if verdict == "equivalent" and len(wanted) == 1 else ""
    said += f" [hides: {', '.join(found.hidden)}]" * (verdict == "tie")
    return Row(target, verdict, said, found.residual_ratio, found.calls, spent)


def _verdict(found: Identification, implementation: Implementation, wanted: Sequence[str]) -> str:
    if not found.explained or not found.residual_ratio <= 1:
        return "missed"
    if not wanted:
        return "right" if not found.differs and not found.deviation else "wrong"
    words = [part for tie in found.ties for part in tie.words.split(", ")]
    said = {*found.deviations, *(part.removeprefix("deviation ") for part in words)}
    if len(wanted) == 1 and isinstance(implementation, Deviant) and redialected(implementation):
        fields = implementation.dialect.difference(implementation.computed)
        if found.differs == fields:
            return "fields"
    said |= {name for name in wanted if _as_fields(name, found, implementation.dialect)}
    if all(name in said for name in wanted):
        return "named"
    if all(name in {*said, *found.hidden} for name in wanted):
        return "tie"
    left = [name for name in wanted if name not in said]
    if len(wanted) > 1 and found.differs and set(left) <= set(EQUIVALENT):
        return "equivalent"
    if len(left) < len(wanted) and set(found.deviations) <= set(wanted):
        return "missed"
    return "equivalent" if len(wanted) > 1 or wanted[0] in EQUIVALENT else "wrong"


def _as_fields(name: str, found: Identification, declared: Dialect) -> bool:
    """Whether a deviation that only changes fields is among the fields that differ."""
    made = CATALOGUE[name].make(declared)
    if not isinstance(made, Deviant) or not redialected(made):
        return False
    changed = made.computed.difference(declared)
    return all(found.differs.get(field, (None, None))[1] == pair[0] for field, pair in changed.items())


def correct() -> Iterator[tuple[str, Implementation]]:
    """Every preset, every control in every preset that it can compute, every published implementation installed."""
    for name, dialect in PRESETS.items():
        yield f"ref:{name}", Reference(dialect, f"ref:{name}")
    for name, control in controls.CATALOGUE.items():
        for preset, dialect in PRESETS.items():
            if control.applies(dialect):
                yield f"control:{name}@{preset}", controls.build(name, dialect)
    for name in published.ADAPTERS:
        try:
            yield f"published:{name}", published.build(name)
        except ImportError:
            continue


def homes() -> dict[str, Dialect]:
    """Dialects in which something is shown, by their titles, the most telling first."""
    last = {"LUCIDRAINS": PRESETS["LUCIDRAINS"]} if "LUCIDRAINS" in PRESETS else {}
    return {**{title: PRESETS[title] for title in PREFERRED if title in PRESETS}, **ELSEWHERE, **last}


def home(name: str) -> tuple[str, Dialect]:
    """The dialect in which a deviation is shown."""
    applies = (CATALOGUE | HIDDEN)[name].applies
    return next((title, dialect) for title, dialect in homes().items() if applies(dialect))


def singles() -> Iterator[tuple[str, Implementation, tuple[str, ...]]]:
    """Every deviation in its first preset."""
    for name, deviation in CATALOGUE.items():
        preset, dialect = home(name)
        yield f"deviation:{name}@{preset}", deviation.make(dialect), (name,)


def pairs(count: int, seed: int = 0) -> Iterator[tuple[str, Implementation, tuple[str, ...]]]:
    """A sample of two deviations at a time, both of which apply to the same preset; another deviation adds to it."""

    def rank(pair: tuple[str, str]) -> bytes:
        return hashlib.blake2b(f"{seed} {' '.join(pair)}".encode(), digest_size=8).digest()

    found = 0
    for one, two in sorted(itertools.combinations(sorted(CATALOGUE), 2), key=rank):
        preset, dialect = home(one)
        made = compose((one, two), dialect)
        if made is None:
            continue
        yield f"{one} and {two} @{preset}", made, (one, two)
        found += 1
        if found == count:
            return


PARTS = ("correct", "singles", "pairs")


def built(part: str, target: str, wanted: Sequence[str]) -> Implementation:
    """The implementation of a row, by its part and its name.

    Raises:
        ValueError: there is none of that name.
    """
    if part == "pairs":
        made = compose((wanted[0], wanted[1]), home(wanted[0])[1])
        if made is not None:
            return made
    elif part == "singles":
        return CATALOGUE[wanted[0]].make(home(wanted[0])[1])
    else:
        kind, _, name = target.partition(":")
        if kind == "published":
            return published.build(name)
        name, _, preset = name.partition("@")
        if kind == "ref" and name in PRESETS:
            return Reference(PRESETS[name], target)
        if kind == "control" and preset in PRESETS:
            return controls.build(name, PRESETS[preset])
    raise ValueError(f"the table has no row {target} of the part {part}")


def summary(made: Sequence[Row]) -> str:
    """How many of each verdict, and what they cost."""
    return told(counted(made))


def counted(made: Sequence[Row]) -> dict[str, Any]:
    """How many of each verdict, the most frequent first, and what they cost: seconds of processor time, and calls."""
    times = [one.seconds for one in made]
    return {
        "verdicts": dict(Counter(one.verdict for one in made).most_common()),
        "median_seconds": round(statistics.median(times), 2),
        "slowest_seconds": round(max(times), 2),
        "median_calls": round(statistics.median(one.calls for one in made)),
    }


def told(part: Mapping[str, Any]) -> str:
    """What was counted, in a sentence."""
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in part["verdicts"].items())
    return (
        f"{sum(part['verdicts'].values())} targets: {verdicts}; median {part['median_seconds']:.2f} s, "
        f"slowest {part['slowest_seconds']:.2f} s, median {part['median_calls']} calls"
    )


def data(made: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    """The table as it is kept: {schema, parts}, and of each part what was counted and its rows."""
    parts = {part: {**counted(found), "rows": [one.data() for one in found]} for part, found in made.items()}
    return {"schema": SCHEMA, "parts": parts}


PAGE = """\
# What `identify` says about everything that this package knows

{parts}

The rows are in [identify-table.json](identify-table.json). `make site` draws them below this page, with a search.
Both files are made by `mhc-properties campaign run identify`. [identify.md](identify.md) explains the verdicts.
"""


def page(kept: Mapping[str, Any]) -> str:
    """What the table comes to, in Markdown."""
    return PAGE.format(parts="\n".join(f"* *{part}*, {told(found)}." for part, found in kept["parts"].items()))


def publish(folder: Path, made: Mapping[str, Sequence[Row]]) -> None:
    """Write identify-table.json and identify-table.md."""
    kept = data(made)
    write_whole(folder / "identify-table.json", (json.dumps(kept, indent=1) + "\n").encode())
    write_whole(folder / "identify-table.md", page(kept).encode())
