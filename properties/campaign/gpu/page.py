"""The section of docs/gpu.md that a run writes, and its place in the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from properties.campaign.gpu.plan import RESERVE, Where, parts
from properties.guards.printable import printable
from properties.guards.whole import write_whole

BEGIN, END = (f"<!-- mhc-properties gpu: {word} -->" for word in ("begin", "end"))
"""Between these lines of the page stands what a run writes, and nothing else."""

Found = Mapping[str, Any]


def section(data: Found) -> str:
    """What a run has found, in Markdown; `data` is gpu.json."""
    device, versions = data["device"], data["versions"]
    told = ", ".join(f"{name} {one}" for name, one in versions.items())
    driver = f", driver {device['driver']}" if device["driver"] else ""
    kind = "A short run, which proves the script and no kernel, " if data["short"] else "A run "
    lines = [
        f"{kind}on {device['name']}{driver}, {device['cores']} cores, on {data['when'][:10]}, "
        f"sources {data['source']}: {told}.",
        "",
        *_table(("part", "status", "seconds", "of", ""), [_ending(one) for one in data["parts"]]),
        "",
        *_list("What is wrong", data["findings"], "Nothing that was reached is wrong, except what was known before."),
        *_list("What was cut off", data["cut"], "Nothing was cut off."),
    ]
    for one in data["parts"]:
        if one["found"]:
            lines += ["", f"### {one['title'][0].upper()}{one['title'][1:]}", "", *_WRITERS[one["name"]](one["found"])]
    return "\n".join(lines) + "\n"


def plan_table() -> list[str]:
    """The time plan, as the page has it."""
    rows = [(str(place), one.name, one.title, f"{one.seconds:.0f} s") for place, one in enumerate(parts(Where()), 1)]
    return _table(
        ("", "part", "what it shows", "time"), [*rows, ("", "", "to start, and to write", f"{RESERVE:.0f} s")]
    )


def renewed(text: str, data: Found) -> str:
    """The page with the section of a run between its two lines.

    Raises:
        ValueError: the page has not each of them once, in this order.
    """
    before, begin, rest = text.partition(f"{BEGIN}\n")
    _, end, after = rest.partition(f"{END}\n")
    if not begin or not end or BEGIN in rest or END in before + after:
        raise ValueError(f"the page has not the lines {BEGIN} and {END} once each, in this order")
    return f"{before}{BEGIN}\n\n{section(data)}\n{END}\n{after}"


def renew(page: Path, data: Found) -> None:
    """Write the section into a page.

    Raises:
        ValueError: see `renewed`.
        OSError: it cannot be read or written.
    """
    write_whole(page, renewed(page.read_text(encoding="utf-8"), data).encode())


def _ending(one: Found) -> Sequence[str]:
    limit = "–" if one["limit"] is None else f"{one['limit']:.0f}"
    return one["name"], one["status"], f"{one['seconds']:.0f}", limit, one["why"]


def _list(title: str, entries: Sequence[str], nothing: str) -> list[str]:
    if not entries:
        return [nothing, ""]
    return [f"{title}:", "", *(f"* {_cell(one)}" for one in entries), ""]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    body = ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
    return ["| " + " | ".join(head) + " |", "|---" * len(head) + "|", *body]


def _cell(text: str) -> str:
    return printable(" ".join(text.split()), 400).replace("|", "\\|").replace("<", "&lt;")


def _tests(found: Found) -> list[str]:
    counts = ", ".join(f"{number} {outcome}" for outcome, number in sorted(found["counts"].items()))
    return [f"{counts or 'No test was reached'}."]


STATUSES = ("passed", "known", "failed", "error", "not-applicable")


def _laws(found: Found) -> list[str]:
    """A row for each target and dtype, with its worst ratio and the law that has it."""
    rows: list[Sequence[str]] = []
    for title, table in found["targets"].items():
        ratios = {law: ratio for law, ratio in table["ratios"].items() if law not in table["failed"]}
        unbounded = [law for law, ratio in ratios.items() if ratio is None]
        finite = {law: ratio for law, ratio in ratios.items() if ratio is not None}
        worst = max(finite, key=lambda law: finite[law], default="")
        said = f"{finite[worst]:.3g}, {worst}" if worst else "–"
        said = f"∞, {unbounded[0]}" if unbounded else said
        rows.append((title, *(str(table["statuses"].get(one, 0)) for one in STATUSES), said))
    head = ("target", "held", "known", "failed", "harness", "not applicable", "worst ratio of a law that held")
    return _table(head, rows) if rows else ["No law was reached."]


def _deviations(found: Found) -> list[str]:
    seen = ", ".join(name.partition(":")[2].partition("@")[0] for name, one in found["seen"].items() if one)
    return [f"Seen: {seen or 'none'}.", "", *_laws(found)]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _reproduction(found: Found) -> list[str]:
    rows: list[Sequence[str]] = []
    for one in found["runs"]:
        last = " / ".join(_number(value) for value in one["last_gains"] or (None,) * 3)
        losses = f"{_number(one['first_loss'])} to {_number(one['last_loss'])}"
        steps, alarms = f"{one['steps']} of {one['asked']}", ", ".join(one["alarms"]) or "none"
        size, largest = f"{one['weights']:,}", _number(one["largest_forward_gain"])
        rows.append((one["residual"], str(one["seed"]), size, steps, largest, last, losses, alarms))
    head = ("residual", "seed", "weights", "steps", "largest forward gain", "forward / backward / signed at the end")
    if not rows:
        return ["No run came far enough to write anything."]
    setup = ", ".join(
        f"{name.replace('_', ' ')} {value}" for name, value in found["setup"].items() if name != "streams"
    )
    said = f"Rate {found['rate']:g}; {setup}. Gains are those that the monitor saw, of a sample of the tokens."
    return [said, "", *_table((*head, "loss", "warned of"), rows)]


def _throughput(found: Found) -> list[str]:
    rows: list[Sequence[str]] = []
    usual = {one["workers"]: one["tokens_per_second"] for one in found["rows"] if _is_usual(one)}
    for one in found["rows"]:
        ratio = "–"
        if not _is_usual(one) and one["workers"] in usual:
            ratio = f"{one['tokens_per_second'] / usual[one['workers']]:.3g}"
        share = "–" if one["device_share"] is None else f"{100 * one['device_share']:.0f} %"
        rates = (f"{one['tokens_per_second']:.0f}", f"{one['examples_per_second']:.0f}", ratio)
        rows.append((one["way"], one["device"], str(one["workers"]), *rates, share))
    head = ("way", "device", "workers", "tokens a second", "examples a second", "times one by one on the CPU")
    return _table((*head, "device at work"), rows) if rows else ["Nothing was measured."]


def _is_usual(one: Found) -> bool:
    """As `check` has it on the CPU, which the others are compared with."""
    return (one["way"], one["device"]) == ("one by one", "cpu")


_WRITERS = {
    "tests": _tests,
    "kernels": _laws,
    "sizes": _laws,
    "deviations": _deviations,
    "reproduction": _reproduction,
    "throughput": _throughput,
}
"""Part -> its table."""
