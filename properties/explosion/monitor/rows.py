"""The rows of a monitor's table, one a layer and pass, and the lines that say what is wrong with a layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from mhc_ref import Dialect
from properties.explosion.monitor.columns import ROW_KEYS, SCHEMA
from properties.explosion.monitor.limits import Judge, Leaving, Limits, roundoff
from properties.explosion.monitor.measures import Layer, Numbers, State, table_of
from properties.guards.printable import printable


def rows_of(
    records: list[tuple[Layer, Dialect | None]],
    *,
    complete: bool,
    step: int,
    training: bool,
    limits: Callable[[Dialect | None, int], Limits],
    floored: bool,
    number: int = 0,
) -> list[dict[str, Any]]:
    """The rows of the layers of a pass; of the layers' own gains alone where it is not complete.

    `limits` are those of a dialect and n; `floored`: a smallest gain is asked for, whatever the dialect says.
    """
    found = table_of([layer for layer, _ in records], complete)
    judge = Judge()
    rows: list[dict[str, Any]] = []
    for place, (layer, dialect) in enumerate(records):
        numbers, alone, product = found.numbers[place], found.own[place], found.composed[place]
        reached = layer.left or layer.entered
        mixing = layer.operator is not None
        n = layer.operator.shape[-1] if layer.operator is not None else 1
        leaves: Leaving | None = None
        to = limits(dialect, n) if mixing else None
        finite = math.isfinite(numbers.entry) and not (layer.entered is not None and not math.isfinite(numbers.entered))
        finite = finite and not (layer.left is not None and not math.isfinite(numbers.left))
        if alone is not None and to is not None and layer.operator is not None:
            u = roundoff(layer.emitted, n, alone.logs, layer.operator.dtype, dialect)
            leaves = judge.leaving(alone, product, finite, to, u)
        elif not finite:
            leaves = "not finite"
        unbound = alone is None or to is None or not (to.largest or floored)
        back = found.backward[place]
        row = {
            "schema": SCHEMA,
            "step": step,
            "training": training,
            "layer": place,
            "name": layer.name,
            "streams": n,
            "tokens": _tokens(layer, reached),
            "forward_gain": product and product.forward,
            "backward_gain": back and back[0],
            "layer_forward_gain": alone and alone.forward,
            "layer_backward_gain": alone and alone.backward,
            "min_column_sum": product and product.column,
            "min_row_sum": product and product.row,
            "min_forward_gain": product and product.faintest,
            "activation_max": numbers.entered,
            "dispersion": numbers.dispersion,
            "within": False if leaves else None if unbound else True,
            "leaves": leaves,
            "forward": number,
            "max_column_sum": product and product.most_column,
            "max_row_sum": product and product.most_row,
            "signed_forward_gain": product and max(abs(product.row), abs(product.most_row)),
            "signed_backward_gain": back and back[1],
            "output_max": numbers.left,
            "activation_rms": _rms(numbers, reached),
            "typical_rms": _typical(numbers, reached),
            "growth": numbers.grown,
            "least_growth": numbers.faded,
            "worst_token": _worst(found.worst[place], numbers, reached),
            "typical_growth": numbers.median,
            "worst_growth": numbers.most,
            "gate_saturation": numbers.gates,
            "softmax_saturation": numbers.softmax,
            "attention": numbers.attention,
        }
        rows.append({key: plain(row.get(key)) for key in ROW_KEYS})
    return rows


def dtype_of(layer: Layer) -> torch.dtype | None:
    """Of the activations of a layer."""
    at = layer.left or layer.entered
    return at.dtype if at is not None else None


def _tokens(layer: Layer, reached: State | None) -> int:
    if layer.operator is not None:
        return layer.operator.shape[0]
    return len(reached.norms) if reached is not None and reached.norms is not None else 0


def _rms(numbers: Numbers, reached: State | None) -> float | None:
    if reached is None or reached.norms is None:
        return None
    return numbers.norm / math.sqrt(len(reached.norms) * reached.size)


def _typical(numbers: Numbers, reached: State | None) -> float | None:
    return None if reached is None or reached.norms is None else numbers.typical / math.sqrt(reached.size)


def _worst(gain: int | None, numbers: Numbers, reached: State | None) -> int | None:
    """The place of a token in its pass: of the largest gain where there are gains, otherwise of the largest growth."""
    stride = reached.stride if reached is not None else 1
    if gain is not None and numbers.grown <= 1:
        return gain * stride
    return int(numbers.token) * stride if math.isfinite(numbers.token) else gain and gain * stride


_DEPARTURE: Mapping[Leaving, str] = {
    "explode": "leaves its bound ({limits}): forward gain {forward_gain} (alone {layer_forward_gain}), backward gain "
    "alone {layer_backward_gain}, activation max {activation_max}",
    "vanish": "fades ({floor}): smallest forward gain {min_forward_gain}, smallest row sum {min_row_sum}, smallest "
    "column sum {min_column_sum}, forward gain alone {layer_forward_gain}",
    "not finite": "is not finite: forward gain {forward_gain} (alone {layer_forward_gain}), backward gain alone "
    "{layer_backward_gain}, activation max {activation_max}",
}


def departure(row: Mapping[str, Any], to: Limits | None) -> str:
    """How the layer of a row left its limits, in one line."""
    unknown = "not finite" if row["leaves"] == "not finite" else "null"
    numbers = {
        key: unknown if value is None else f"{value:.6g}"
        for key, value in row.items()
        if key.endswith(("gain", "sum", "max"))
    }
    words = {"limits": "", "floor": ""}
    if to is not None:
        words["limits"] = to.describe()
        words["floor"] = f"every {' and '.join(to.exact)} of A sums to 1" if to.exact else f"a gain below {to.floor:g}"
    said = _DEPARTURE[row["leaves"]].format(**words, **numbers)
    if to is None:
        said = f"is not finite: activation max {numbers['activation_max']}, where it leaves {numbers['output_max']}"
    born = f"; first not finite: {printable(row['born'], 300)}" if row["born"] else ""
    return f"{place_of(row)} {said}{born}"


def place_of(row: Mapping[str, Any]) -> str:
    return f"step {row['step']}: layer {row['layer']} ({printable(str(row['name']))})"


def plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
