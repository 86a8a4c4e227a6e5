"""The rows of a monitor as a page: what left its bounds, and every measure as a field of colours, layers by steps."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from properties.explosion.monitor.columns import SCHEMA
from properties.guards.printable import message_of, printable
from properties.report.page.figures import Field, Part, Section, Table, Words, figures

MEASURES = {
    "forward_gain": "Forward gain of the product up to the layer",
    "backward_gain": "Backward gain of the product from the layer on",
    "activation_max": "Largest activation that enters the layer",
    "gradient_norm": "Norm of the layer's gradient",
    "dispersion": "Dispersion of the streams: 0 where they have collapsed",
    "gate_saturation": "Part of the gates that are saturated",
    "softmax_saturation": "Part of the residual logits that are saturated",
    "attention": "Largest attention logit",
}
"""What is drawn, where there are numbers of it."""

_EVENTS = 40


class RowsError(Exception):
    """A file that has no rows of a monitor; the message says what is wrong with it."""


def rows_in(path: Path) -> list[dict[str, Any]]:
    """The rows of a file that a monitor has written, of this version or an earlier one, without a torn last line.

    Raises:
        RowsError: it cannot be read, has a line that is no row, has none, or is of a later version.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise RowsError(f"{path} cannot be read: {error.strerror or error}") from error
    found: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            row: Any = json.loads(line)
            if not isinstance(row, dict) or not {"step", "layer", "forward_gain"} <= row.keys():
                raise ValueError("it lacks step, layer or forward_gain")
        except ValueError as error:
            if number == len(lines) and found:
                break
            raise RowsError(f"line {number} of {path} is no row of a monitor: {message_of(error, 200)}") from error
        if not isinstance(row.get("schema", 1), int) or row.get("schema", 1) > SCHEMA:
            raise RowsError(f"line {number} of {path} has the schema {row['schema']}, of a later version than {SCHEMA}")
        found.append(cast("dict[str, Any]", row))
    if not found:
        raise RowsError(f"{path} has no rows of a monitor")
    return found


def rows_page(rows: list[dict[str, Any]], name: str) -> bytes:
    """The page of rows of one run or of several, which follow one another."""
    steps = list(dict.fromkeys((row.get("run"), row["step"], row.get("forward")) for row in rows))
    layers = {row["layer"]: printable(str(row.get("name") or row["layer"]), 80) for row in rows}
    order = sorted(layers)
    places = {one: column for column, one in enumerate(steps)}
    heights = {one: line for line, one in enumerate(order)}
    sections = [Section("What was watched", _told(rows, order, steps))]
    for measure, words in MEASURES.items():
        numbers: list[list[float | None]] = [[None] * len(steps) for _ in order]
        for row in rows:
            at = places[row.get("run"), row["step"], row.get("forward")]
            numbers[heights[row["layer"]]][at] = _number(row, measure)
        if any(one is not None for line in numbers for one in line):
            names = [f"{one} {layers[one]}" for one in order]
            parts: list[Part] = [Field(words, numbers, names, [f"step {step}" for _, step, _ in steps])]
            sections.append(Section(words.partition(":")[0], parts))
    return figures(f"{printable(name, 100)}: {len(order)} layers", sections)


def _number(row: dict[str, Any], measure: str) -> float | None:
    """A measure of a row; a row of a layer that left the finite numbers has infinity in place of what it lacks."""
    value = row.get(measure)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    return math.inf if row.get("leaves") == "not finite" and measure in ("forward_gain", "activation_max") else None


def _told(rows: list[dict[str, Any]], order: list[int], steps: list[Any]) -> list[Part]:
    """How much was watched, and each way of leaving the bounds where it showed first."""
    runs = list(dict.fromkeys(row.get("run") for row in rows))
    parts: list[Part] = [
        Words(f"{len(order)} layers in {len(steps)} passes of {len(runs)} run{'s' * (len(runs) != 1)}.")
    ]
    events: dict[tuple[int, str], tuple[str, ...]] = {}
    for row in rows:
        for way in _ways(row):
            told = (str(row["layer"]), str(row.get("name") or ""), str(row["step"]), way, _gain(row), _largest(row))
            events.setdefault((row["layer"], way), tuple(printable(one, 200) for one in told))
    if not events:
        return [*parts, Words("No layer left its bounds.")]
    head = ("layer", "name", "first step", "how", "forward gain", "largest activation")
    parts.append(
        Words(f"{len(events)} times a layer left its bounds in a way that was new. The first is where to look.")
    )
    parts.append(Table("What left its bounds", head, list(events.values())[:_EVENTS]))
    if len(events) > _EVENTS:
        parts.append(Words(f"{len(events) - _EVENTS} more are in the file only."))
    return parts


def _ways(row: dict[str, Any]) -> Iterable[str]:
    alarms = row.get("alarms")
    found = [str(row["leaves"])] if row.get("leaves") else []
    listed = list(cast("Any", alarms)) if isinstance(alarms, (list, dict)) else [str(alarms)] if alarms else []
    return dict.fromkeys([*found, *map(str, listed)])


def _gain(row: dict[str, Any]) -> str:
    return "" if row.get("forward_gain") is None else f"{row['forward_gain']:.4g}"


def _largest(row: dict[str, Any]) -> str:
    return "not finite or unknown" if row.get("activation_max") is None else f"{row['activation_max']:.4g}"
