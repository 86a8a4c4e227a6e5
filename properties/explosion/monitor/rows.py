"""The rows of a monitor's table, one a layer and pass, and the line that says how a layer left its bounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from mhc_ref import Dialect
from properties.explosion.monitor.limits import Judge, Leaving, Limits, roundoff
from properties.explosion.monitor.measures import Layer, tables
from properties.guards.printable import printable

SCHEMA = 2
"""Of a row. Rows of 1 have no `schema`, `min_row_sum`, `min_forward_gain` and `leaves`."""

ROW_KEYS = (
    "schema",
    "step",
    "training",
    "layer",
    "name",
    "streams",
    "tokens",
    "forward_gain",
    "backward_gain",
    "layer_forward_gain",
    "layer_backward_gain",
    "min_column_sum",
    "min_row_sum",
    "min_forward_gain",
    "activation_max",
    "dispersion",
    "within",
    "leaves",
)
"""The columns of the table, in this order; what is unknown or not finite is null."""


def rows_of(
    records: list[tuple[Layer, Dialect | None]],
    *,
    complete: bool,
    step: int,
    training: bool,
    limits: Callable[[Dialect | None, int], Limits],
    floored: bool,
) -> list[dict[str, Any]]:
    """The rows of the layers of a pass; of the layers' own gains alone where it is not complete.

    `limits` are those of a dialect and n; `floored`: a smallest gain is asked for, whatever the dialect says.
    """
    own, composed, backward, numbers = tables([layer for layer, _ in records], complete)
    judge = Judge()
    rows: list[dict[str, Any]] = []
    for place, (layer, dialect) in enumerate(records):
        largest, dispersion, size = numbers[place]
        n = layer.operator.shape[-1]
        alone, product = own[place], composed[place]
        leaves: Leaving | None = None
        to = limits(dialect, n)
        finite = math.isfinite(size) and not (layer.entered is not None and not math.isfinite(largest))
        if alone is not None:
            u = roundoff(layer.emitted, n, alone.logs, layer.operator.dtype, dialect)
            leaves = judge.leaving(alone, product, finite, to, u)
        elif not finite:
            leaves = "not finite"
        unbound = alone is None or not (to.largest or floored)
        row = {
            "schema": SCHEMA,
            "step": step,
            "training": training,
            "layer": place,
            "name": layer.name,
            "streams": n,
            "tokens": layer.operator.shape[0],
            "forward_gain": product and product.forward,
            "backward_gain": backward[place],
            "layer_forward_gain": alone and alone.forward,
            "layer_backward_gain": alone and alone.backward,
            "min_column_sum": product and product.column,
            "min_row_sum": product and product.row,
            "min_forward_gain": product and product.faintest,
            "activation_max": largest,
            "dispersion": dispersion,
            "within": False if leaves else None if unbound else True,
            "leaves": leaves,
        }
        rows.append({key: _plain(row[key]) for key in ROW_KEYS})
    return rows


_DEPARTURE: Mapping[Leaving, str] = {
    "explode": "leaves its bound ({limits}): forward gain {forward_gain} (alone {layer_forward_gain}), backward gain "
    "alone {layer_backward_gain}, activation max {activation_max}",
    "vanish": "fades ({floor}): smallest forward gain {min_forward_gain}, smallest row sum {min_row_sum}, smallest "
    "column sum {min_column_sum}, forward gain alone {layer_forward_gain}",
    "not finite": "is not finite: forward gain {forward_gain} (alone {layer_forward_gain}), backward gain alone "
    "{layer_backward_gain}, activation max {activation_max}",
}


def departure(row: Mapping[str, Any], to: Limits) -> str:
    """How the layer of a row left its limits, in one line."""
    unknown = "not finite" if row["leaves"] == "not finite" else "null"
    numbers = {
        key: unknown if value is None else f"{value:.6g}"
        for key, value in row.items()
        if key.endswith(("gain", "sum", "max"))
    }
    floor = f"every {' and '.join(to.exact)} of A sums to 1" if to.exact else f"a gain below {to.floor:g}"
    said = _DEPARTURE[row["leaves"]].format(limits=to.describe(), floor=floor, **numbers)
    return f"step {row['step']}: layer {row['layer']} ({printable(str(row['name']))}) {said}"


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
