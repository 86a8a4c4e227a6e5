"""The last passes of a monitor, in a file: what is needed to compute the mixing of a bad step once more.

The file is sealed safetensors: the sampled operators of each layer, as applied, in float64, and a JSON header with the
rows. `mhc-properties replay FILE` multiplies them again and holds them against what the rows say and what was declared.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor

from mhc_ref import Dialect
from properties.explosion.monitor.columns import COLUMNS
from properties.explosion.monitor.limits import limits
from properties.explosion.monitor.measures import Layer
from properties.explosion.monitor.rows import rows_of
from properties.explosion.stored import integer_of, list_of, object_of
from properties.guards import sealed
from properties.guards.printable import message_of, printable

KEY = "monitor"
SCHEMA = 1


class Kept(NamedTuple):
    """A pass that was recorded."""

    rows: list[dict[str, Any]]
    records: list[tuple[Layer, Dialect | None]]
    complete: bool


class MonitorFileError(ValueError):
    """A file that no monitor saved, or a damaged one."""


def save(path: Path, kept: list[Kept], bound: float | None, floor: float | None) -> Path:
    """Write the last passes, the bad one last."""
    tensors: dict[str, Tensor] = {}
    passes: list[Any] = []
    for number, one in enumerate(kept):
        layers: list[Any] = []
        for place, (layer, dialect) in enumerate(one.records):
            if layer.operator is not None:
                tensors[f"{number}.{place}"] = layer.operator.detach().cpu().contiguous()
            declared = None if dialect is None else dialect.fields()
            layers.append({"emitted": str(layer.emitted).removeprefix("torch."), "dialect": declared})
        passes.append({"rows": one.rows, "layers": layers, "complete": one.complete})
    header = {"schema": SCHEMA, "bound": bound, "floor": floor, "passes": passes}
    path.parent.mkdir(parents=True, exist_ok=True)
    sealed.write(path, {KEY: json.dumps(header, allow_nan=False)}, tensors)
    return path


class Replayed(NamedTuple):
    """FAILED: what was said of the last pass of a file still holds of its operators. FIXED: it does not."""

    verdict: Literal["FIXED", "FAILED"]
    message: str
    passes: list[list[dict[str, Any]]]


def replay(path: str | Path) -> Replayed:
    """Compute the mixing of the passes in a file again, and hold it against its limits.

    Raises:
        MonitorFileError: no such file, a foreign or a damaged one.
    """
    named = printable(str(path))
    try:
        found = sealed.read(Path(path))
    except sealed.SealError as error:
        raise MonitorFileError(str(error)) from error
    if KEY not in found.metadata:
        raise MonitorFileError(f"{named} was saved by no monitor")
    try:
        header = object_of(sealed.parsed(found.metadata[KEY]), "it")
        integer_of(header["schema"], "schema", 1, SCHEMA)
        computed: list[list[dict[str, Any]]] = []
        stored: list[list[dict[str, Any]]] = []
        for number, one in enumerate(list_of(header["passes"], "passes")):
            said = object_of(one, "a pass")
            stored.append([object_of(row, "a row") for row in list_of(said["rows"], "rows")])
            records = _records(found.tensors, number, list_of(said["layers"], "layers"), stored[-1])
            bound, floor = cast("float | None", header["bound"]), cast("float | None", header["floor"])
            computed.append(
                rows_of(
                    records,
                    complete=bool(said["complete"]),
                    step=stored[-1][0]["step"] if stored[-1] else 0,
                    training=False,
                    limits=lambda dialect, n, bound=bound, floor=floor: limits(dialect, n, bound, floor),
                    floored=floor is not None,
                )
                if any(layer.operator is not None for layer, _ in records)
                else []
            )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        raise MonitorFileError(f"{named}: it is damaged: {message_of(error, 300)}") from error
    return _judged(stored, computed)


def _records(
    tensors: dict[str, Tensor], number: int, layers: list[Any], rows: list[dict[str, Any]]
) -> list[tuple[Layer, Dialect | None]]:
    records: list[tuple[Layer, Dialect | None]] = []
    for place, (layer, row) in enumerate(zip(layers, rows, strict=True)):
        said = object_of(layer, "a layer")
        operator = tensors.get(f"{number}.{place}")
        if operator is not None and (operator.ndim != 3 or operator.shape[-1] != operator.shape[-2]):
            raise ValueError(f"operator {number}.{place} has shape {tuple(operator.shape)}")
        emitted = getattr(torch, str(said["emitted"]))
        if not isinstance(emitted, torch.dtype):
            raise ValueError(f"{said['emitted']!r} is no dtype")
        dialect = None if said["dialect"] is None else Dialect(**object_of(said["dialect"], "dialect"))
        ends = None
        if operator is not None and operator.numel():
            low, high = torch.aminmax(operator)
            ends = (low, high)
        records.append((Layer(str(row["name"]), operator, emitted, None, extremes=ends), dialect))
    return records


def _judged(stored: list[list[dict[str, Any]]], computed: list[list[dict[str, Any]]]) -> Replayed:
    """What the last pass said of its mixing, and what its operators say now."""
    if not computed or not computed[-1]:
        return Replayed("FIXED", "the file has no operators: the layers are plain blocks, and nothing mixes", computed)
    rows, again = stored[-1], computed[-1]
    for row, one in zip(rows, again, strict=True):
        for key in (key for key, column in COLUMNS.items() if column.replayed):
            was, now = row[key], one[key]
            if (was is None) != (now is None) or (was is not None and not math.isclose(was, now, rel_tol=1e-9)):
                message = f"layer {row['layer']} ({printable(str(row['name']))}): {key} was {was}, and is {now} now"
                return Replayed("FIXED", message, computed)
    left = next((row for row in again if row["leaves"]), None)
    if left is None:
        return Replayed("FIXED", f"the mixing of step {rows[0]['step']} is within its limits", computed)
    worst = max((row["forward_gain"] or 0.0 for row in again), default=0.0)
    message = f"step {rows[0]['step']}: layer {left['layer']} ({printable(str(left['name']))}) {left['leaves']}s; "
    message = message.replace("not finites", "is not finite")
    return Replayed("FAILED", f"{message}the largest forward gain of the step is {worst:.6g}", computed)
