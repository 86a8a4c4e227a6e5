"""Every combination of the fields of Sinkhorn that reproduces the matrices of a target."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mhc_ref import PRESETS, Dialect
from properties.core.estimate import Candidate, Matrices
from properties.core.questions import questions
from properties.core.rounding import Rounding
from properties.core.truth import wide
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
    """Every combination of the projection's fields that reproduces the target's matrices within the bound: with the
    temperature that is declared, or else without one."""
    said = 1.0 if declared is None else declared.fields().get("temperature", 1.0)
    for temperature in dict.fromkeys((said, 1.0)):
        found = _at(temperature, read, n, rounding, depth, dtype, most, declared)
        if found:
            return [replace(one, fields=one.fields | {"temperature": temperature}) for one in found]
    return []


def _at(
    temperature: float,
    read: Matrices,
    n: int,
    rounding: Rounding,
    depth: float,
    dtype: torch.dtype,
    most: int,
    declared: Dialect | None,
) -> list[Candidate]:
    """What is asked is divided by the temperature again, but for what rounds: of those quotients nothing is known."""
    plain = temperature == 1

    def tempered(logits: Tensor) -> tuple[Tensor, Tensor]:
        return read(logits if plain else (wide(logits) * temperature).to(dtype))

    asked = questions(n, depth, dtype, ladder=25 if most >= 64 else 7)
    chunks = [tempered(part) for part in asked.logits.split(max(1, most))]
    eps = declared.denominator_eps if declared is not None and declared.denominator == "clamp" else 0.0
    matrices, reading = torch.cat([a for a, _ in chunks]), torch.cat([b for _, b in chunks])
    seen = Seen(asked, matrices, reading, rounding, slack=0.0 if plain else 4 * rounding.unit, clamp=eps)
    seen = seen.refined(tempered, 4 if most < 64 else min(most, 16))
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
