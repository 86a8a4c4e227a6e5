"""A report as a badge: how many laws were exercised, which dialect was declared, and how many failed, in SVG."""

from __future__ import annotations

from typing import Any
from xml.sax.saxutils import escape

from properties.guards.printable import printable

_GREEN, _RED, _AMBER, _GREY = "#2f7d4f", "#b3261e", "#8a5a00", "#57606a"
_LEFT = "mhc-properties"
_WIDE = 6.6
"""Pixels of a letter of 11 pixels, on average; `textLength` makes what is drawn fit."""


def words(report: dict[str, Any]) -> str:
    """As in: 183 laws, dialect DEEPSEEK_V4, 0 failures.

    A law that failed in several dtypes, or on several implementations, is several failures. What was not reached, or
    ended in an error of the harness, is said, since 0 failures would mislead there.
    """
    total = report["totals"]
    names = list(dict.fromkeys(_dialect(run["dialect"]) for run in report["runs"]))
    failures = total.get("failed", 0) + total.get("known", 0)
    parts = [
        f"{total['laws_exercised']} law{'' if total['laws_exercised'] == 1 else 's'}",
        f"dialect {names[0]}" if len(names) == 1 else f"{len(names)} dialects",
        f"{failures} failure{'' if failures == 1 else 's'}",
    ]
    if total.get("known"):
        parts[-1] += f" ({total['known']} known)" if total.get("failed") else " (known)"
    if total.get("error"):
        parts.append(f"{total['error']} not judged")
    if not report.get("complete", True) or total.get("unreached") or total.get("absent"):
        parts.append("unfinished")
    return ", ".join(parts)


def colour(report: dict[str, Any]) -> str:
    """Red where a law failed, grey where nothing was exercised or not everything was judged, amber where all failures
    are known, green otherwise."""
    total = report["totals"]
    if total.get("failed"):
        return _RED
    whole = report.get("complete", True) and not total.get("unreached") and not total.get("absent")
    if total.get("error") or not whole or not total["laws_exercised"]:
        return _GREY
    return _AMBER if total.get("known") else _GREEN


def badge(report: dict[str, Any]) -> bytes:
    """The picture of a report.json of this form, see `properties.report.report.read`; nothing is fetched by it."""
    return drawn(words(report), colour(report))


def of_entry(entry: dict[str, Any], dialect: str) -> bytes:
    """The badge of an entry of the table, see `properties.report.standing`; a law that fails counts once in each dtype.

    Where an entry does not name the laws that held, those of the dtype with most of them are counted.
    """
    runs = entry["runs"]
    named = {law for run in runs for law in (*run.get("held", ()), *(one["law"] for one in run["failed"]))}
    most = max((sum(one["passed"] + one["failed"] for one in run["families"].values()) for run in runs), default=0)
    laws = len(named) if all("held" in run for run in runs) else most
    failures = sum(one["failed"] for run in runs for one in run["families"].values())
    errors = sum(one["error"] for run in runs for one in run["families"].values())
    parts = [
        f"{laws} law{'' if laws == 1 else 's'}",
        *([f"dialect {dialect}"] if dialect and dialect != "fields" else []),
    ]
    parts.append(f"{failures} failure{'' if failures == 1 else 's'}")
    parts += [f"{errors} not judged"] if errors else []
    parts += ["unfinished"] if entry.get("trouble") else []
    return drawn(
        ", ".join(parts), _RED if failures else _GREY if errors or entry.get("trouble") or not laws else _GREEN
    )


def drawn(right: str, back: str, left: str = _LEFT) -> bytes:
    """Two words beside one another, the second on a colour."""
    left, right = printable(left, 60), printable(right, 200)
    first, second = round(len(left) * _WIDE) + 14, round(len(right) * _WIDE) + 14
    left, right = (escape(one, {'"': "&quot;"}) for one in (left, right))
    text = 'y="14" fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{first + second}" height="20" role="img"'
        f' aria-label="{left}: {right}"><title>{left}: {right}</title>'
        f'<clipPath id="r"><rect width="{first + second}" height="20" rx="3"/></clipPath><g clip-path="url(#r)">'
        f'<rect width="{first}" height="20" fill="#24292f"/>'
        f'<rect x="{first}" width="{second}" height="20" fill="{back}"/></g>'
        f'<text x="7" {text} textLength="{first - 14}">{left}</text>'
        f'<text x="{first + 7}" {text} textLength="{second - 14}">{right}</text></svg>\n'
    ).encode()


def _dialect(fields: dict[str, Any]) -> str:
    """The preset with these fields, or the one that differs in fewest of them."""
    from mhc_ref import PRESETS  # which needs torch

    presets = {name: one.fields() for name, one in PRESETS.items()}
    differs = {name: sum(fields.get(key) != value for key, value in one.items()) for name, one in presets.items()}
    name = min(differs, key=lambda one: differs[one])
    return name if not differs[name] else f"{name} with {differs[name]} other field{'s' * (differs[name] > 1)}"
