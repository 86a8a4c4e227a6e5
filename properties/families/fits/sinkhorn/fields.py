"""Every combination of the fields of Sinkhorn that reproduces the matrices of a target."""

from __future__ import annotations

import itertools
from typing import Any

import torch

from mhc_ref import PRESETS, Dialect
from properties.core.estimate import Candidate, Matrices
from properties.core.questions import questions
from properties.core.rounding import Rounding
from properties.families.fits.sinkhorn.seen import Seen


def fit(
    read: Matrices,
    n: int,
    rounding: Rounding,
    depth: float,
    dtype: torch.dtype,
    most: int,
    declared: Dialect | None = None,
) -> list[Candidate]:
    """Every combination of the projection's fields that reproduces the target's matrices within the bound."""
    asked = questions(n, depth, dtype, ladder=25 if most >= 64 else 7)
    chunks = [read(part) for part in asked.logits.split(max(1, most))]
    eps = declared.denominator_eps if declared is not None and declared.denominator == "clamp" else 0.0
    seen = Seen(asked, torch.cat([a for a, _ in chunks]), torch.cat([b for _, b in chunks]), rounding, clamp=eps)
    seen = seen.refined(read, 4 if most < 64 else min(most, 16))
    found: list[Candidate] = []
    for last, start in itertools.product(("row", "column"), ("exp", "row", "column")):
        fields = {"residual": "sinkhorn", "last_axis": last, "start": "exp" if start == "exp" else "softmax"}
        fields["start_axis"] = start if start != "exp" else "row"
        for denominator in ("add", "clamp"):
            found += seen.completed(PRESETS.default.with_(**fields, rms_eps=0.0, denominator=denominator))
    return _without_repetition(found)


def _without_repetition(found: list[Candidate]) -> list[Candidate]:
    kept: dict[tuple[Any, ...], Candidate] = {}
    for one in found:
        kept.setdefault(tuple(sorted(one.fields.items())), one)
    return list(kept.values())
