"""What stands in a campaign's folder: where it is, what its answers come to, and how long other engines would take."""

from __future__ import annotations

import heapq
from collections import Counter
from typing import Any

from properties.campaign.folder import Folder, Record
from properties.campaign.kinds import kind_of

SIMULATED = (1, 2, 8, 64, 512)
"""Workers."""
OVERHEAD = 0.01
"""Seconds that a cell costs the engine besides, of which the client can hand over one at a time."""


def status(folder: Folder) -> dict[str, Any]:
    """{asked, answered, missing, put_aside, left_over, by_kind: {kind: [asked, answered]}, seconds_left}.

    Answers are counted by their names; none is opened.
    """
    cells, done, aside = folder.cells(), folder.answered(), folder.quarantined()
    kinds: dict[str, list[int]] = {}
    for one in cells:
        counts = kinds.setdefault(one.kind, [0, 0])
        counts[0] += 1
        counts[1] += one.address in done
    left = [one for one in cells if one.address not in done and one.address not in aside]
    return {
        **{"asked": len(cells), "answered": len(cells) - len(left) - len(aside), "missing": len(left)},
        **{"put_aside": sorted(aside), "left_over": [str(one) for one in folder.left_over()]},
        **{"by_kind": kinds, "seconds_left": round(sum(one.cost for one in left), 1)},
    }


def status_text(said: dict[str, Any]) -> str:
    """A line for every kind, and what needs somebody."""
    lines = [f"{kind}: {done} of {asked} cells answered" for kind, (asked, done) in said["by_kind"].items()]
    if not lines:
        return "nothing was asked yet"
    if said["missing"]:
        lines.append(f"{said['missing']} cells are missing, about {said['seconds_left']:.0f} s of one worker")
    lines += [f"put aside, it ended its process three times: {one}" for one in said["put_aside"]]
    lines += [f"left by a process that died, a counterexample may be in it: {one}" for one in said["left_over"]]
    return "\n".join(lines)


def report(folder: Folder) -> tuple[str, bool]:
    """What the answers come to, kind by kind; and whether one of them accuses."""
    records: dict[str, list[Record]] = {}
    errors: Counter[str] = Counter()
    for one in folder.records():
        if one["status"] == "error":
            errors[one["answer"]["error"]] += 1
        else:
            records.setdefault(one["kind"], []).append(one)
    lines: list[str] = []
    wrong = False
    for kind, found in records.items():
        text, bad = kind_of(kind).told(found, folder.path)
        lines.append(text)
        wrong = wrong or bad
    lines += [f"a fault of the harness, {count} times: {why}" for why, count in errors.most_common()]
    return "\n".join(lines) or "nothing was answered yet", wrong


def simulated(folder: Folder) -> dict[int, dict[str, float]]:
    """Of several numbers of workers {makespan, ideal, longest}: seconds if cells took what they took here, the longest
    first; without the start of workers.

    A greedy schedule, longest first, takes at most 4/3 of the shortest possible one (Graham 1969, theorem 2). `ideal`
    is the sum over the workers, or the longest cell where that is more.
    """
    costs = sorted((one["run"]["seconds"] for one in folder.records()), reverse=True)
    return {workers: _makespan(costs, workers) for workers in SIMULATED} if costs else {}


def _makespan(costs: list[float], workers: int) -> dict[str, float]:
    free = [0.0] * workers
    handed = 0.0
    for one in costs:
        begin = max(heapq.heappop(free), handed)
        handed = begin if workers == 1 else max(handed, begin - OVERHEAD) + OVERHEAD
        heapq.heappush(free, begin + OVERHEAD + one)
    total = sum(costs)
    return {"makespan": max(free), "ideal": max(total / workers, costs[0]), "longest": costs[0]}


def simulation_text(found: dict[int, dict[str, float]]) -> str:
    """A line for every number of workers."""
    lines = [f"{'workers':>8}{'seconds':>12}{'ideal':>12}  bounded by"]
    for workers, one in found.items():
        bounded = "the longest cell" if one["ideal"] <= one["longest"] * (1 + 1e-9) else "the sum of all cells"
        if one["makespan"] > 1.5 * one["ideal"]:
            bounded = "handing cells over one at a time"
        lines.append(f"{workers:>8}{one['makespan']:>12.1f}{one['ideal']:>12.1f}  {bounded}")
    return "\n".join(lines) if found else "nothing was answered yet"
