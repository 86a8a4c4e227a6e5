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
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

import mhc_ref
from mhc_ref import Dialect, Params
from mhc_ref.exact import Exact
from mhc_ref.projection import residual_size
from properties.explosion.composite import DIGITS, Matrix, context, decimal
from properties.explosion.mixing import fraction
from properties.explosion.proofs.closed_form import Answer
from properties.explosion.request import Request
from properties.explosion.searches.entries import simpler
from properties.explosion.searches.hypothesise import Clock, smallest

OPEN = 60
"""A gate logit whose sigmoid is 1 in float64, and in 50 digits falls short of it by 1e-26."""


@dataclass(frozen=True)
class Block:
    """A stack of equal blocks: gate logits of every stream, and the one weight of the branch that is not trivial."""

    pre: int
    post: int
    weight: Fraction
    depth: int
    streams: int
    width: int

    @property
    def entries(self) -> int:
        """Numbers that are not 0: in each sub-layer the weight and the gates of every stream."""
        return self.depth * (1 + self.streams * (bool(self.pre) + bool(self.post)))


def solve(request: Request, clock: Clock, keep: Callable[[Answer, Block], None]) -> Answer:
    """What is known in the end, given to `keep` together with a block that reaches the threshold, ever simpler ones."""
    clock.stage = "depth"
    if request.gain == "nonfinite":
        return _overflowing(request, clock, keep)
    least = least_depth(request)
    if least is None:
        return _impossible(request)
    proved, excluded, smaller = True, "", ""
    if least > 1:
        limit = envelope(request, least - 1, request.max_streams, request.max_width)
        excluded = f"{least - 1} sub-layer{'s' * (least > 2)} of any allowed size stay below {_short(limit)}"
    sizes = itertools.product(
        range(least, request.max_depth + 1), range(1, request.max_streams + 1), range(1, request.max_width + 1)
    )
    for depth, n, width in sizes:
        clock.tick()
        limit = envelope(request, depth, n, width)
        if _excludes(request, limit):
            smaller = f"{depth} of {n} stream{'s' * (n > 1)} with C = {width} below {_short(limit)}"
            continue
        block = Block(OPEN, OPEN, request.branch_bound, depth, n, width)
        if value(request, block) >= number(request.threshold):
            reasons = "; ".join(reason for reason in (_why(request), excluded, smaller) if reason)
            known = Answer(depth, n, proved, f"{reasons}.")
            keep(known, block)
            clock.stage = "gates"
            keep(known, _simplified(request, block, clock))
            return known
        proved = False
    return Answer(None, None, False, f"{_why(request)}; not found, which is no proof.")


def least_depth(request: Request) -> int | None:
    """The first depth at which the envelope of the largest block lets the threshold through."""

    def possible(depth: int) -> bool:
        return not _excludes(request, envelope(request, depth, request.max_streams, request.max_width))

    low, high = 0, 1
    while not possible(high):  # doubled, for exact powers of a large depth are long
        if high == request.max_depth:
            return None
        low, high = high, min(2 * high, request.max_depth)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if possible(middle) else (middle, high)
    return high


def _impossible(request: Request) -> Answer:
    largest = _short(envelope(request, request.max_depth, request.max_streams, request.max_width))
    goal = decimal(request.threshold)
    if request.norm == "post" and request.gain == "activation":
        proof = f"{_why(request)}: {largest} at C = {request.max_width}, at every depth, and {goal} is not below that"
        return Answer(None, None, True, f"{proof}.")
    return Answer(None, None, True, f"{_why(request)}: {request.max_depth} sub-layers stay below {largest} <= {goal}.")


def envelope(request: Request, depth: int, n: int, width: int) -> Any:
    """What the gain of `depth` sub-layers stays below; see the module for the proof.

    A Fraction where that is rational, for a threshold may be just that number; otherwise in mpmath.
    """
    mp = context()
    d = request.dialect
    rational = _rational_envelope(request, depth, n, width)
    if rational is not None:
        return rational
    read, write, g = n * (1 + mp.mpf(d.pre_eps)), mp.mpf(d.post_scale), number(request.branch_bound)
    if request.gain == "gradient":
        slope = read if request.norm == "none" else read * steepest(d, width)
        return (1 + write * g * slope) ** depth
    if request.norm == "post":
        return mp.sqrt(width)
    a = mp.one
    for _ in range(depth):  # gated, or a width that is no square
        v = read * a if request.norm == "none" else mp.sqrt(width)
        a += write * g * _shape(request, v, mp)
        if mp.isinf(a) or a > mp.mpf(10) ** 400:  # beyond every threshold that is asked for
            break
    return a


def _rational_envelope(request: Request, depth: int, n: int, width: int) -> Fraction | None:
    d, root = request.dialect, math.isqrt(width)
    square = root * root == width
    step = Fraction(d.post_scale) * request.branch_bound
    if request.norm == "post":
        return Fraction(root) if square else None
    if request.norm == "none" and request.branch != "gated":
        return (1 + step * n * (1 + Fraction(d.pre_eps))) ** depth
    if request.norm == "pre" and request.branch != "gated" and request.gain != "gradient" and square:
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


def peak(request: Request, depth: int, n: int, width: int) -> Any:
    """What every state, branch input and branch output of `depth` sub-layers stays below, in mpmath."""
    mp = context()
    d = request.dialect
    read, write, g = n * (1 + mp.mpf(d.pre_eps)), mp.mpf(d.post_scale), number(request.branch_bound)
    a = _number(envelope(request, depth - 1, n, width)) if depth > 1 else mp.one
    if request.norm == "post":
        a = max(mp.one, mp.sqrt(width))
    u = read * a
    y = g * _shape(request, mp.sqrt(width) if request.norm == "pre" else u, mp)
    return max(u, y, a + write * y)


def value(request: Request, block: Block) -> Any:
    """The gain of a stack of equal blocks on its worst input, by the recurrence that it comes down to; 50 digits.

    All streams are alike and only channel 0 is in use, so one number a sub-layer says it all.
    """
    mp = context()
    d = request.dialect
    read = block.streams * (_sigmoid(block.pre, mp) + mp.mpf(d.pre_eps))
    write = mp.mpf(d.post_scale) * _sigmoid(block.post, mp) * number(block.weight)
    kept = number(sum(residual_operators(request, block)[0][0], Fraction(0)))
    if request.gain == "gradient":
        slope = read if request.norm == "none" else read / (mp.sqrt(d.rms_eps) if d.rms_eps_inside else d.rms_eps)
        return (kept + write * slope) ** block.depth
    a = mp.one
    for _ in range(block.depth):
        u = read * a
        a = kept * a + write * _shape(request, _normalised(u, block.width, d, mp) if request.norm == "pre" else u, mp)
        if request.norm == "post":
            a = _normalised(a, block.width, d, mp)
        if a > mp.mpf(10) ** 400:
            break
    return a


def activations(request: Request, block: Block, dtype: str) -> Iterator[Tensor]:
    """The states [n, C] after each sub-layer, from the reference, on the worst input, in a dtype."""
    storage: torch.dtype = getattr(torch, dtype)
    n, width, d = block.streams, block.width, request.dialect
    x = torch.zeros(n, width, dtype=storage)
    x[:, 0] = 1
    parameters = params(block, d, storage)

    def branch(u: Tensor) -> Tensor:
        return branch_output(request, block, u.double()).to(u.dtype)

    for _ in range(block.depth):
        x = mhc_ref.block(x, parameters, branch, d)
        if request.norm == "post":
            x = _rms(x.double(), d).to(storage)
        yield x


def branch_output(request: Request, block: Block, u: Tensor) -> Tensor:
    """F(u) [..., C] with the weights that use channel 0 only; of attention with the one token that is enough."""
    if request.norm == "pre":
        u = _rms(u, request.dialect)
    used = torch.zeros_like(u)
    used[..., 0] = 1
    if request.branch == "relu":
        u = u.relu()
    elif request.branch == "gated":
        u = torch.nn.functional.silu(u) * u
    return float(block.weight) * u * used


def params(block: Block, dialect: Dialect, dtype: torch.dtype = torch.float64) -> Params:
    """The static parameters of every sub-layer: phi = 0, gates and zero residual logits as the bias."""
    n, width, size = block.streams, block.width, residual_size(block.streams, dialect)
    shape = (width, 2 + n) if dialect.shared_projection else (n * width, 2 * n + size)
    of = torch.float64 if dtype == torch.float64 else torch.float32
    bias = torch.tensor([block.pre] * n + [block.post] * n + [0] * size, dtype=of)
    return Params(torch.zeros(shape, dtype=of), bias, torch.ones(3, dtype=of))


def residual_operators(request: Request, block: Block) -> tuple[Matrix, ...]:
    """The residual mappings, alike in every sub-layer: those of zero logits, exact."""
    return (_at_zero(block.streams, request.dialect),) * block.depth


@functools.cache
def _at_zero(n: int, dialect: Dialect) -> Matrix:
    logits = [0] * residual_size(n, dialect) if dialect.residual == "permutations" else [[0] * n for _ in range(n)]
    emitted = Exact(dialect, DIGITS).project(logits)
    rows = zip(*emitted, strict=True) if dialect.transposed else emitted
    return tuple(tuple(fraction(entry) for entry in row) for row in rows)


def measured(request: Request, block: Block) -> float:
    """The gain as the reference computes it in the dtype that was asked for; of a gradient in float64."""
    if request.gain == "gradient":
        return float(value(request, block))
    largest = torch.tensor(0.0)
    for x in activations(request, block, request.dtype):
        largest = x.double().abs().max()
        if not largest.isfinite():
            return math.inf
    return largest.item()


def _overflowing(request: Request, clock: Clock, keep: Callable[[Answer, Block], None]) -> Answer:
    """The first sub-layer after which something is not finite, with open gates, the largest weight and input."""
    info = torch.finfo(getattr(torch, request.dtype))
    n, width = request.max_streams, request.max_width
    limit = peak(request, request.max_depth, n, width)
    roundings = (n + width + 10) * request.max_depth
    if limit * (1 + number(Fraction(info.eps))) ** roundings < info.max:
        proof = (
            f"{_why(request)}: states, branch inputs and outputs of {request.max_depth} sub-layers are at most "
            f"{_short(limit)}, and with {roundings} roundings "
        )
        return Answer(None, None, True, f"{proof}below the largest {request.dtype}, {info.max:.4g}.")
    depth = _first_overflow(request, Block(OPEN, OPEN, request.branch_bound, request.max_depth, n, width), clock)
    if depth is None:
        return Answer(
            None, None, False, f"Nothing overflows within {request.max_depth} sub-layers of the strongest block."
        )
    for fewer, narrower in itertools.product(range(1, n + 1), range(1, width + 1)):
        block = Block(OPEN, OPEN, request.branch_bound, depth, fewer, narrower)
        if _first_overflow(request, block, clock) is not None:
            known = Answer(depth, fewer, False, f"{_why(request)}, and that was run in {request.dtype}.")
            keep(known, block)
            return known
    raise AssertionError(f"{request} overflowed once and then not again")


def _first_overflow(request: Request, block: Block, clock: Clock) -> int | None:
    for depth, x in enumerate(activations(request, block, request.dtype), start=1):
        clock.tick()
        if not x.isfinite().all():
            return depth
    return None


def _simplified(request: Request, block: Block, clock: Clock) -> Block:
    """The simplest gate logits and weight that still reach the threshold: Hypothesis shrinks three numbers."""
    weights = [*simpler(request.branch_bound), request.branch_bound]
    goal = number(request.threshold)

    def built(numbers: tuple[int, int, Fraction]) -> Block:
        return Block(*numbers, block.depth, block.streams, block.width)

    gate = st.integers(0, OPEN)
    found = smallest(
        st.tuples(gate, gate, st.sampled_from(weights)),
        lambda numbers: bool(value(request, built(numbers)) >= goal),
        seed=request.seed,
        clock=clock,
        examples=100,
    )
    return block if found is None else built(found)


def _excludes(request: Request, limit: Any) -> bool:
    """Whether the threshold is out of reach. Gates are never quite open; a post-norm without eps attains its bound."""
    attained = request.norm == "post" and not request.dialect.rms_eps
    goal = request.threshold if isinstance(limit, Fraction) else number(request.threshold)
    return bool(goal > limit if attained else goal >= limit)


def _why(request: Request) -> str:
    d, g = request.dialect, decimal(request.branch_bound)
    gates = f"gates read less than {1 + d.pre_eps:g} of each stream and write less than {d.post_scale:g}"
    if request.gain == "gradient":
        slope = g
        if request.norm == "pre":
            steep = context().nstr(steepest(d, request.max_width), 6)
            slope = f"{g} * {steep}, for the normalisation of {request.max_width} channels has one of {steep} near 0"
        return f"The residual path adds nothing, {gates}, and the branch has a slope of at most {slope}"
    if request.norm == "post":
        return "A normalised stream of C channels has activations of at most sqrt(C)"
    reads = "an input of at most sqrt(C)" if request.norm == "pre" else "an input of at most n times the activations"
    grows = "at most {g} v silu(v)" if request.branch == "gated" else "at most {g} v"
    return f"The residual path adds nothing, {gates}, and the branch answers v, {reads}, with {grows.format(g=g)}"


def _shape(request: Request, v: Any, mp: Any) -> Any:
    return v * v * _sigmoid(v, mp) if request.branch == "gated" else v


def _sigmoid(z: Any, mp: Any) -> Any:
    return 1 / (1 + mp.exp(-mp.mpf(z)))


def _normalised(u: Any, width: int, dialect: Dialect, mp: Any) -> Any:
    mean = u * u / width
    rms = mp.sqrt(mean + dialect.rms_eps) if dialect.rms_eps_inside else mp.sqrt(mean) + dialect.rms_eps
    return u / rms if rms else u


def _rms(u: Tensor, dialect: Dialect) -> Tensor:
    mean = u.square().mean(-1, keepdim=True)
    rms = (mean + dialect.rms_eps).sqrt() if dialect.rms_eps_inside else mean.sqrt() + dialect.rms_eps
    return torch.where(rms == 0, u, u / torch.where(rms == 0, 1.0, rms))


def number(exact: Fraction) -> Any:
    """The fraction in mpmath."""
    return context().mpf(exact.numerator) / exact.denominator


def _number(limit: Any) -> Any:
    return number(limit) if isinstance(limit, Fraction) else limit


def _short(limit: Any) -> str:
    return context().nstr(_number(limit), 10)
