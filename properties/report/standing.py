"""How an implementation stands: its laws counted by family, and what failed, as an entry of the living table.

`docs/conformance.json` holds one entry for each published implementation, and a file of `docs/reports/` one that
somebody ran elsewhere. Both have one form, `docs/conformance.schema.json`; the site is drawn from them.
"""

from __future__ import annotations

import datetime
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from properties.guards.printable import message_of, printable
from properties.guards.whole import write_whole
from properties.report.report import Line, lines_of

SCHEMA = 1
"""The number of the form: {schema, implementations}."""
COUNTED = ("passed", "failed", "error", "not-applicable")
"""What the laws of a family are counted as; a failure that is known counts as one."""
_MOST_PICTURE = 6_000
"""Bytes of the numbers of one failure; what is larger goes without its inputs, and then without its picture."""

Explained = Callable[[Line], "tuple[str, str, str] | None"]
"""Why a failed law fails, where that is written, and the file of its counterexample; None where nobody knows."""


class StandingError(Exception):
    """A file of entries that cannot be read; the message says what is wrong with it."""


def standing(
    name: str,
    lines: Sequence[Line],
    *,
    made: str,
    command: str,
    versions: Mapping[str, str],
    trouble: str = "",
    explained: Explained = lambda line: None,
    **more: str,
) -> dict[str, Any]:
    """The entry of one implementation.

    Args:
        made: the day; command: the line that makes it again.
        trouble: why it was not run, or not to the end.
        explained: what is known of a failed law.
        more: `profile` of the search; `where` the source lies; `by` whom it was run.
    """
    groups: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        groups.setdefault((line.dtype, line.device), []).append(line)
    reasons = Counter(line.reason for line in lines if line.status == "not-applicable")
    return {
        "name": name,
        "made": made,
        "command": command,
        "versions": dict(versions),
        **{key: value for key, value in more.items() if value},
        **({"trouble": trouble} if trouble else {}),
        "runs": [_run(dtype, device, mine, explained) for (dtype, device), mine in groups.items()],
        "not_applicable": dict(reasons.most_common()),
    }


def _run(dtype: str, device: str, lines: Sequence[Line], explained: Explained) -> dict[str, Any]:
    families: dict[str, dict[str, int]] = {}
    for line in lines:
        counts = families.setdefault(family_of(line.law), dict.fromkeys(COUNTED, 0))
        counts["failed" if line.status == "known" else line.status] += 1
    return {
        "dtype": dtype,
        "device": device,
        "families": families,
        "failed": [_failed(line, explained(line)) for line in lines if line.status in ("failed", "known", "error")],
        "held": sorted(line.law for line in lines if line.status == "passed"),
    }


def _failed(line: Line, known: tuple[str, str, str] | None) -> dict[str, Any]:
    why, link, file = known or ("", "", "")
    found = {
        "law": line.law,
        "status": "failed" if line.status == "known" else line.status,
        "why": why or line.reason,
        "link": link,
        "counterexample": file,
        # Without the line that replays a file which only whoever ran it has.
        "example": [printable(text, 400) for text in line.example if not text.startswith("replay:")],
        "failure": _small(line.failure),
    }
    return {key: value for key, value in found.items() if value} | {"explained": known is not None}


def _small(failure: dict[str, Any] | None) -> dict[str, Any] | None:
    """The numbers of a failure, without those that are too many for a page that shows all failures."""
    if failure is None:
        return None
    for without in ({}, {"inputs": []}, {"inputs": [], "picture": None}):
        small = {**failure, **without}
        if len(json.dumps(small)) <= _MOST_PICTURE:
            break
    return small


def entries_of(report: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """An entry for each implementation of a report.json, as somebody adds it who has run it elsewhere."""
    lines: dict[str, list[Line]] = {}
    for line in lines_of(report):
        lines.setdefault(line.implementation, []).append(line)
    cut = "" if report["complete"] else "the run was cut off"
    command = "mhc-properties check TARGET, then mhc-properties report DIR --entry FILE"
    return [
        standing(name, mine, made=today(), command=command, versions=report["versions"], trouble=cut, where=where)
        for name, mine in lines.items()
    ]


def today() -> str:
    """The day of an entry or a page; SOURCE_DATE_EPOCH is heeded."""
    stamp = os.environ.get("SOURCE_DATE_EPOCH")
    when = datetime.datetime.fromtimestamp(int(stamp), datetime.UTC) if stamp else datetime.datetime.now(datetime.UTC)
    return when.date().isoformat()


def family_of(law: str) -> str:
    """The first word of a law's id."""
    return law.partition(".")[0]


def read(path: Path) -> list[dict[str, Any]]:
    """The entries of a file.

    Raises:
        StandingError: no such file, no JSON, or of another form.
    """
    shown = printable(str(path), 200)
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise StandingError(f"{shown} cannot be read: {message_of(error, 300)}") from None
    if (
        not isinstance(found, dict)
        or found.get("schema") != SCHEMA
        or not isinstance(found.get("implementations"), list)
    ):
        raise StandingError(
            f'{shown} is no table of implementations; expected {{"schema": {SCHEMA}, "implementations": [...]}}, as '
            "`mhc-properties conformance --out FILE.json` and `mhc-properties report DIR --entry FILE` write it"
        )
    return found["implementations"]


def merged(before: Iterable[dict[str, Any]], entries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries that there are, of which those of a new name come last and those of a known one take its place."""
    found = {entry["name"]: entry for entry in before}
    return list((found | {entry["name"]: entry for entry in entries}).values())


def write(path: Path, entries: Iterable[dict[str, Any]]) -> None:
    """One entry a line, so that a change of one is a change of one line; the file is whole, or what it was.

    Raises:
        OSError: it cannot be written.
    """
    text = ",\n".join(json.dumps(entry, ensure_ascii=False, allow_nan=False) for entry in entries)
    write_whole(path, f'{{"schema": {SCHEMA}, "implementations": [\n{text}\n]}}\n'.encode())
