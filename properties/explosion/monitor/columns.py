"""The columns of a monitor's table, each once: their order, what ranks make of them, and which of them are replayed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

SCHEMA = 4
"""Of a row. Rows of 1 have no `schema`, `min_row_sum`, `min_forward_gain` and `leaves`; rows of 2 end there, without
what follows `leaves`; rows of 3 have no `typical_...` and `worst_growth`."""


class Column(NamedTuple):
    """One column.

    worst: which of the numbers of several ranks is theirs together; None where that is no number, or the same in all.
    replayed: whether it is computed again from the operators in a file of last passes, and must come out the same.
    """

    worst: Callable[[list[Any]], Any] | None = None
    replayed: bool = False


COLUMNS: Mapping[str, Column] = {
    "schema": Column(),
    "step": Column(),
    "training": Column(),
    "layer": Column(),
    "name": Column(),
    "streams": Column(),
    "tokens": Column(),
    "forward_gain": Column(max, replayed=True),
    "backward_gain": Column(max, replayed=True),
    "layer_forward_gain": Column(max, replayed=True),
    "layer_backward_gain": Column(max, replayed=True),
    "min_column_sum": Column(min, replayed=True),
    "min_row_sum": Column(min, replayed=True),
    "min_forward_gain": Column(min),
    "activation_max": Column(max),
    "dispersion": Column(min),
    "within": Column(),
    "leaves": Column(),
    "run": Column(),
    "forward": Column(),
    "max_column_sum": Column(max),
    "max_row_sum": Column(max),
    "signed_forward_gain": Column(max),
    "signed_backward_gain": Column(max),
    "output_max": Column(max),
    "activation_rms": Column(max),
    "growth": Column(max),
    "least_growth": Column(min),
    "worst_token": Column(),
    "typical_rms": Column(max),
    "typical_growth": Column(max),
    "worst_growth": Column(max),
    "jump": Column(max),
    "drift": Column(max),
    "headroom": Column(min),
    "layers_to_overflow": Column(min),
    "gate_saturation": Column(max),
    "softmax_saturation": Column(max),
    "attention": Column(max),
    "gradient_norm": Column(max),
    "born": Column(),
    "ranks": Column(),
    "alarms": Column(),
}

ROW_KEYS = tuple(COLUMNS)
"""The columns of the table, in this order; what is unknown or not finite is null."""
