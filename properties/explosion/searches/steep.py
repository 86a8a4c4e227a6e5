"""Gradients of stacks of equal blocks (family block): the largest absolute row sum of the Jacobian at inputs tried.

All streams are alike, so that one number a sub-layer and channel in use says it all: non-negative mappings whose rows
have one sum multiply as these sums do. With read = what the gates take of the streams in all, write, kept = what a row
of A sums to, and s the slope of the branch with its norms, a sub-layer multiplies by kept + write s read.

At zeros. Linear, relu, tanh and the difference of two sigmoids, (sigma(z) - sigma(-z)) g / 2, are steepest at 0 and
0 there: every sub-layer sees zeros, and of a norm the slope 1/sqrt(eps) or 1/eps. That is the largest there is, and no
search.

Along. Of others channel 0 alone: the slopes of g f along the way of an input a.

A gate that is held. F(u) = g silu(u_0) u_1, written to channel 1: with a in channel 0 and 0 in channel 1 nothing is
written, and every sub-layer has the slope g silu(v_0) / rms, v normalised.

Two tokens of attention. Channel 1 is what they hold, -a of the first and a of the second, and what keys and values
read; channel 0 is what queries read and what is written to: q of the second token, and 0 of the first, which has one
key to choose from. With u = read a the logits are -h q u and h q u, the answer is g u tanh(h q u), and its slopes are
g h u^2 sech(h q u)^2 in q and g p_j (1 + h q (c_j - mean)) in what token j holds, c_j = -u or u with the shares p_j. At
q = 0 the answer is 0 and the slope g h u^2 in every sub-layer: the state stays as it is, and its gradient grows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from mhc_ref import Dialect
from properties.explosion.composite import context, number
from properties.explosion.configurations import Block
from properties.explosion.proofs.branches import BRANCHES, sigmoid
from properties.explosion.proofs.envelopes import BEFORE, BEHIND, gates, norms_of

if TYPE_CHECKING:
    from properties.explosion.questions.blocks import Blocks

_QUARTERS, _SCALES = 5, range(-4, 5)
_BEYOND = 400
"""Decimal digits of a gain beyond every threshold that is asked for."""


class Way(NamedTuple):
    """What sub-layers do to an input: which it is, its size, and (gain, largest state) after each of them."""

    words: str
    start: Any
    after: Iterator[tuple[Any, Any]]


class _Numbers(NamedTuple):
    read: Any
    write: Any
    kept: Any
    g: Any


def gains(question: Blocks, block: Block, kept: Any) -> Iterator[Any]:
    """The largest gain of the inputs tried after 1, 2, ... sub-layers, without an end; 50 digits.

    kept: what the rows of the residual mapping sum to. The depth of the block does not matter.
    """
    for step in zip(*(way.after for way in ways(question, block, kept)), strict=True):
        yield max(gain for gain, _ in step)


def best(question: Blocks, block: Block, kept: Any) -> tuple[Way, list[tuple[Any, Any]]]:
    """The input of the largest gain, and what it comes to after each sub-layer of the block."""
    followed = [(way, list(itertools.islice(way.after, block.depth))) for way in ways(question, block, kept)]
    return max(followed, key=lambda one: one[1][-1][0])


def ways(question: Blocks, block: Block, kept: Any) -> list[Way]:
    """The inputs that are tried."""
    mp, d, branch = context(), question.dialect, BRANCHES[question.branch]
    read, write = (
        mp.mpf(one) for one in (gates(d, block.streams, block.pre)[0], gates(d, block.streams, block.post)[1])
    )
    by = _Numbers(read, write, kept, number(block.weight))
    quarters = [mp.mpf(k) / (_QUARTERS - 1) for k in range(_QUARTERS)]
    if block.tokens > 1:
        h = number(question.score_bound)
        words = "two tokens that hold -1 and 1 in channel 1, which keys and values read; the second's query is "
        return [Way(f"{words}{float(one):g}", mp.one, _two_tokens(one, by, h)) for one in quarters]
    if branch.origin:
        return [Way("zeros, or next to them", mp.zero, _at_zeros(question, by))]
    if question.norm != "none":  # where a norm is steep
        near = 1 / (slope_near_zero(d) * read)
        quarters += [one for k in _SCALES if (one := near * mp.mpf(2) ** k) <= 1]
    found = [Way("one channel", a, _along(question, block.width, a, by)) for a in quarters]
    if branch.gate and block.width > 1:
        words = "channel 0, which the gate reads; what it multiplies is channel 1, which is 0"
        found += [Way(words, a, _held(question, block.width, a, by)) for a in quarters if a]
    return found


def slope_near_zero(dialect: Dialect) -> Any:
    """Of an rms normalisation, at 0; 1 with an eps of 0, where there is none."""
    mp = context()
    eps = mp.mpf(dialect.rms_eps)
    return 1 / (mp.sqrt(eps) if dialect.rms_eps_inside else eps) if eps else mp.one


def normalised(u: Any, width: int, dialect: Dialect) -> tuple[Any, Any, Any]:
    """One channel u of `width`, the others 0, rms-normalised as the dialect does it.

    Returns:
        What comes out of it, its slope there, and that of another channel.
    """
    mp = context()
    mean, eps = u * u / width, mp.mpf(dialect.rms_eps)
    rms = mp.sqrt(mean + eps) if dialect.rms_eps_inside else mp.sqrt(mean) + eps
    if not rms:
        return u, mp.one, mp.one
    return u / rms, eps / rms ** (3 if dialect.rms_eps_inside else 2), 1 / rms


def _at_zeros(question: Blocks, by: _Numbers) -> Iterator[tuple[Any, Any]]:
    mp, near = context(), slope_near_zero(question.dialect)
    slope = by.g * BRANCHES[question.branch].slope(mp.zero, mp) * near ** norms_of(question.norm)
    one = (by.kept + by.write * slope * by.read) * (near if question.norm == "post" else mp.one)
    for depth in itertools.count(1):
        yield one**depth, mp.zero


def _along(question: Blocks, width: int, a: Any, by: _Numbers) -> Iterator[tuple[Any, Any]]:
    mp, d, branch = context(), question.dialect, BRANCHES[question.branch]
    product = mp.one
    while max(a, product) <= mp.mpf(10) ** _BEYOND:
        u, slope = by.read * a, by.read
        if question.norm in BEFORE:
            u, steep, _ = normalised(u, width, d)
            slope *= steep
        y = by.g * branch.answers(u, mp)
        slope *= by.g * branch.derivative(u, mp)
        if question.norm in BEHIND:
            y, steep, _ = normalised(y, width, d)
            slope *= steep
        a, slope = by.kept * a + by.write * y, by.kept + by.write * slope
        if question.norm == "post":
            a, steep, _ = normalised(a, width, d)
            slope *= steep
        product *= slope
        yield product, a
    yield from itertools.repeat((product, a))


def _held(question: Blocks, width: int, a: Any, by: _Numbers) -> Iterator[tuple[Any, Any]]:
    mp, d = context(), question.dialect
    product = mp.one
    while True:
        v, slope = by.read * a, by.read
        if question.norm in BEFORE:
            v, _, steep = normalised(v, width, d)
            slope *= steep
        slope *= by.g * v * sigmoid(v, mp)
        if question.norm in BEHIND:
            slope *= slope_near_zero(d)
        a, slope = by.kept * a, by.kept + by.write * slope
        if question.norm == "post":
            a, _, steep = normalised(a, width, d)
            slope *= steep
        product *= slope
        yield product, a


def _two_tokens(query: Any, by: _Numbers, h: Any) -> Iterator[tuple[Any, Any]]:
    """The row of the second token's channel 0."""
    mp = context()
    held = by_query = mp.one
    by_held = [mp.zero, mp.zero]
    while max(query, by_query) <= mp.mpf(10) ** _BEYOND:
        q, u = by.read * query, by.read * held
        share = (1 + mp.tanh(h * q * u)) / 2  # of the second token
        mean = u * (2 * share - 1)
        steep = by.g * h * by.read * u * u * 4 * share * (1 - share)
        for j, (value, part) in enumerate(((-u, 1 - share), (u, share))):
            own = by.g * by.read * part * (1 + h * q * (value - mean))
            by_held[j] = by.kept * by_held[j] + by.write * (steep * by_held[j] + own * held)
        by_query *= by.kept + by.write * steep
        query, held = by.kept * query + by.write * by.g * mean, by.kept * held
        yield by_query + sum(abs(one) for one in by_held), max(query, held)
    yield from itertools.repeat((by_query, query))
