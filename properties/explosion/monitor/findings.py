"""What a monitor has found so far, as it is read from outside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from properties.explosion.monitor.passes import Pass
from properties.explosion.monitor.report import Report
from properties.explosion.monitor.thresholds import Nearest
from properties.explosion.monitor.troubles import Troubles


class Findings:
    """The part of a monitor that is only read."""

    _report: Report
    _troubles: Troubles

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of the last recorded pass."""
        return self._report.rows

    @property
    def left(self) -> dict[str, Any] | None:
        """The row of the first layer that left its bounds, if one did."""
        return self._report.left

    @property
    def departures(self) -> dict[str, dict[str, Any]]:
        """The row of the first layer that left them in each way, or crossed each threshold."""
        return self._report.departures

    @property
    def nearest(self) -> dict[str, Nearest]:
        """How near the run has come to each threshold so far, by its name: what to set thresholds of your own by."""
        return self._report.nearest

    @property
    def run(self) -> str:
        """The name of the run, which every row has."""
        return self._report.run

    @property
    def saved(self) -> list[Path]:
        """The files of last passes that were saved; `mhc-properties replay FILE` computes their mixing again."""
        return self._report.saved

    @property
    def troubles(self) -> int:
        """How often something went wrong in the monitor itself."""
        return self._troubles.count


def born(at: Pass, rows: list[dict[str, Any]]) -> str | None:
    """Where what is not finite was born in a pass, if anything is not."""
    lost = any(row["leaves"] == "not finite" for row in rows) or (at.finite is not None and not bool(at.finite))
    if not lost:
        return None
    found = at.course.born() if at.course is not None else None
    return found or "what no module gave away"
