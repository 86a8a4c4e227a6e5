"""Matrices of logits that tell projections apart: diagonal, triangular, random, starved, slow to converge."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mhc_ref.dialect import Axis


@dataclass(frozen=True)
class Questions:
    """The logits that are asked for, [k, n, n], and which of them is which."""

    logits: Tensor
    diagonal: int
    triangular: slice
    starved: dict[Axis, slice]
    depths: dict[Axis, list[float]]
    base: Tensor


def starve(base: Tensor, axis: Axis, depths: list[float]) -> Tensor:
    """The first line of an axis lowered by every depth."""
    lines = base.repeat(len(depths), 1, 1)
    lines[:, 0] -= torch.tensor(depths, dtype=torch.float64).unsqueeze(-1)
    return lines if axis == "row" else lines.mT


def questions(n: int, depth: float, dtype: torch.dtype, ladder: int = 25) -> Questions:
    """Diagonal, triangular, random, shifted and starved logits, and some at which the iteration is slow to converge."""
    eye = torch.eye(n, dtype=torch.float64)
    diagonal = [-(1 - eye) * a for a in (8.0, 16.0, depth)]
    corner = torch.zeros(n, n, dtype=torch.float64)
    corner[1, 0] = -depth
    corner[2:, :2], corner[:2, 2:] = -depth, -depth
    if n > 3:
        corner[2:, 2:] -= depth * (1 - torch.eye(n - 2))
    triangular = [corner, corner.T]
    noise = torch.randn(5, n, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    line = torch.linspace(-3, 4, n, dtype=torch.float64)
    scaled = noise[:4] * torch.tensor([1.0, 2, 4, 8], dtype=torch.float64).view(-1, 1, 1)
    random = [*scaled, noise[0] + line, noise[0] + line.unsqueeze(-1)]
    depths = torch.linspace(0, depth, ladder).tolist()
    rows, columns = starve(noise[4], "row", depths), starve(noise[4], "column", depths)
    slow = torch.randn(4, n, n, generator=torch.Generator().manual_seed(50 + n), dtype=torch.float64)
    slow[0] -= 30 * torch.ones(n, n).triu(1)
    slow[1] -= 30 * torch.ones(n, n).tril(-1)
    slow[2:] *= 8
    slow[2, 0] -= 20
    slow[3, :, 0] -= 20
    parts = [torch.stack(diagonal), torch.stack(triangular), torch.stack(random), rows, columns, slow]
    logits = torch.cat(parts).to(dtype)
    after = [0, *itertools.accumulate(len(part) for part in parts)]
    return Questions(
        logits,
        diagonal=2,
        triangular=slice(after[1], after[2]),
        starved={"row": slice(after[3], after[4]), "column": slice(after[4], after[5])},
        depths={"row": depths, "column": depths},
        base=noise[4],
    )


def with_depths(asked: Questions, axis: Axis, at: int, depths: list[float], logits: Tensor) -> Questions:
    start = asked.starved[axis].start + at
    more = len(depths)

    def moved(lines: slice, own: bool) -> slice:
        late = lines.start > start
        return slice(lines.start + more * late, lines.stop + more * (late or own))

    own = [*asked.depths[axis][:at], *depths, *asked.depths[axis][at:]]
    return replace(
        asked,
        logits=torch.cat([asked.logits[:start], logits, asked.logits[start:]]),
        starved={name: moved(lines, name == axis) for name, lines in asked.starved.items()},
        depths=asked.depths | {axis: own},
    )
