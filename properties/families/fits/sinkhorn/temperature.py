"""A temperature of the residual logits, and the projection behind it.

No scaling of rows and columns changes odds ratios, so whatever the order, the iterations and the eps of the
denominators, log M with its row and column means removed is the logits with theirs removed, divided by the temperature.
An eps on the entries bends that line a little; once the eps is read off a diagonal matrix the bend is undone.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import torch
from torch import Tensor

import mhc_ref
from mhc_ref import PRESETS, Dialect
from properties.core.estimate import Candidate, Estimate, Matrices
from properties.core.questions import questions
from properties.core.rounding import Rounding
from properties.core.truth import wide
from properties.families.fits.sinkhorn.seen import Seen

BENT = 1e-2
"""Odds ratios that are further from a line than this, relatively, come from no temperature."""


def fit_tempered(
    read: Matrices,
    n: int,
    rounding: Rounding,
    depth: float,
    dtype: torch.dtype,
    most: int,
    declared: Dialect | None = None,
) -> list[Candidate]:
    """Every combination of the projection's fields that, with some temperature, reproduces the target's matrices.

    The fields and the estimates of a candidate have "temperature" beside the eps.
    """
    noise = torch.randn(1, n, n, generator=torch.Generator().manual_seed(91), dtype=torch.float64)
    rough = _first(read, noise, dtype)
    if rough is None or abs(rough - 1) < 256 * rounding.unit:
        return []
    probe = (noise * rough).to(dtype)
    matrix, reading = read(probe)
    asked = questions(n, depth, torch.float64, ladder=25 if most >= 64 else 7)
    given = (asked.logits * rough).to(dtype)
    chunks = [read(part) for part in given.split(max(1, most))]
    seen = Seen(asked, torch.cat([a for a, _ in chunks]), torch.cat([b for _, b in chunks]), rounding)
    error = 256 * rounding.unit + float((reading / matrix.abs()).max())
    found: list[Candidate] = []
    for last, start in itertools.product(("row", "column"), ("exp", "row", "column")):
        fields = {"residual": "sinkhorn", "last_axis": last, "start": "exp" if start == "exp" else "softmax"}
        dialect = PRESETS.default.with_(**fields, start_axis=start if start != "exp" else "row", rms_eps=0.0)
        begun = dialect.with_(entry_eps=seen.entry_eps(dialect).shortest())
        value = _unbent(matrix, wide(probe), begun, rough)
        temperature = Estimate.around(value, error * value)
        own = replace(asked, logits=wide(given) / temperature.shortest())
        tempered = replace(seen, asked=own, slack=2 * error)
        for denominator in ("add", "clamp"):
            for one in tempered.completed(dialect.with_(denominator=denominator)):
                fields = one.fields | {"temperature": temperature.shortest()}
                found.append(replace(one, fields=fields, estimates=one.estimates | {"temperature": temperature}))
    return found


def _first(read: Matrices, noise: Tensor, dtype: torch.dtype) -> float | None:
    """From small logits, and again from logits that the temperature makes of order 1."""
    rough = 1.0
    for scale in (0.02, 1.0):
        logits = (scale * rough * noise).to(dtype)
        matrix, _ = read(logits)
        if matrix.shape != logits.shape or not bool((matrix > 0).all()):
            return None
        slope = _slope(matrix, wide(logits))
        if not 1e-4 < slope < 1e4 or _bend(matrix, wide(logits), slope) > BENT:
            return None
        rough = 1 / slope
    return rough


def _unbent(matrix: Tensor, logits: Tensor, dialect: Dialect, rough: float) -> float:
    """The temperature at which the started matrix, eps included, has the slope that was seen."""
    wanted = _slope(matrix, logits)
    begun = dialect.with_(iterations=1)
    value = rough
    for _ in range(6):  # the bend is a few parts in a thousand at most: each step gains as many digits
        slope = _slope(mhc_ref.project(logits / value, begun), logits)
        if not slope > 0 or not math.isfinite(slope):
            return rough
        value *= slope / wanted
    return value


def _centred(values: Tensor) -> Tensor:
    return values - values.mean(-1, keepdim=True) - values.mean(-2, keepdim=True) + values.mean((-2, -1), keepdim=True)


def _slope(matrix: Tensor, logits: Tensor) -> float:
    observed, given = _centred(matrix.log()), _centred(logits)
    return float((observed * given).sum() / given.square().sum())


def _bend(matrix: Tensor, logits: Tensor, slope: float) -> float:
    line = slope * _centred(logits)
    return float((_centred(matrix.log()) - line).abs().max() / line.abs().max())
