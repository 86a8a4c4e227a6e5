"""What whole blocks do at initialisation to a random input, beside what the worst weights do (family block)."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import mhc_ref
from properties.explosion.configurations import Block
from properties.explosion.proofs.branches import BRANCHES
from properties.explosion.proofs.envelopes import BEFORE, BEHIND
from properties.explosion.searches import blocks
from properties.explosion.searches.hunt import one_thread

if TYPE_CHECKING:
    from properties.explosion.questions.blocks import Blocks

_WIDTH, _SEEDS, _DEEPEST = 32, 5, 256
_ROWS = 32
TYPICAL = f"random inputs, {_WIDTH} channels, logits 0, normal weights of variance 1/C, median of {_SEEDS} seeds"


def typical(question: Blocks, found: Block) -> float:
    """The median growth over at most 256 sub-layers, in float64, of the largest activation or of the gradient.

    Of a gradient: the largest absolute row sum of the Jacobian from the input to the first channels of the last token.
    """
    with one_thread():
        return statistics.median(_growth(question, found, seed) for seed in range(_SEEDS))


def _growth(question: Blocks, found: Block, seed: int) -> float:
    generator = torch.Generator().manual_seed(seed)
    tokens = question.max_tokens if found.tokens > 1 else 1
    x = torch.randn(tokens, found.streams, _WIDTH, dtype=torch.float64, generator=generator)
    drawn = [
        torch.randn(5, _WIDTH, _WIDTH, dtype=torch.float64, generator=generator) / _WIDTH**0.5
        for _ in range(min(found.depth, _DEEPEST))
    ]
    stack = _stack(question, found, drawn)
    if question.gain != "gradient":
        return (stack(x).abs().max() / x.abs().max()).item()

    def end(x: Tensor) -> Tensor:
        return stack(x)[-1].flatten()[:_ROWS]

    back: Any = torch.func.vjp(end, x)[1]
    (rows,) = torch.func.vmap(back)(torch.eye(_ROWS, dtype=torch.float64))
    return rows.flatten(1).abs().sum(1).max().item()


def _stack(question: Blocks, found: Block, drawn: list[Tensor]) -> Callable[[Tensor], Tensor]:
    """[T, n, C] -> [T, n, C] through a sub-layer for each of the weights [5, C, C]."""
    dialect = question.dialect
    parameters = blocks.params(Block(0, 0, Fraction(1), found.depth, found.streams, _WIDTH), dialect)

    def stack(x: Tensor) -> Tensor:
        for weights in drawn:
            x = mhc_ref.block(x, parameters, lambda u, weights=weights: _answer(question, u, weights), dialect)
            x = blocks.normalised(x, dialect) if question.norm == "post" else x
        return x

    return stack


def _answer(question: Blocks, u: Tensor, weights: Tensor) -> Tensor:
    if question.norm in BEFORE:
        u = blocks.normalised(u, question.dialect)
    into, gate, out, queries, keys = weights
    if question.branch == "gated":
        y = (torch.nn.functional.silu(u @ gate) * (u @ into)) @ out
    elif question.branch == "attention":
        logits = (u @ queries) @ (u @ keys).mT / _WIDTH**0.5
        y = logits.masked_fill(torch.ones_like(logits).triu(1).bool(), -torch.inf).softmax(-1) @ u @ into @ out
    else:
        y = BRANCHES[question.branch].acts(u @ into) @ out
    return blocks.normalised(y, question.dialect) if question.norm in BEHIND else y
