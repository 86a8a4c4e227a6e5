"""The search over constrained mixing (family mhc): any dialect, finite logits of any size."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from properties.explosion.answer import Answer
from properties.explosion.composite import decimal
from properties.explosion.mixing import Mixing
from properties.explosion.proofs.manifold import answer, axis, cap, normalised
from properties.explosion.proofs.storage import growth
from properties.explosion.questions.question import float_gain
from properties.explosion.searches.ascent import Concentration, climbed
from properties.explosion.searches.drift import drifting
from properties.explosion.searches.hypothesise import Clock
from properties.explosion.searches.logits import confirmed, may_reach, product, reached, simplest_logits

if TYPE_CHECKING:
    from properties.explosion.questions.constrained import ConstrainedMixing, LogitsQuestion

_FAR = 700.0
"""A logit whose exponential float64 holds, and which is beyond every threshold that can be asked for."""

Keep = Callable[[Answer, Tensor], None]


def solve(question: ConstrainedMixing, mixing: Mixing, clock: Clock, keep: Keep) -> Answer:
    """What is known in the end. It is given to `keep` together with logits [L, n, n] that reach the threshold, as soon
    as there are any, and again with ever simpler ones.
    """
    if (known := answer(question)) is None:
        clock.stage = "depth"
        rows_drift = axis(question) == "rows" and question.direction == "explode"
        if question.stored and (rows_drift or (question.direction == "vanish" and normalised(question.dialect))):
            known, start = _drifted(question, mixing, clock)
        else:
            known, start = (_fading if question.direction == "vanish" else _exploding)(question, mixing, clock)
    else:
        start = _start(question, mixing, known)
    return simplified(question, mixing, clock, keep, known, start)


def simplified(
    question: LogitsQuestion, mixing: Mixing, clock: Clock, keep: Keep, known: Answer, start: Tensor | None
) -> Answer:
    """What is known, given to `keep` with `start` and with ever simpler logits that reach the threshold too."""
    if start is None:
        return known
    keep(known, start)
    clock.stage = "logits"
    for better in simplest_logits(start, question, mixing, clock):
        if confirmed(better, question, mixing):
            keep(known, better)
    return known


def _start(question: ConstrainedMixing, mixing: Mixing, known: Answer) -> Tensor | None:
    """Logits for an architecture that is known to be enough: zeros, or far from it where nothing is normalised."""
    if known.depth is None or known.streams is None:
        return None
    zeros = torch.zeros(known.depth, known.streams, known.streams, dtype=torch.float64)
    if confirmed(zeros, question, mixing):
        return zeros
    far = math.copysign(_FAR, 1 if question.direction == "explode" else -1)
    return zeros + far


def _exploding(question: ConstrainedMixing, mixing: Mixing, clock: Clock) -> tuple[Answer, Tensor | None]:
    """The first (depth, streams) in lexicographic order that is reached."""
    stacks: dict[int, Concentration] = {}
    open_questions: list[str] = []
    excluded: dict[int, str] = {}
    for depth, n in itertools.product(range(1, question.max_depth + 1), range(1, question.max_streams + 1)):
        clock.tick()
        limit = cap(question, n, depth)
        if limit.excludes(question):
            excluded[n] = (
                f"with {depth} sub-layer{'s' * (depth > 1)} of {n} stream{'s' * (n > 1)} {limit.sentence(question)}"
            )
            continue
        if axis(question) == "rows" and depth > 1:
            open_questions = open_questions or [f"depth {depth} with {n} streams"]
            break  # row sums of at most 1: a longer product has smaller ones
        while n not in stacks or stacks[n].depth < depth:
            stacks.setdefault(n, Concentration(question.dialect, n, question.seed, clock)).extend()
        for start in (torch.zeros(depth, n, n, dtype=torch.float64), stacks[n].logits()):
            if may_reach(start, question, mixing) and confirmed(start, question, mixing):
                return _answer(question, depth, n, excluded, open_questions), start
        value = float_gain(product(mixing.operators(stacks[n].logits())), question.gain).item()
        if len(open_questions) < 1:
            open_questions.append(f"depth {depth} with {n} streams (the search reached {value:.6g} there)")
        clock.best = f"{value:.6g} at depth {depth}, {n} streams"
    if not open_questions:
        sublayers = f"{question.max_depth} sub-layer{'s' * (question.max_depth > 1)}"
        return Answer(None, None, True, f"{_because(excluded)} More than {sublayers} were not asked for."), None
    return Answer(None, None, False, f"Neither found nor proved impossible, first at {open_questions[0]}. "), None


def _answer(
    question: ConstrainedMixing, depth: int, n: int, excluded: dict[int, str], open_questions: list[str]
) -> Answer:
    why = _because(excluded) if excluded else "It is the smallest architecture there is."
    if open_questions:
        return Answer(depth, n, False, f"{why} Not proved impossible: {open_questions[0]}.")
    return Answer(depth, n, True, why)


def _because(excluded: dict[int, str]) -> str:
    reasons = [excluded[n] for n in sorted(excluded) if n > 1] or list(excluded.values())
    text = "; ".join(reasons)
    return f"{text[:1].upper()}{text[1:]}." if text else ""


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
