"""The search over mixing whose lines are divided by their sums in turn: sharper than what its guarantees say.

A way of searching, as `searches.projected.Way` says; the caps and their proofs are in `proofs.manifold`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mhc_ref import Dialect
from properties.explosion.answer import Answer
from properties.explosion.composite import decimal
from properties.explosion.float_gain import float_gain
from properties.explosion.mixing import Mixing
from properties.explosion.proofs import manifold
from properties.explosion.proofs.caps import Cap
from properties.explosion.proofs.manifold import answer, axis, normalised
from properties.explosion.proofs.storage import growth
from properties.explosion.searches.ascent import Concentration, climbed
from properties.explosion.searches.drift import drifting
from properties.explosion.searches.hypothesise import Clock
from properties.explosion.searches.logits import confirmed, reached
from properties.explosion.searches.projected import explored

if TYPE_CHECKING:
    from properties.explosion.questions.constrained import ConstrainedMixing

_FAR = 700.0
"""A logit whose exponential float64 holds, and which is beyond every threshold that can be asked for."""

__all__ = ["answer", "cap", "pool", "smallest", "start", "stores"]


def stores(dialect: Dialect) -> bool:
    """Whether matrices are searched that are stored in a short dtype: where a division normalises them."""
    return bool(dialect.iterations)


def cap(question: ConstrainedMixing, n: int, depth: int | None) -> Cap | None:
    """The smallest proved cap; exponentials that nothing divides have none."""
    undivided = question.dialect.start == "exp" and not question.dialect.iterations
    return None if undivided else manifold.cap(question, n, depth)


def pool(mixing: Mixing, n: int, seed: int, clock: Clock) -> Tensor:
    """The logits with which the dialect concentrates best, the patterns, and random ones."""
    ascended = Concentration(mixing.dialect, n, seed, clock)
    ascended.extend()
    return torch.cat([ascended.logits(), ascended.pool()])


def smallest(question: ConstrainedMixing, mixing: Mixing, clock: Clock) -> tuple[Answer, Tensor | None]:
    """The smallest depth and streams that are found, with logits, where `answer` leaves it to a search."""
    rows_drift = axis(question) == "rows" and question.direction == "explode"
    if question.stored and (rows_drift or (question.direction == "vanish" and normalised(question.dialect))):
        return _drifted(question, mixing, clock)
    if question.direction == "vanish":
        return _fading(question, mixing, clock)
    # Row sums of at most 1: a longer product has smaller ones.
    deepest = 1 if axis(question) == "rows" else question.max_depth
    return explored(
        question, mixing, clock, cap, lambda n: Concentration(question.dialect, n, question.seed, clock), deepest
    )


def start(question: ConstrainedMixing, mixing: Mixing, known: Answer) -> Tensor | None:
    """Logits for an architecture that is known to be enough: zeros, or far from it where nothing is normalised."""
    if known.depth is None or known.streams is None:
        return None
    zeros = torch.zeros(known.depth, known.streams, known.streams, dtype=torch.float64)
    if confirmed(zeros, question, mixing):
        return zeros
    far = math.copysign(_FAR * question.dialect.temperature, 1 if question.direction == "explode" else -1)
    return zeros + far


def _drifted(question: ConstrainedMixing, mixing: Mixing, clock: Clock) -> tuple[Answer, Tensor | None]:
    """Row sums that leave 1 by rounding alone."""
    sign = 1 if question.direction == "explode" else -1
    most = growth(question, question.max_streams, sign)
    least = 1
    while (most**least - question.threshold) * sign < 0:
        least += 1
    extreme = f"at {'most' if sign > 0 else 'least'} {decimal(most, 12)} as they are stored in {question.dtype}"
    why = f"Rows sum to 1, {extreme}, so fewer than {least} sub-layers cannot reach {decimal(question.threshold)}"
    start = drifting(question, mixing, clock)
    if start is None:
        return Answer(None, None, False, f"{why}; not found, which is no proof."), None
    if len(start) == least and start.shape[1] == 2:
        return Answer(least, 2, True, f"{why}; one stream is always 1."), start
    return Answer(len(start), start.shape[1], False, f"{why}; what lies between was not excluded."), start


def _fading(question: ConstrainedMixing, mixing: Mixing, clock: Clock) -> tuple[Answer, Tensor | None]:
    """An eps in a denominator loses a little in every division. One stream gives the same matrix for every logit."""
    alone = _depth_of(torch.zeros(1, 1, 1, dtype=torch.float64), question, mixing)
    best = None if alone is None else torch.zeros(alone, 1, 1, dtype=torch.float64)
    why = "With one stream the matrix is the same for every logit"
    if question.max_streams == 1:
        proof = f"{why}, so the depth is its exponent."
        if alone is None:
            proof = f"{why}, and {question.max_depth} sub-layers of it do not reach the threshold."
        return Answer(alone, None if alone is None else 1, True, proof), best
    for n in range(2, question.max_streams + 1):
        one = _faintest(question, mixing, n, clock)[None]
        depth = _depth_of(one, question, mixing)
        if depth is not None and (best is None or depth < len(best)):
            best = one.repeat(depth, 1, 1)
    if best is None:
        return Answer(None, None, False, f"{why}, and {question.max_depth} sub-layers of it are not enough."), None
    if best.shape[:2] == (1, 1):
        return Answer(1, 1, True, f"{why}, and one sub-layer is enough."), best
    proof = f"{why}; with more streams nothing that fades faster was found, which is no proof"
    if best.shape[1] > 1:
        proof = f"{why} and needs {alone or 'too many'} sub-layers; {best.shape[1]} streams fade faster"
    return Answer(len(best), best.shape[1], False, f"{proof}."), best


def _depth_of(one: Tensor, question: ConstrainedMixing, mixing: Mixing) -> int | None:
    """The smallest depth at which copies of one matrix reach the threshold."""
    stack = mixing.operators(one)
    composed = stack[0]
    for depth in range(1, question.max_depth + 1):
        if reached(composed, question, 0) and confirmed(one.repeat(depth, 1, 1), question, mixing):
            return depth
        composed = stack[0] @ composed
    return None


def _faintest(question: ConstrainedMixing, mixing: Mixing, n: int, clock: Clock) -> Tensor:
    """Logits of one matrix of small gain, by gradient descent."""
    generator = torch.Generator().manual_seed(question.seed)
    logits = 4 * torch.randn(64, n, n, dtype=torch.float64, generator=generator)
    logits[0] = 0

    def faint(at: Tensor) -> Tensor:
        return -float_gain(mixing.operators(at), question.gain)

    found = climbed(faint, logits, 100, clock)
    return found[faint(found).argmax()]
