"""What a folder of a run holds, as one object: gpu.json. Whatever ended the run, what it had found is in it.

    {schema, complete, when, source, short, device: {type, name, driver, cores}, versions, plan, seconds, parts,
     findings, cut}

`parts` has an object for each part of the plan: how it ended, and under `found` what it has found. `findings` are
sentences about what is wrong, none of them a known failure of this package; `cut` says what was not reached, and why.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from properties.campaign.folder import Folder, FolderError, Record
from properties.campaign.gpu.asked import SAME_AS
from properties.engine.known_file import PUBLISHED

SCHEMA = 1
"""The number of the form of gpu.json."""

Found = dict[str, Any]


class GatheringError(ValueError):
    """A folder is none of a run, or a file in it cannot be read; the text says which and why."""


def gathered(out: Path) -> Found:
    """The object.

    Raises:
        GatheringError: see there.
    """
    asked = _read(out / "run.json")
    if asked.get("schema") != SCHEMA:
        raise GatheringError(f"{out / 'run.json'} has the schema {asked.get('schema')!r}; this version reads {SCHEMA}")
    parts = [_part(out, one) for one in asked["plan"]]
    head = {name: asked[name] for name in ("when", "source", "short", "device", "versions", "plan")}
    return {
        **{"schema": SCHEMA, "complete": all(one["status"] == "finished" for one in parts), **head},
        "seconds": round(sum(one["seconds"] for one in parts), 1),
        "parts": parts,
        "findings": [line for one in parts for line in one["findings"]],
        "cut": [line for one in parts for line in one["cut"]],
    }


def _part(out: Path, planned: Found) -> Found:
    name, folder = planned["name"], out / "parts" / planned["name"]
    path = out / "parts" / f"{name}.json"
    if path.exists():
        ended = _read(path)
    else:
        why = "the run was killed while it was at work" if folder.exists() else "the run had ended before"
        status = "killed" if folder.exists() else "not begun"
        ended = {**{"name": name, "title": planned["title"], "status": status, "why": why, "steps": {}}}
        ended |= {"planned": planned["seconds"], "limit": None, "seconds": 0.0}
    found, findings, cut = _READERS[name](folder) if folder.exists() else ({}, [], [])
    if ended["status"] != "finished":
        cut = [f"{name}: {ended['status']}, {ended['why']}", *cut]
    elif cut:
        ended["status"] = "cut off"
    return {**ended, "found": found, "findings": findings, "cut": cut}


def _read(path: Path) -> Found:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise GatheringError(f"{path} cannot be read as a file of a run: {error}") from None
    if not isinstance(found, dict):
        raise GatheringError(f"{path} cannot be read as a file of a run: it holds no object")
    return found


Said = tuple[Found, list[str], list[str]]
"""What was found, the findings and what was cut off."""

_OUTCOME = re.compile(
    r"(?:^|\s)(?:(\S+\.py::.+?) )?(PASSED|FAILED|ERROR|SKIPPED)(?: (\S+\.py::.+?))?(?: \(.*\))?(?: +\[ *\d+%\])?\s*$"
)


def _tests(folder: Path) -> Said:
    """Outcomes by test, from the lines that pytest writes as it goes, with and without workers."""
    log = folder / "pytest.log"
    outcomes: dict[str, str] = {}
    for line in log.read_text(errors="replace").splitlines() if log.exists() else ():
        seen = _OUTCOME.search(line)
        if seen and (test := seen[1] or seen[3]):
            outcomes[test.partition(" - ")[0].rpartition("/")[2]] = seen[2].lower()
    counts = Counter(outcomes.values())
    bad = sorted(test for test, outcome in outcomes.items() if outcome in ("failed", "error"))
    cut = [f"tests: {counts['skipped']} were skipped"] if counts["skipped"] else []
    return {"counts": dict(counts), "failed": bad}, [f"tests: {one} failed" for one in bad], cut


def _records(folder: Path) -> tuple[list[Record], int, int, dict[str, str]]:
    """All answers of the campaigns of a part, how many were asked, how many were put aside, and who was left out."""
    records: list[Record] = []
    asked = aside = 0
    absent: dict[str, str] = {}
    for one in sorted(folder.iterdir()):
        if (one / "manifest.json").exists():
            campaign = Folder(one)
            try:
                records += campaign.records()
                asked += len(campaign.cells())
                aside += len(campaign.quarantined())
            except FolderError as error:
                raise GatheringError(str(error)) from None
        if (one / "absent.json").exists():
            absent |= _read(one / "absent.json")
    return records, asked, aside, absent


def _laws(folder: Path) -> Said:
    """By target and dtype: how many laws were asked and how they ended, and the worst ratio of each."""
    records, asked, aside, absent = _records(folder)
    known = _known()
    tables: dict[str, Found] = {}
    findings: list[str] = []
    for one in sorted(records, key=lambda record: (record["question"]["target"], record["question"]["law"])):
        question, answer = one["question"], one["answer"]
        target, law, dtype = question["target"], question["law"], question["dtype"]
        table = tables.setdefault(f"{target} {dtype}", {"statuses": {}, "ratios": {}, "failed": {}, "left_out": {}})
        status = "error" if one["status"] == "error" else answer["status"]
        if status == "failed" and known & {(SAME_AS.get(target, target), law, one) for one in (dtype, None)}:
            status = "known"
        table["statuses"][status] = table["statuses"].get(status, 0) + 1
        if status == "error":
            findings.append(f"{target} {dtype}, {law}: a fault of the harness, {answer.get('error', '')[:200]}")
            continue
        if answer["examples"]:
            table["ratios"][law] = answer["worst_ratio"]
        if status in ("failed", "known"):
            table["failed"][law] = answer["reason"]
        if status == "failed" and not target.startswith("deviation:"):
            findings.append(f"{target} {dtype} breaks {law}: {answer['reason'][:200]}")
    without = {name: why.removeprefix(f"{name}: ") for name, why in sorted(absent.items())}
    cut = [f"{folder.name}: {name} was left out: {why}" for name, why in without.items()]
    if len(records) < asked:
        cut.append(f"{folder.name}: {asked - len(records)} of {asked} laws were not reached, {aside} of them put aside")
    return {"asked": asked, "answered": len(records), "targets": tables, "absent": absent}, findings, cut


def _known() -> set[tuple[str, str, str | None]]:
    """Target, law and dtype (None: every one) of the known failures, on whatever device they were found."""
    with PUBLISHED.open("rb") as file:
        entries = tomllib.load(file)["known"]
    return {(one["implementation"], one["law"], one.get("dtype")) for one in entries}


def _deviations(folder: Path) -> Said:
    """As `_laws`; of a deviation one law has to see it, and those that have been asked without seeing it are told."""
    found, findings, cut = _laws(folder)
    seen: dict[str, bool] = {}
    for title, table in found["targets"].items():
        target = title.partition(" ")[0]
        if not target.startswith("deviation:"):
            continue
        statuses = table["statuses"]
        if set(statuses) <= {"not-applicable"}:
            cut.append(f"deviations: {target} could not be tried: no law that sees it applies here")
            continue
        seen[target] = "failed" in statuses
    blind = [name for name, one in seen.items() if not one]
    whole = found["answered"] == found["asked"]
    if whole:
        findings += [f"{name} was not seen by any law that has to see it" for name in blind]
    return {**found, "seen": seen}, findings, cut


def _reproduction(folder: Path) -> Said:
    """The runs, each with its last point, its largest forward gain and what the monitor said."""
    runs = [_read(path) for path in sorted(folder.glob("*.json"))]
    rows: list[Found] = []
    cut: list[str] = []
    for one in runs:
        points = [point for _, point in sorted(one["gains"].items(), key=lambda item: int(item[0]))]
        forward = [point[0] for point in points if point[0] is not None]
        losses = [loss for _, loss in sorted(one["losses"].items(), key=lambda item: int(item[0]))]
        row = {name: one[name] for name in ("residual", "seed", "weights", "steps", "asked", "ended", "alarms")}
        row |= {"largest_forward_gain": max(forward, default=None), "last_gains": points[-1] if points else None}
        row |= {"first_loss": losses[0] if losses else None, "last_loss": losses[-1] if losses else None}
        rows.append(row | {"seconds": one["seconds"], "troubles": one["troubles"], "dtype": one["dtype"]})
        if one["steps"] < one["asked"]:
            cut.append(f"reproduction: {one['residual']}, seed {one['seed']}: {one['steps']} of {one['asked']} steps")
    setup = {name: runs[0][name] for name in ("setup", "rate")} if runs else {}
    return {**setup, "runs": rows}, [], cut


def _throughput(folder: Path) -> Said:
    path = folder / "throughput.json"
    if not path.exists():
        return {"rows": []}, [], []
    told = _read(path)
    left = told["asked"] - len(told["rows"])
    return {"rows": told["rows"]}, [], [f"throughput: {left} of {told['asked']} measurements"] if left else []


_READERS: dict[str, Callable[[Path], Said]] = {
    "tests": _tests,
    "kernels": _laws,
    "sizes": _laws,
    "deviations": _deviations,
    "reproduction": _reproduction,
    "throughput": _throughput,
}
"""Part -> what is in its folder."""


def named() -> Iterable[str]:
    """The parts that can be read."""
    return _READERS
