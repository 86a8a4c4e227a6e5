"""The run's denominator: which laws were exercised on what, which were not and why, on the terminal and in
report.json.

The file says with `complete` whether the run came to its end: one that was cut off has what it had found by then.
"""

from __future__ import annotations

import dataclasses
import json
import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from properties.guards.printable import message_of, printable
from properties.guards.whole import write_whole
from properties.report.cause import Cause, entries, numbered
from properties.report.offering import never_tuned, offer_next

STATUSES = ("passed", "failed", "known", "not-applicable", "error")

SCHEMA = 4
"""The number of the form that report.json has. Form 3, without `laws` and pictures, form 2, without `causes`, and
form 1, without a number and without `complete`, are read too."""

NOTHING_EXERCISED = 5
"""Exit status of a run that exercised no law: pytest's own where no test was run."""
ERROR_ONLY = 3
"""Exit status of a run in which no law failed but the harness did."""


WIDTH = 80
"""Characters in a line of the summary, where names allow that."""


class ReportError(Exception):
    """A file that is no report of a run; the message says what is wrong with it."""


_OF_RUN = ("declared_bounds", "doubts")
"""Fields of a line that are the same for every law of a run, and tuples."""
_SEVERAL = (*_OF_RUN, "causes", "belongs", "example", "unlocked_by", "untuned")
"""Fields of a line that are tuples."""


@dataclasses.dataclass(frozen=True)
class Line:
    """One law on one implementation, dtype and device; plain data, so that it travels between processes.

    Attributes:
        doubts: what looks like a slip in what is declared, see `properties.core.doubts`.
        causes: the keys of the causes that explain its failure: several where only all of them together do.
        belongs: how that is known of each: "first" (the failure that was explained), "shown", or "not told apart".
        readable: how readable its counterexample is, the smaller the more so; None where there is none.
        example: the counterexample in few lines.
        unlocked_by: methods that are not offered, each of which alone would make the law apply.
        untuned: of a law that tunes, the fields that are offered as tunable and that it leaves as they are.
        sizes: which sizes a law that goes through them visited, and what it left out.
        claims: of how many numbers and facts something was claimed.
        abstentions: of how many numbers nothing was, their bound being infinite or as large as they are.
        stages: by what was bounded, [claims, abstentions]; only where there are abstentions.
        visited: of a law that goes through sizes, along each axis [size, points visited, points that failed].
        nearness: by what was judged, [half decade of error / bound, how often], see `properties.core.picture.bin_of`.
        failure: the numbers of the counterexample, see `properties.engine.picturing.failure`; None where there is none.
    """

    implementation: str
    dialect: dict[str, Any]
    dtype: str
    device: str
    law: str
    status: str
    reason: str = ""
    examples: int = 0
    worst_ratio: float | None = 0.0
    counterexample: str | None = None
    claims: int = 0
    abstentions: int = 0
    declared_bounds: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    causes: tuple[str, ...] = ()
    belongs: tuple[str, ...] = ()
    readable: float | None = None
    example: tuple[str, ...] = ()
    unlocked_by: tuple[str, ...] = ()
    sizes: str = ""
    untuned: tuple[str, ...] = ()
    stages: dict[str, list[int]] = dataclasses.field(default_factory=lambda: {})
    visited: dict[str, list[list[int]]] = dataclasses.field(default_factory=lambda: {})
    nearness: dict[str, list[list[int]]] = dataclasses.field(default_factory=lambda: {})
    failure: dict[str, Any] | None = None

    def how(self, cause: str) -> str:
        """How it is known that the failure belongs to the cause of that key; empty where it does not."""
        return dict(zip(self.causes, self.belongs, strict=False)).get(cause, "")

    def to_json(self) -> dict[str, Any]:
        """As a plain dictionary."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Line:
        """Back from `to_json`."""
        several = {name: tuple(data.get(name, ())) for name in _SEVERAL}
        fields: dict[str, Any] = {**data, **several}
        return cls(**fields)


def runs(lines: Iterable[Line], ids: Mapping[str, str] = MappingProxyType({})) -> list[dict[str, Any]]:
    """The lines grouped into runs: {implementation, dialect, dtype, device, laws}, in the order in which they came.

    `ids`: the id of every cause by its key.
    """
    grouped: dict[tuple[str, str, str], dict[str, Any]] = {}
    for line in lines:
        key = (line.implementation, line.dtype, line.device)
        run = grouped.setdefault(
            key,
            {
                "implementation": line.implementation,
                "dialect": line.dialect,
                "dtype": line.dtype,
                "device": line.device,
                **{name: list(those) for name in _OF_RUN if (those := getattr(line, name))},
                "laws": {},
            },
        )
        run["laws"][line.law] = {
            "status": line.status,
            "reason": line.reason,
            "examples": line.examples,
            "worst_ratio": line.worst_ratio,
            "counterexample": line.counterexample,
            "claims": line.claims,
            "abstentions": line.abstentions,
            "cause": next((ids.get(key, key) for key in line.causes), None),
            "causes": [ids.get(key, key) for key in line.causes],
            "belongs": list(line.belongs),
            "readable": line.readable,
            **({"example": list(line.example)} if line.example else {}),
            **({"unlocked_by": list(line.unlocked_by)} if line.unlocked_by else {}),
            **({"sizes": line.sizes} if line.sizes else {}),
            **({"stages": line.stages} if line.stages else {}),
            **({"visited": line.visited} if line.visited else {}),
            **({"nearness": line.nearness} if line.nearness else {}),
            **({"failure": line.failure} if line.failure else {}),
        }
    return list(grouped.values())


@dataclasses.dataclass(frozen=True)
class Unreached:
    """What a run left out, as it was asked to end before.

    Attributes:
        laws: the id of every law, once for each subject on which it was not tried.
        why: in words, as in "in 60 s".
    """

    laws: tuple[str, ...] = ()
    why: str = ""


def totals(lines: list[Line], collected: int, unreached: Unreached = Unreached()) -> dict[str, Any]:
    """How many laws were exercised, how many were not, why, and how many are silently absent (which must be none)."""
    counts = Counter(line.status for line in lines)
    laws = {line.law for line in lines} | set(unreached.laws)
    tried = {line.law for line in lines if line.status != "not-applicable"}
    exercised = {line.law for line in lines if line.status in ("passed", "failed", "known")}
    missed = set(unreached.laws) - tried
    reasons = Counter(printable(line.reason) for line in lines if line.status == "not-applicable")
    return {
        "laws": len(laws),
        "laws_exercised": len(exercised),
        "laws_not_applicable": len(laws - tried - missed),
        "laws_unreached": len(missed),
        "runs": collected,
        **{status: counts.get(status, 0) for status in STATUSES},
        "unreached": len(unreached.laws),
        "unreached_why": unreached.why,
        "absent": collected - len(lines) - len(unreached.laws),
        "reasons": dict(reasons.most_common()),
        "offer_next": offer_next(lines),
        "never_tuned": never_tuned(lines),
    }


def sentence(total: dict[str, Any]) -> str:
    """As in: 58 of 64 laws exercised, 6 not applicable, 0 silently absent."""
    never, missed, beyond = (total.get(name, 0) for name in ("laws_not_applicable", "laws_unreached", "unreached"))
    exercised = f"{total['laws_exercised']} of {total['laws']} laws exercised"
    broken = total["laws"] - total["laws_exercised"] - never - missed
    errors = f"{broken} in error, " if broken else ""
    all_told = f" ({beyond} on all subjects)" if beyond != missed else ""
    left = f"{missed} not reached {total['unreached_why']}{all_told}, " if beyond else ""
    whole = ", so that this run is not whole" if total["absent"] else ""
    return f"{exercised}, {never} not applicable, {errors}{left}{total['absent']} silently absent{whole}"


def table(lines: list[Line]) -> list[str]:
    """For each run counts, and the worst ratio with its law; each in two lines where one would be too long."""
    found: list[tuple[str, str]] = []
    labels = [f"{run['implementation']} {run['dtype']} {run['device']}" for run in runs(lines)]
    for label, run in zip(labels, runs(lines), strict=True):
        laws: dict[str, Any] = run["laws"]
        counts = Counter(entry["status"] for entry in laws.values())
        ratios = {
            law: _number(entry["worst_ratio"]) for law, entry in laws.items() if entry["status"] in ("passed", "failed")
        }
        law = max(ratios, key=lambda name: ratios[name]) if ratios else ""
        exercised = counts["passed"] + counts["failed"] + counts["known"]
        worst = f"worst ratio {ratios[law]:.3g} ({law})" if law else "nothing exercised"
        failed = f", {counts['failed']} FAILED" if counts["failed"] else ""
        broken = f", {counts['error']} harness errors" if counts["error"] else ""
        counted = f"{label:<{max(map(len, labels))}} {exercised:>3} of {len(laws)} laws{failed}{broken}"
        found.append((counted, worst))
    if all(len(f"{counted}; {worst}") <= WIDTH for counted, worst in found):
        return [f"{counted}; {worst}" for counted, worst in found]
    return [line for counted, worst in found for line in (*wrapped(counted), f"    {worst}")]


def wrapped(text: str) -> list[str]:
    """The text in lines of a terminal."""
    return textwrap.wrap(text, WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)


def _number(ratio: float | None) -> float:
    return math.inf if ratio is None else ratio


def made(
    lines: list[Line],
    collected: int,
    versions: dict[str, str],
    complete: bool = True,
    causes: Sequence[Cause] = (),
    unreached: Unreached = Unreached(),
) -> dict[str, Any]:
    """The content of report.json: {schema, complete, totals, versions, causes, laws, runs}."""
    total = totals(lines, collected, unreached)
    return {
        "schema": SCHEMA,
        "complete": complete,
        "totals": {**total, "sentence": sentence(total)},
        "versions": versions,
        "causes": entries(causes, lines),
        "laws": stated(line.law for line in lines),
        "runs": runs(lines, numbered(causes)),
    }


def stated(laws: Iterable[str]) -> dict[str, dict[str, str]]:
    """What the laws of those ids say: {id: {statement, reason, kind}}, of those that there are here."""
    from properties.core.law import all_laws  # which needs torch, and this module is loaded before that

    known = all_laws()
    found = ((id, known[id]) for id in dict.fromkeys(laws) if id in known)
    return {id: {"statement": one.statement, "reason": one.reason, "kind": one.kind} for id, one in found}


def write(
    path: Path,
    lines: list[Line],
    collected: int,
    versions: dict[str, str],
    complete: bool = True,
    causes: Sequence[Cause] = (),
    unreached: Unreached = Unreached(),
) -> dict[str, Any]:
    """Write report.json, whole or not at all, and return its content.

    Raises:
        OSError: it cannot be written; what stood there is untouched.
    """
    report = made(lines, collected, versions, complete, causes, unreached)
    write_whole(path, (json.dumps(report, indent=1) + "\n").encode())
    return report


def exit_code(total: dict[str, Any]) -> int:
    """The exit status that the totals of a whole report stand for: 1 a law failed, which outranks everything; 3 the
    harness failed, or something is absent or was not reached; 5 nothing was exercised; 0 every exercised law held or
    failed as known."""
    if total["failed"]:
        return 1
    if total["error"] or total["absent"] > 0 or total.get("unreached", 0):
        return ERROR_ONLY
    return 0 if total["laws_exercised"] else NOTHING_EXERCISED


def nothing_exercised(total: dict[str, Any]) -> str:
    """One sentence for a run that says nothing about its implementations."""
    reasons = [f"{reason} ({count})" for reason, count in list(total["reasons"].items())[:3]]
    why = "; ".join(reasons) + ("; ..." if len(total["reasons"]) > 3 else "")
    unreached = "no law came to its end" if total.get("unreached", 0) else "no law was tried"
    return f"nothing was exercised, so this run says nothing about the implementation: {why or unreached}"


# -- reading ----------------------------------------------------------------------------------------------------------


def read(path: Path) -> dict[str, Any]:
    """A report.json, of this version or an earlier one, as this version writes it.

    Raises:
        ReportError: no such file, no JSON, no report of a run, or one that a later version has written.
    """
    try:
        if not path.is_file():
            raise ReportError(f"there is no file {path}; a run writes DIR/report.json (--report DIR)")
        found: Any = json.loads(path.read_bytes(), parse_float=_finite, parse_constant=_finite)
    except (OSError, ValueError, RecursionError) as error:
        raise ReportError(f"{path} is no report of a run: {message_of(error, 300)}") from error
    if not isinstance(found, dict):
        raise ReportError(f"{path} is no report of a run: it holds {type(found).__name__}, not an object")
    report = cast("dict[str, Any]", found)
    schema = report.get("schema", 1)
    if isinstance(schema, bool) or not isinstance(schema, int) or schema < 1:
        raise ReportError(f"{path} has the schema {printable(repr(schema), 60)}; expected a number from 1 to {SCHEMA}")
    if schema > SCHEMA:
        raise ReportError(f"{path} has the schema {schema}, of a later version; this one reads 1 to {SCHEMA}")
    try:
        lines_of(report)
    except ReportError as error:
        raise ReportError(f"{path} is no report of a run: {error}") from None
    return {**report, "complete": report.get("complete", True)}


def _finite(text: str) -> float:
    """A number of a file; JSON has none that is not finite, and no page could hold it."""
    if not math.isfinite(value := float(text)):
        raise ValueError(f"it holds {text[:80]}; expected finite numbers")
    return value


_ENTRY = {field.name for field in dataclasses.fields(Line)} - {
    *("implementation", "dialect", "dtype", "device", "law", *_OF_RUN)
}


def lines_of(report: dict[str, Any]) -> list[Line]:
    """The lines of a report; what another version has written beside them is passed over.

    Raises:
        ReportError: it does not have the form of one.
    """
    try:
        return [_line(run, law, entry) for run in report["runs"] for law, entry in run["laws"].items()]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ReportError(f"{type(error).__name__}: {message_of(error, 300)}") from None


def _line(run: dict[str, Any], law: str, entry: dict[str, Any]) -> Line:
    fields = {name: entry[name] for name in entry if name in _ENTRY}
    fields.update({name: tuple(fields.get(name, ())) for name in _SEVERAL if name not in _OF_RUN})
    line = Line(run["implementation"], run["dialect"], run["dtype"], run["device"], law, **fields)
    line = dataclasses.replace(line, **{name: tuple(run.get(name, ())) for name in _OF_RUN})
    words = (
        line.implementation,
        line.dtype,
        line.device,
        line.reason,
        line.counterexample or "",
        *line.declared_bounds,
        *line.doubts,
        *line.causes,
        *line.example,
        *line.unlocked_by,
        *line.belongs,
        line.sizes,
    )
    if not all(isinstance(one, str) for one in words):  # pyright: ignore[reportUnnecessaryIsInstance]  # a file
        raise TypeError(f"{law} has something else than a string where one belongs")
    if line.status not in STATUSES:
        raise ValueError(f"{law} has the status {line.status!r}; expected one of {', '.join(STATUSES)}")
    for stage, counts in line.stages.items():
        numbers: list[Any] = list(counts)
        if len(numbers) != 2 or any(type(one) is not int or one < 0 for one in (*numbers,)):
            raise ValueError(f"{law} counts {numbers!r} of {stage!r}; expected [claims, abstentions]")
    ratio: Any = line.worst_ratio
    if ratio is not None and (isinstance(ratio, bool) or not isinstance(ratio, (int, float))):
        raise TypeError(f"{law} has the worst_ratio {ratio!r}; expected a number or null")
    return line
