"""The whole block with a branch (family block): does an activation or a normalisation contain growth?

Searched: L sub-layers x' = A x + h_post^T F(h_pre x) with static gates of any finite logits, any residual mapping of
the dialect, and inputs within 1. The branch has weights of norm at most g in the sup-norm:

    linear     F(u) = W u                                 |W| <= g
    relu       F(u) = W2 relu(W1 u)                       |W1| |W2| <= g
    gated      F(u) = W3 (silu(W2 u) * W1 u)              |W1|, |W2| <= 1, |W3| <= g
    attention  causal, any number of heads and tokens     |Wo| |Wv| <= g
    norm       none; pre: F(rms-normalised u); post: x' is rms-normalised, stream by stream

Activation. Let a bound the activations. |A x| <= a, because the rows of A are non-negative and sum to at most 1; a gate
reads less than m = 1 + pre_eps of each of n streams and writes less than s = post_scale. Hence a' < a + s g f(v) with
v = n m a, or v = sqrt(C) behind a pre-norm of C channels; f(v) = v for linear, relu (1-Lipschitz, 0 at 0) and attention
(a convex combination of values), v silu(v) for gated; a' <= sqrt(C) behind a post-norm. All streams alike and one
channel in use attain this in the limit of open gates: so these envelopes decide, and they say: a relu or an attention
contains nothing, a gated branch grows doubly exponentially, a pre-norm leaves growth by a constant a sub-layer, and a
post-norm contains.

Gradient: the largest absolute row sum of the Jacobian. Without a norm linear and relu have the same envelope. A
pre-norm has the slope 1/sqrt(eps) at 0: a normalisation does not contain gradients, it makes them explode where
activations are small. Of more than 4 channels that is not yet the largest: with w = u / (sqrt(C) rho), s = |w|^2 < 1
and 1/rho = sqrt((1 - s) / eps) the Jacobian is (I - w w^T) / rho, and its row i has the absolute sum
(1 - w_i^2 + |w_i| sum of the other |w_j|) / rho <= (1 + c s) sqrt((1 - s) / eps) with c = (sqrt(C) - 1) / 2, by
Cauchy-Schwarz and the largest eigenvalue of the quadratic form. Over s that is largest at 0 for c <= 1/2, otherwise at
s = (2c - 1) / (3c). With eps outside the root and s' = sigma / (sigma + eps) in place of s it is
(1 - s') (1 + c s') / eps, largest at 0 for c <= 1, otherwise at s' = (c - 1) / (2c).

Nonfinite: a state, a branch input or a branch output overflows, the state before a post-norm included; the inside of a
branch is computed in float64.
"""

from __future__ import annotations

import functools
import math
from fractions import Fraction
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from mhc_ref import Dialect
from mhc_ref.exact import Exact
from mhc_ref.packing import params_shapes
from properties.core.family import gate_of
from properties.explosion.answer import Answer
from properties.explosion.composite import DIGITS, context, decimal, number

if TYPE_CHECKING:
    from properties.explosion.questions.blocks import Blocks

OPEN = 60
"""A gate logit whose sigmoid is 1 in float64, and in 50 digits falls short of it by 1e-26."""


def least_depth(question: Blocks) -> int | None:
    """The first depth at which the envelope of the largest block lets the threshold through."""

    def possible(depth: int) -> bool:
        return not excludes(question, envelope(question, depth, question.max_streams, question.max_width))

    low, high = 0, 1
    while not possible(high):  # doubled, for exact powers of a large depth are long
        if high == question.max_depth:
            return None
        low, high = high, min(2 * high, question.max_depth)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if possible(middle) else (middle, high)
    return high


def impossible(question: Blocks) -> Answer:
    largest = short(envelope(question, question.max_depth, question.max_streams, question.max_width))
    goal = decimal(question.threshold)
    if question.norm == "post" and question.gain == "activation":
        proof = f"{why(question)}: {largest} at C = {question.max_width}, at every depth, and {goal} is not below that"
        return Answer(None, None, True, f"{proof}.")
    return Answer(None, None, True, f"{why(question)}: {question.max_depth} sub-layers stay below {largest} <= {goal}.")


def envelope(question: Blocks, depth: int, n: int, width: int) -> Any:
    """What the gain of `depth` sub-layers stays below; see the module for the proof.

    A Fraction where that is rational, for a threshold may be just that number; otherwise in mpmath.
    """
    mp = context()
    d = question.dialect
    rational = _rational_envelope(question, depth, n, width)
    if rational is not None:
        return rational
    read, write, g = n * (1 + mp.mpf(d.pre_eps)), mp.mpf(d.post_scale), number(question.branch_bound)
    if question.gain == "gradient":
        slope = read if question.norm == "none" else read * steepest(d, width)
        return (1 + write * g * slope) ** depth
    if question.norm == "post":
        return mp.sqrt(width)
    a = mp.one
    for _ in range(depth):  # gated, or a width that is no square
        v = read * a if question.norm == "none" else mp.sqrt(width)
        a += write * g * shape(question, v, mp)
        if mp.isinf(a) or a > mp.mpf(10) ** 400:  # beyond every threshold that is asked for
            break
    return a


def _rational_envelope(question: Blocks, depth: int, n: int, width: int) -> Fraction | None:
    d, root = question.dialect, math.isqrt(width)
    square = root * root == width
    step = Fraction(d.post_scale) * question.branch_bound
    if question.norm == "post":
        return Fraction(root) if square else None
    if question.norm == "none" and question.branch != "gated":
        return (1 + step * n * (1 + Fraction(d.pre_eps))) ** depth
    if question.norm == "pre" and question.branch != "gated" and question.gain != "gradient" and square:
        return 1 + depth * step * root
    return None


def steepest(dialect: Dialect, width: int) -> Any:
    """The largest absolute row sum of the Jacobian of an rms normalisation of `width` channels, in mpmath."""
    mp = context()
    c, eps = (mp.sqrt(width) - 1) / 2, mp.mpf(dialect.rms_eps)
    if dialect.rms_eps_inside:
        s = max(mp.zero, (2 * c - 1) / (3 * c)) if c else mp.zero
        return mp.sqrt((1 - s) / eps) * (1 + c * s)
    s = max(mp.zero, (c - 1) / (2 * c)) if c else mp.zero
    return (1 - s) * (1 + c * s) / eps


def peak(question: Blocks, depth: int, n: int, width: int) -> Any:
    """What every state, branch input and branch output of `depth` sub-layers stays below, in mpmath."""
    mp = context()
    d = question.dialect
    read, write, g = n * (1 + mp.mpf(d.pre_eps)), mp.mpf(d.post_scale), number(question.branch_bound)
    a = _number(envelope(question, depth - 1, n, width)) if depth > 1 else mp.one
    if question.norm == "post":
        a = max(mp.one, mp.sqrt(width))
    u = read * a
    y = g * shape(question, mp.sqrt(width) if question.norm == "pre" else u, mp)
    return max(u, y, a + write * y)


@functools.cache
def gates(dialect: Dialect, n: int, logit: int) -> tuple[Any, Any]:
    """What n streams are read with in all, and what each is written with, for gate logits that are all alike."""
    exact, shapes = Exact(dialect, DIGITS), params_shapes(n, 1, dialect)
    rows, columns = shapes.phi
    bias = [logit] * 2 * n + [0] * (shapes.bias[0] - 2 * n)
    static = SimpleNamespace(
        phi=[[0] * columns for _ in range(rows)], bias=bias, alpha=[1] * shapes.alpha[0], norm_weight=None
    )
    pre, post, _ = exact.mappings([[1]] * n, static)
    return sum(pre), post[0]


def opening(dialect: Dialect) -> bool:
    """Whether gates are numbers between 0 and 1, each by itself, so that the envelopes hold."""
    return all(gate_of(name).unit_range and not gate_of(name).alone for name in (dialect.pre, dialect.post))


def excludes(question: Blocks, limit: Any) -> bool:
    """Whether the threshold is out of reach. A post-norm without eps attains its bound; otherwise that takes gates that
    are quite open, as a sigmoid never is."""
    d = question.dialect
    if question.norm == "post":
        attained = not d.rms_eps
    else:
        read, write = gates(d, 1, OPEN)
        attained = read >= 1 + context().mpf(d.pre_eps) and write >= d.post_scale
    goal = question.threshold if isinstance(limit, Fraction) else number(question.threshold)
    return bool(goal > limit if attained else goal >= limit)


def why(question: Blocks) -> str:
    d, g = question.dialect, decimal(question.branch_bound)
    gates = f"gates read less than {1 + d.pre_eps:g} of each stream and write less than {d.post_scale:g}"
    if question.gain == "gradient":
        slope = g
        if question.norm == "pre":
            steep = context().nstr(steepest(d, question.max_width), 6)
            slope = f"{g} * {steep}, for the normalisation of {question.max_width} channels has one of {steep} near 0"
        return f"The residual path adds nothing, {gates}, and the branch has a slope of at most {slope}"
    if question.norm == "post":
        return "A normalised stream of C channels has activations of at most sqrt(C)"
    reads = "an input of at most sqrt(C)" if question.norm == "pre" else "an input of at most n times the activations"
    grows = "at most {g} v silu(v)" if question.branch == "gated" else "at most {g} v"
    return f"The residual path adds nothing, {gates}, and the branch answers v, {reads}, with {grows.format(g=g)}"


def shape(question: Blocks, v: Any, mp: Any) -> Any:
    return v * v * sigmoid(v, mp) if question.branch == "gated" else v


def sigmoid(z: Any, mp: Any) -> Any:
    return 1 / (1 + mp.exp(-mp.mpf(z)))


def _number(limit: Any) -> Any:
    return number(limit) if isinstance(limit, Fraction) else limit


def short(limit: Any) -> str:
    return context().nstr(_number(limit), 10)
