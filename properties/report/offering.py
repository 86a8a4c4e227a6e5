"""What an implementation would have to offer next so that most laws apply to it, and what it offers for nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from properties.report.report import Line


def offer_next(lines: Iterable[Line]) -> dict[str, Any] | None:
    """{implementation, method, laws}: with that method so many laws more would apply, in one dtype at least.

    Of several implementations and methods those for which most laws would; None where no single method changes
    anything, as where everything is offered.
    """
    apply: set[tuple[str, str]] = set()
    would: dict[tuple[str, str], set[str]] = {}
    for line in lines:
        if line.status != "not-applicable":
            apply.add((line.implementation, line.law))
        for method in line.unlocked_by:
            would.setdefault((line.implementation, method), set()).add(line.law)
    counts = {(name, method): sum((name, law) not in apply for law in laws) for (name, method), laws in would.items()}
    best = min(counts, key=lambda one: (-counts[one], one), default=None)
    if best is None or not counts[best]:
        return None
    return {"implementation": best[0], "method": best[1], "laws": counts[best]}


def in_words(offer: dict[str, Any] | None) -> list[str]:
    """What `offer_next` has found in one line; nothing where it has found nothing."""
    if not offer:
        return []
    laws = "1 law more applies" if offer["laws"] == 1 else f"{offer['laws']} laws more apply"
    return [f"next: offer {offer['method']}, and {laws} to {offer['implementation']}"]


TUNING = tuple(f"{family}.tuned-fields-are-used" for family in ("manifold", "coefficients", "block", "depth"))
"""The laws that tune an implementation: only where a run had all of them is anything said of fields that none has."""


def never_tuned(lines: Iterable[Line]) -> dict[str, list[str]]:
    """The fields of each implementation that are offered as tunable, and that no law which was exercised has tuned."""
    left: dict[str, set[str]] = {}
    met: dict[str, set[str]] = {}
    for line in lines:
        if line.law in TUNING:
            met.setdefault(line.implementation, set()).add(line.law)
            left[line.implementation] = left.get(line.implementation, set(line.untuned)) & set(line.untuned)
    return {name: sorted(fields) for name, fields in left.items() if fields and len(met[name]) == len(TUNING)}


def told(fields: dict[str, list[str]] | None) -> list[str]:
    """What `never_tuned` has found, a line for each implementation."""
    return [
        f"offered as tunable, and tuned by no law that was exercised: {', '.join(each)} of {name}"
        for name, each in (fields or {}).items()
    ]
