"""The conformance table: published implementations x families of laws, as a page, and a run of one of them.

Each runs in a process of its own (Triton reads TRITON_INTERPRET when it is imported), with the known failures of this
package replayed unless they are to be searched for.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from properties.core.law import FAMILIES
from properties.engine.known import Known
from properties.guards.stopping import PARENT
from properties.plugin.launch import LAWS_ALONE
from properties.report import standing
from properties.report.report import Line, ReportError, lines_of
from properties.report.report import read as report_of
from properties.targets.published import ADAPTERS

PACKAGES = {
    "fla": ("fla-core", "triton"),
    "hyper_connections": ("hyper-connections",),
    "hyper_connections_options": ("hyper-connections",),
    "liger": ("liger-kernel", "triton"),
    "mhc": ("mhc",),
    "mhc_ddim": ("mhc-ddim",),
    "mhc_mlx": ("mhc-mlx", "mlx"),
    "mlx_lm": ("mlx-lm", "mlx"),
    "mlx_lm_kimi_k3": ("mlx-lm", "mlx"),
    "mlx_lm_muse_spark": ("mlx-lm", "mlx"),
    "mlx_mhc": ("mlx-mhc", "mlx"),
    "nemo_automodel": ("nemo-automodel", "transformers"),
    "sparse_hyper_connections": ("sparse-hyper-connections",),
    "tile_kernels": ("tile-kernels", "tilelang"),
    "transformers_deepseek_v4": ("transformers",),
    "transformers_glm5_next": ("transformers",),
    "transformers_hy_v4": ("transformers",),
    "transformers_inkling2": ("transformers",),
    "transformers_muse_spark": ("transformers",),
    "transformers_qwen4_exp": ("transformers",),
    "x_transformers": ("x-transformers",),
}
"""Module of an adapter -> the packages that it runs."""


@dataclass(frozen=True)
class Run:
    """What came of one adapter: the lines of its report, or why there is none."""

    name: str
    lines: tuple[Line, ...]
    trouble: str = ""


NOT_YET = "not yet"
"""The trouble of an adapter whose turn has not come."""


def run(name: str, report: Path, *, known: Path | None, profile: str = "ci", seed: int | None = None) -> Run:
    """The laws on `published:name` in a process of its own; report.json and counterexamples go to `report`."""
    path = report / "report.json"
    path.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", *LAWS_ALONE, "-o", "filterwarnings=", "--tb=no"]
    command += ["--impl", f"published:{name}", "--report", str(report), "--hypothesis-profile", profile]
    command += ["--known", str(known)] if known else []
    command += ["--hypothesis-seed", str(seed)] if seed is not None else []
    ended = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "CI": "", PARENT: str(os.getpid())}, check=False
    )
    if not path.is_file():
        words = [line for line in (ended.stderr + ended.stdout).splitlines() if line.strip()]
        trouble = next((line for line in words if line.startswith("ERROR")), words[-1] if words else "no output")
        return Run(name, (), trouble.removeprefix("ERROR: ").removeprefix(f"--impl published:{name}: "))
    return read(name, report)


def read(name: str, report: Path) -> Run:
    """What a run left in `report`."""
    path = report / "report.json"
    if not path.is_file():
        return Run(name, (), f"no report in {report}")
    try:
        found = report_of(path)
    except ReportError as error:
        return Run(name, (), str(error))
    return Run(name, tuple(lines_of(found)), "" if found["complete"] else f"the run in {report} was cut off")


def cell(lines: Sequence[Line]) -> str:
    """Laws held / exercised, what failed in bold, and how many do not apply."""
    counts = Counter(line.status for line in lines)
    failed = counts["failed"] + counts["known"]
    exercised = counts["passed"] + failed
    parts = [f"{counts['passed']}/{exercised}"] if exercised else []
    parts += [f"**{failed} failed**"] if failed else []
    parts += [f"**{counts['error']} errors**"] if counts["error"] else []
    parts += [f"{counts['not-applicable']} n/a"] if counts["not-applicable"] else []
    return ", ".join(parts)


def page(runs: Sequence[Run], entries: Sequence[Known], packages: dict[str, str], day: str, profile: str) -> str:
    """The page, in Markdown. A failing cell is followed up in the list below the table."""
    missing = sum(one.trouble == NOT_YET for one in runs)
    begun = f"Unfinished, {missing} of {len(runs)} implementations have not been run: begun" if missing else "Generated"
    text = [
        "# Conformance of published implementations",
        "",
        f"{begun} on {day} by",
        "",
        "    mhc-properties conformance --out FILE.md",
        "",
        f"on a CPU, with the profile `{profile}` and {', '.join(map(' '.join, packages.items()))}.",
        "",
        "A cell: laws held / laws exercised, those that failed, and those that do not apply (n/a; why stands below).",
        "What is judged is each library's own dialect, declared in its adapter: agreement with the paper is no law.",
        "",
        "| implementation | dtype | " + " | ".join(FAMILIES) + " |",
        "|---|---|" + "---|" * len(FAMILIES),
    ]
    for one in runs:
        if not one.lines:
            text.append(f"| {one.name} | not run: {one.trouble} |" + " |" * len(FAMILIES))
        for dtype in dict.fromkeys(line.dtype for line in one.lines):
            mine = [line for line in one.lines if line.dtype == dtype]
            cells = [cell([line for line in mine if line.law.startswith(f"{family}.")]) for family in FAMILIES]
            text.append(f"| {one.name} | {dtype} | " + " | ".join(cells) + " |")
    text += ["", "## What failed", "", *_failures(runs, entries)]
    text += ["", "## What does not apply, and why", "", *_reasons(runs)]
    return "\n".join(text) + "\n"


def explanation(line: Line, entries: Sequence[Known]) -> Known | None:
    """The known failure that a failed law is; None where it is none, or where the entry is out of date."""
    if line.status == "error" or line.reason.startswith("fixed: "):
        return None
    covering = (one for one in entries if one.covers(line.law, line.implementation, line.dtype, line.device))
    return next(covering, None)


def entry(one: Run, entries: Sequence[Known], day: str, profile: str) -> dict[str, Any]:
    """The entry of one adapter in the table of implementations, see `properties.report.standing`."""

    def explained(line: Line) -> tuple[str, str, str] | None:
        known = explanation(line, entries)
        return known and (known.reason, known.link, f"properties/targets/published/known/{known.counterexample.name}")

    return standing.standing(
        one.name,
        one.lines,
        made=day,
        command=f"mhc-properties conformance {one.name} --out docs/conformance.json",
        versions=versions([ADAPTERS[one.name][0]]),
        trouble=one.trouble,
        explained=explained,
        profile=profile,
    )


def _failures(runs: Sequence[Run], entries: Sequence[Known]) -> list[str]:
    failed = [line for one in runs for line in one.lines if line.status in ("failed", "known", "error")]
    if not failed:
        return ["Nothing."]
    text = [
        "Every file replays, with the package installed that it is about: `mhc-properties replay FILE` prints FAILED.",
        "[findings.md](findings.md) explains the reasons.",
        "",
        "| implementation | dtype | law | why | counterexample |",
        "|---|---|---|---|---|",
    ]
    for line in failed:
        entry = explanation(line, entries)
        name = line.implementation.removeprefix("published:")
        if entry is None:
            text.append(f"| {name} | {line.dtype} | {line.law} | **not explained**: {line.reason} | |")
            continue
        link = entry.link.removeprefix("docs/")
        why = f"[{entry.reason}]({link})" if link else entry.reason
        file = f"properties/targets/published/known/{entry.counterexample.name}"
        text.append(f"| {name} | {line.dtype} | {line.law} | {why} | [file](../{file}) |")
    return text


def _reasons(runs: Sequence[Run]) -> list[str]:
    text: list[str] = []
    for one in runs:
        reasons = Counter(line.reason for line in one.lines if line.status == "not-applicable")
        if reasons:
            text.append(f"* **{one.name}**: " + "; ".join(f"{reason} ({count})" for reason, count in reasons.items()))
    return text


def versions(modules: Sequence[str]) -> dict[str, str]:
    """Python, what verifies, and what is verified."""
    found = {"Python": platform.python_version()}
    wanted = dict.fromkeys(
        ("mhc-properties", "torch", *(package for module in modules for package in PACKAGES.get(module, ())))
    )
    for package in wanted:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "(not installed)"
    return found
