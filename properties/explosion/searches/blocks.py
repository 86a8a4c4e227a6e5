"""The search over whole blocks: the first depth that its envelope allows, then simple gates and a simple weight."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch
from hypothesis import strategies as st
from torch import Tensor

import mhc_ref
from mhc_ref import Dialect, Params
from mhc_ref.packing import params_shapes
from properties.explosion.answer import Answer
from properties.explosion.composite import Matrix, context, number
from properties.explosion.configurations import Block
from properties.explosion.mixing import of_dialect
from properties.explosion.proofs.branches import BRANCHES
from properties.explosion.proofs.envelopes import (
    BEFORE,
    BEHIND,
    OPEN,
    envelope,
    excludes,
    gates,
    impossible,
    least_depth,
    peak,
    short,
    why,
)
from properties.explosion.searches.entries import simpler
from properties.explosion.searches.hunt import Hunt
from properties.explosion.searches.hypothesise import Clock, smallest
from properties.explosion.searches.steep import gains
from properties.explosion.searches.steep import normalised as exactly_normalised

if TYPE_CHECKING:
    from properties.explosion.questions.blocks import Blocks


def solve(question: Blocks, hunt: Hunt[Block]) -> Answer:
    """What is known in the end; blocks that reach the threshold are kept, ever simpler ones."""
    clock = hunt.clock
    clock.stage = "depth"
    if question.gain == "nonfinite":
        return _overflowing(question, hunt)
    least = least_depth(question)
    if least is None:
        return impossible(question)
    proved, excluded, smaller = True, "", ""
    if least > 1:
        limit = envelope(question, least - 1, question.max_streams, question.max_width)
        stay = (
            "1 sub-layer of any allowed size stays"
            if least == 2
            else f"{least - 1} sub-layers of any allowed size stay"
        )
        excluded = f"{stay} below {short(limit)}"
    sizes = itertools.product(
        range(least, question.max_depth + 1), range(1, question.max_streams + 1), range(1, question.max_width + 1)
    )
    grown = _growing(question)
    for depth, n, width in sizes:
        clock.tick()
        limit = envelope(question, depth, n, width)
        if excludes(question, limit):
            smaller = f"{depth} of {n} stream{'s' * (n > 1)} with C = {width} below {short(limit)}"
            continue
        alone = Block(OPEN, OPEN, question.branch_bound, depth, n, width)
        tried = (replace(alone, tokens=tokens) for tokens in range(1, most_tokens(question, width) + 1))
        block = next((one for one in tried if grown(one) >= number(question.threshold)), None)
        if block is not None:
            reasons = "; ".join(reason for reason in (why(question), excluded, smaller) if reason)
            known = Answer(depth, n, proved, f"{reasons}.")
            hunt.keep(known, block)
            clock.stage = "gates"
            hunt.keep(known, _simplified(question, block, clock))
            return known
        proved = False
    return Answer(None, None, False, f"{why(question)}; not found, which is no proof.")


def _growing(question: Blocks) -> Callable[[Block], Any]:
    """`value`, which of gradients goes on from the depth at which it was asked for last."""
    if question.gain != "gradient":
        return lambda block: value(question, block)
    known: dict[Block, tuple[Iterator[Any], int]] = {}

    def grown(block: Block) -> Any:
        key = replace(block, depth=1)
        curve, passed = known.get(key, (gradients(question, block), 0))
        known[key] = curve, block.depth
        return next(itertools.islice(curve, block.depth - passed - 1, None))

    return grown


def most_tokens(question: Blocks, width: int) -> int:
    """How many tokens are tried with so many channels: two of attention have two channels in use."""
    return min(question.max_tokens, 2) if question.norm == "none" and width > 1 else 1


def value(question: Blocks, block: Block) -> Any:
    """The gain of a stack of equal blocks on its worst input, by the recurrence that it comes down to; 50 digits.

    All streams are alike and only channel 0 is in use, so one number a sub-layer says it all.
    """
    if question.gain == "gradient":
        return next(itertools.islice(gradients(question, block), block.depth - 1, None))
    mp = context()
    d = question.dialect
    branch, g = BRANCHES[question.branch], number(block.weight)
    read, write = (
        mp.mpf(one) for one in (gates(d, block.streams, block.pre)[0], gates(d, block.streams, block.post)[1])
    )
    kept = kept_by(question, block)
    a = mp.one
    for _ in range(block.depth):
        u = read * a
        y = g * branch.answers(exactly_normalised(u, block.width, d)[0] if question.norm in BEFORE else u, mp)
        a = kept * a + write * (exactly_normalised(y, block.width, d)[0] if question.norm in BEHIND else y)
        if question.norm == "post":
            a = exactly_normalised(a, block.width, d)[0]
        if a > mp.mpf(10) ** 400:
            break
    return a


def gradients(question: Blocks, block: Block) -> Iterator[Any]:
    """The gain of a gradient after 1, 2, ... sub-layers, without an end; 50 digits."""
    return gains(question, block, kept_by(question, block))


def kept_by(question: Blocks, block: Block) -> Any:
    """What the rows of the residual mapping sum to, in mpmath."""
    return number(sum(residual_operators(question, replace(block, depth=1))[0][0], Fraction(0)))


def activations(question: Blocks, block: Block, dtype: str) -> Iterator[Tensor]:
    """The states [n, C] after each sub-layer, from the reference, on the worst input, in a dtype."""
    storage: torch.dtype = getattr(torch, dtype)
    n, width, d = block.streams, block.width, question.dialect
    x = torch.zeros(n, width, dtype=storage)
    x[:, 0] = 1
    parameters = params(block, d, storage)

    def branch(u: Tensor) -> Tensor:
        return branch_output(question, block, u.double()).to(u.dtype)

    for _ in range(block.depth):
        x = mhc_ref.block(x, parameters, branch, d)
        if question.norm == "post":
            x = normalised(x.double(), d).to(storage)
        yield x


def branch_output(question: Blocks, block: Block, u: Tensor) -> Tensor:
    """F(u) [..., C] with the weights that use channel 0 only; of attention with the one token that is enough."""
    if question.norm in BEFORE:
        u = normalised(u, question.dialect)
    used = torch.zeros_like(u)
    used[..., 0] = 1
    branch = BRANCHES[question.branch]
    y = float(block.weight) * branch.acts(u) * used
    if question.gain == "gradient" and branch.origin:
        y = y - float(block.weight) * branch.acts(torch.zeros_like(u)) * used  # of two sigmoids, see `steep`
    return normalised(y, question.dialect) if question.norm in BEHIND else y


def params(block: Block, dialect: Dialect, dtype: torch.dtype = torch.float64) -> Params:
    """The static parameters of every sub-layer: phi = 0, gates and zero residual logits as the bias."""
    shapes, n = params_shapes(block.streams, block.width, dialect), block.streams
    of = torch.float64 if dtype == torch.float64 else torch.float32
    bias = torch.tensor([block.pre] * n + [block.post] * n + [0] * (shapes.bias[0] - 2 * n), dtype=of)
    return Params(torch.zeros(shapes.phi, dtype=of), bias, torch.ones(shapes.alpha, dtype=of))


def residual_operators(question: Blocks, block: Block) -> tuple[Matrix, ...]:
    """The residual mappings, alike in every sub-layer: those of zero logits, exact."""
    return (_at_zero(block.streams, question.dialect),) * block.depth


@functools.cache
def _at_zero(n: int, dialect: Dialect) -> Matrix:
    mixing = of_dialect(dialect)
    return mixing.exact(mixing.zeros(1, n))[0]


def measured(question: Blocks, block: Block) -> float:
    """The gain as the reference computes it in the dtype that was asked for; of a gradient in float64."""
    if question.gain == "gradient":
        return float(value(question, block))
    largest = torch.tensor(0.0)
    for x in activations(question, block, question.dtype):
        largest = x.double().abs().max()
        if not largest.isfinite():
            return math.inf
    return largest.item()


def _overflowing(question: Blocks, hunt: Hunt[Block]) -> Answer:
    """The first sub-layer after which something is not finite, with open gates, the largest weight and input."""
    info = torch.finfo(getattr(torch, question.dtype))
    n, width = question.max_streams, question.max_width
    limit = peak(question, question.max_depth, n, width)
    roundings = (n + width + 10) * question.max_depth
    if limit * (1 + number(Fraction(info.eps))) ** roundings < info.max:
        proof = (
            f"{why(question)}: states, branch inputs and outputs of {question.max_depth} sub-layers are at most "
            f"{short(limit)}, and with {roundings} roundings "
        )
        return Answer(None, None, True, f"{proof}below the largest {question.dtype}, {info.max:.4g}.")
    depth = _first_overflow(
        question, Block(OPEN, OPEN, question.branch_bound, question.max_depth, n, width), hunt.clock
    )
    if depth is None:
        return Answer(
            None, None, False, f"Nothing overflows within {question.max_depth} sub-layers of the strongest block."
        )
    for fewer, narrower in itertools.product(range(1, n + 1), range(1, width + 1)):
        block = Block(OPEN, OPEN, question.branch_bound, depth, fewer, narrower)
        if _first_overflow(question, block, hunt.clock) is not None:
            known = Answer(depth, fewer, False, f"{why(question)}, and that was run in {question.dtype}.")
            hunt.keep(known, block)
            return known
    raise AssertionError(f"{question} overflowed once and then not again")


def _first_overflow(question: Blocks, block: Block, clock: Clock) -> int | None:
    for depth, x in enumerate(activations(question, block, question.dtype), start=1):
        clock.tick()
        if not x.isfinite().all():
            return depth
    return None


def _simplified(question: Blocks, block: Block, clock: Clock) -> Block:
    """The simplest gate logits and weight that still reach the threshold: Hypothesis shrinks three numbers."""
    weights = [*simpler(question.branch_bound), question.branch_bound]
    goal = number(question.threshold)

    def built(numbers: tuple[int, int, Fraction]) -> Block:
        pre, post, weight = numbers
        return replace(block, pre=pre, post=post, weight=weight)

    gate = st.integers(0, OPEN)
    found = smallest(
        st.tuples(gate, gate, st.sampled_from(weights)),
        lambda numbers: bool(value(question, built(numbers)) >= goal),
        seed=question.seed,
        clock=clock,
        examples=100,
    )
    return block if found is None else built(found)


def normalised(u: Tensor, dialect: Dialect) -> Tensor:
    """Streams [..., C], rms-normalised as the dialect does it."""
    mean = u.square().mean(-1, keepdim=True)
    rms = (mean + dialect.rms_eps).sqrt() if dialect.rms_eps_inside else mean.sqrt() + dialect.rms_eps
    return torch.where(rms == 0, u, u / torch.where(rms == 0, 1.0, rms))
