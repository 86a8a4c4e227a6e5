"""What whole blocks do at initialisation to a random input, beside what the worst weights do (family block)."""

from __future__ import annotations

import statistics
from fractions import Fraction
from typing import TYPE_CHECKING

import torch
from torch import Tensor

import mhc_ref
from properties.explosion.configurations import Block
from properties.explosion.proofs.branches import BRANCHES
from properties.explosion.proofs.envelopes import BEFORE, BEHIND
from properties.explosion.searches import blocks

if TYPE_CHECKING:
    from properties.explosion.questions.blocks import Blocks

_WIDTH, _SEEDS, _DEEPEST = 32, 5, 256
TYPICAL = f"random inputs, {_WIDTH} channels, logits 0, normal weights of variance 1/C, median of {_SEEDS} seeds"


def typical(question: Blocks, depth: int, n: int) -> float:
    """The median growth of the largest activation over at most 256 sub-layers, in float64."""
    dialect = question.dialect
    parameters = blocks.params(Block(0, 0, Fraction(1), depth, n, _WIDTH), dialect)
    found: list[float] = []
    for seed in range(_SEEDS):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(n, _WIDTH, dtype=torch.float64, generator=generator)
        start = x.abs().max()
        for _ in range(min(depth, _DEEPEST)):
            weights = torch.randn(3, _WIDTH, _WIDTH, dtype=torch.float64, generator=generator) / _WIDTH**0.5
            x = mhc_ref.block(x, parameters, lambda u, weights=weights: _answer(question, u, weights), dialect)
            x = blocks.normalised(x, dialect) if question.norm == "post" else x
        found.append((x.abs().max() / start).item())
    return statistics.median(found)


def _answer(question: Blocks, u: Tensor, weights: Tensor) -> Tensor:
    if question.norm in BEFORE:
        u = blocks.normalised(u, question.dialect)
    into, gate, out = weights
    if question.branch == "gated":
        y = (torch.nn.functional.silu(u @ gate) * (u @ into)) @ out
    else:
        y = BRANCHES[question.branch].acts(u @ into) @ out
    return blocks.normalised(y, question.dialect) if question.norm in BEHIND else y
