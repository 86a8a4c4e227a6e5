"""Rows of several processes that train one model: the worst of them, layer by layer."""

from __future__ import annotations

from typing import Any, cast

import torch

from properties.explosion.monitor.columns import COLUMNS
from properties.explosion.monitor.limits import KINDS

Row = dict[str, Any]


def rank() -> int:
    """Of this process; 0 where it is alone."""
    return _distributed().get_rank() if _together() else 0


def together() -> bool:
    """Whether other processes train with this one."""
    return _together() and _distributed().get_world_size() > 1


def merged(rows: list[Row], said: list[dict[str, str]]) -> tuple[list[Row], list[dict[str, str]]]:
    """The rows of the same pass in all ranks as one: the largest gains, the smallest sums, every alarm.

    Raises:
        ValueError: they saw other layers.
    """
    world = _distributed().get_world_size()
    every: list[Any] = [None] * world
    _distributed().all_gather_object(every, (rows, said))
    names = {tuple(row["name"] for row in theirs) for theirs, _ in every}
    if len(names) > 1:
        raise ValueError(f"the ranks saw other layers ({', '.join(str(len(one)) for one in sorted(names))} of them)")
    together = [_worst(list(alike)) for alike in zip(*(theirs for theirs, _ in every), strict=True)]
    sayings = [cast("dict[str, str]", {}) for _ in together]
    for _, theirs in reversed(every):
        for kept, one in zip(sayings, theirs, strict=True):
            kept.update(one)
    return together, sayings


def _worst(alike: list[Row]) -> Row:
    """One row of the same layer in each rank."""
    found = dict(alike[0])
    for key in found:
        known = [row[key] for row in alike if row[key] is not None]
        if not known:
            continue
        choose = COLUMNS[key].worst if key in COLUMNS else None
        if choose is not None:
            found[key] = choose(known)
        elif key == "within":
            found[key] = all(known)
        elif key == "leaves":
            found[key] = min(known, key=KINDS.index)
        elif key == "alarms":
            found[key] = list(dict.fromkeys(kind for kinds in known for kind in kinds))
        elif key == "born":
            found[key] = known[0]
    worst = max(alike, key=lambda row: (row["growth"] or 0.0, row["forward_gain"] or 0.0))
    found["worst_token"], found["ranks"] = worst["worst_token"], len(alike)
    return found


def _distributed() -> Any:
    return torch.distributed


def _together() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
