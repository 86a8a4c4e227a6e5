"""The run's denominator: which laws were exercised on what, which were not and why, on the terminal and in
report.json."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

STATUSES = ("passed", "failed", "known", "not-applicable", "error")


@dataclasses.dataclass(frozen=True)
class Line:
    """One law on one implementation, dtype and device; plain data, so that it travels between processes."""

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

    def to_json(self) -> dict[str, Any]:
        """As a plain dictionary."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Line:
        """Back from `to_json`."""
        return cls(**data)


def runs(lines: Iterable[Line]) -> list[dict[str, Any]]:
    """The lines grouped into runs: {implementation, dialect, dtype, device, laws}, in the order in which they came."""
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
        }
    return list(grouped.values())


def totals(lines: list[Line], collected: int) -> dict[str, Any]:
    """How many laws were exercised, how many were not, why, and how many are silently absent (which must be none)."""
    counts = Counter(line.status for line in lines)
    laws = {line.law for line in lines}
    tried = {line.law for line in lines if line.status != "not-applicable"}
    exercised = {line.law for line in lines if line.status in ("passed", "failed", "known")}
    reasons = Counter(line.reason for line in lines if line.status == "not-applicable")
    return {
        "laws": len(laws),
        "laws_exercised": len(exercised),
        "laws_not_applicable": len(laws - tried),
        "runs": collected,
        **{status: counts.get(status, 0) for status in STATUSES},
        "absent": collected - len(lines),
        "reasons": dict(reasons.most_common()),
    }


def sentence(total: dict[str, Any]) -> str:
    """As in: 58 of 64 laws exercised, 6 not applicable, 0 silently absent."""
    never = total["laws_not_applicable"]
    exercised = f"{total['laws_exercised']} of {total['laws']} laws exercised"
    broken = total["laws"] - total["laws_exercised"] - never
    errors = f"{broken} in error, " if broken else ""
    return f"{exercised}, {never} not applicable, {errors}{total['absent']} silently absent"


def table(lines: list[Line]) -> list[str]:
    """A line for each run: counts, and the worst ratio with the law that it belongs to."""
    found: list[str] = []
    for run in runs(lines):
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
        label = f"{run['implementation']} {run['dtype']} {run['device']}"
        found.append(f"{label:<44} {exercised:>2} of {len(laws)} laws{failed}{broken}; {worst}")
    return found


def why_not(lines: list[Line], most: int = 12) -> list[str]:
    """The laws that were exercised nowhere with their reasons."""
    exercised = {line.law for line in lines if line.status != "not-applicable"}
    reasons: dict[str, set[str]] = {}
    for line in lines:
        if line.law not in exercised:
            reasons.setdefault(line.law, set()).add(line.reason)
    shown = [f"not applicable: {law}: {'; '.join(sorted(why))}" for law, why in reasons.items()]
    return shown[:most] + ([f"... and {len(shown) - most} more in report.json"] if len(shown) > most else [])


def _number(ratio: float | None) -> float:
    return math.inf if ratio is None else ratio


def write(path: Path, lines: list[Line], collected: int, versions: dict[str, str]) -> dict[str, Any]:
    """Write report.json ({totals, versions, runs}) and return it."""
    total = totals(lines, collected)
    report = {"totals": {**total, "sentence": sentence(total)}, "versions": versions, "runs": runs(lines)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
    return report
