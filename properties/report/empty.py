"""Laws most of whose claims were empty: their bounds were infinite, or as large as what they bound."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from properties.report.report import Line


def mostly_empty(lines: Iterable[Line], most: int = 3) -> list[str]:
    """A line for each law that held on numbers of which most were not claimed, the emptiest first, where it is so.

    As in: block.agrees-with-oracle in float32: 4 of 5 claims were empty: the next state (4 of 4).
    """
    worst: dict[str, Line] = {}
    for line in lines:
        if line.status == "passed" and line.abstentions > line.claims:
            before = worst.get(line.law)
            if before is None or share(line) > share(before):
                worst[line.law] = line
    each = sorted(worst.values(), key=lambda line: (-share(line), line.law))
    told = [_told(line) for line in each[:most]]
    more = len(each) - most
    if more > 0:
        told.append(f"... and most claims of {more} more law{'s' * (more > 1)} were empty (report.json, `stages`)")
    return told


def share(line: Line) -> float:
    """The part of what a law looked at that its bounds say nothing of."""
    return line.abstentions / max(1, line.claims + line.abstentions)


def _told(line: Line) -> str:
    empty = sorted(line.stages.items(), key=lambda one: -one[1][1])
    stages = ", ".join(f"{stage} ({counts[1]} of {sum(counts)})" for stage, counts in empty[:3])
    counted = f"{line.abstentions} of {line.claims + line.abstentions} claims were empty"
    return f"{line.law} in {line.dtype}: {counted}{': ' if stages else ''}{stages}"
