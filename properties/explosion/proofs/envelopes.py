"""The whole block with a branch (family block): does an activation or a normalisation contain growth?

Searched: L sub-layers x' = A x + h_post^T F(h_pre x) with static gates of any finite logits, any residual mapping of
the dialect, and inputs within 1. The branch F has weights of norm at most g in the sup-norm (`proofs.branches`), and
there may be a norm:

    none       none
    pre        F(rms-normalised u)
    post       x' is rms-normalised, stream by stream
    output     the output of F is rms-normalised
    sandwich   both its input and its output are

Activation. Let a bound the activations. |A x| <= a, because the rows of A are non-negative and sum to at most 1; a gate
reads less than m = 1 + pre_eps of each of n streams and writes less than s = post_scale + post_eps. Hence
a' < a + s g f(v) with v = n m a, or v = sqrt(C) behind a pre-norm of C channels, f as the branch has it; a' < a +
s sqrt(C) where the output of the branch is normalised; a' <= sqrt(C) behind a post-norm. All streams alike and one
channel in use attain this in the limit of open gates: so these envelopes decide, and they say: a relu, a gelu or an
attention contains nothing, a gated branch grows doubly exponentially, a pre-norm, an output norm, a tanh and a sigmoid
leave growth by a constant a sub-layer, and a post-norm contains.

Gradient: the largest absolute row sum of the Jacobian. A sub-layer multiplies it by at most 1 + s g n m f', f' the
largest slope of the branch within v (`proofs.branches`; of attention with several tokens the inputs of all of them
count). A normalisation of the input or of the output multiplies f' by its own slope, two of them by both, and one
behind the sum the whole of it. Linear, relu and tanh attain f' at 0, where a normalisation of few channels is steepest
too; gelu, sigmoid and gated have their steepest place elsewhere, and one input must meet it in every sub-layer: what is
found for them is a product along the way of inputs that are tried (`searches.steep`). A normalisation has the slope
1/sqrt(eps) at 0: it does not contain gradients, it makes them explode where activations are small. Of
more than 4 channels that is not yet the largest: with w = u / (sqrt(C) rho), s = |w|^2 < 1 and 1/rho = sqrt((1 - s) /
eps) the Jacobian is (I - w w^T) / rho, and its row i has the absolute sum (1 - w_i^2 + |w_i| sum of the other |w_j|) /
rho <= (1 + c s) sqrt((1 - s) / eps) with c = (sqrt(C) - 1) / 2, by Cauchy-Schwarz and the largest eigenvalue of the
quadratic form. Over s that is largest at 0 for c <= 1/2, otherwise at s = (2c - 1) / (3c). With eps outside the root
and s' = sigma / (sigma + eps) in place of s it is (1 - s') (1 + c s') / eps, largest at 0 for c <= 1, otherwise at s' =
(c - 1) / (2c).

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
from properties.explosion.proofs.branches import BRANCHES

if TYPE_CHECKING:
    from properties.explosion.questions.blocks import Blocks

BEFORE, BEHIND = ("pre", "sandwich"), ("output", "sandwich")
"""The norms that normalise what a branch is given, and what it answers."""
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


def several(question: Blocks) -> bool:
    """Whether the logits of attention matter: with one token its softmax is 1."""
    return question.max_tokens > 1


def scores(question: Blocks, v: Any) -> Any:
    """What the logits of several tokens add to the largest slope of attention within v, over g."""
    return 2 * number(question.score_bound) * v * v if several(question) else context().zero


def norms_of(norm: str) -> int:
    """How many normalisations a branch has."""
    return (norm in BEFORE) + (norm in BEHIND)


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
    read, write = n * (1 + mp.mpf(d.pre_eps)), mp.mpf(d.post_scale) + mp.mpf(d.post_eps)
    g = number(question.branch_bound)
    normed, branch = question.norm in BEHIND, BRANCHES[question.branch]
    post = question.norm == "post"
    if post and question.gain != "gradient":
        return mp.sqrt(width)
    if normed and question.gain != "gradient":
        return 1 + depth * write * mp.sqrt(width)
    a = steep = mp.one
    near = steepest(d, width) if question.gain == "gradient" and question.norm != "none" else mp.one
    for _ in range(depth):
        v = mp.sqrt(width) if question.norm in BEFORE else read * a
        if question.gain == "gradient":
            slope = (branch.slope(v, mp) + scores(question, v)) * near ** norms_of(question.norm)
            steep *= (1 + write * g * read * slope) * (near if post else mp.one)
        a = mp.sqrt(width) if post else a + write * (mp.sqrt(width) if normed else g * branch.answers(v, mp))
        if max(a, steep) > mp.mpf(10) ** 400:  # beyond every threshold that is asked for
            break
    return steep if question.gain == "gradient" else a


def _rational_envelope(question: Blocks, depth: int, n: int, width: int) -> Fraction | None:
    d, root = question.dialect, math.isqrt(width)
    square = root * root == width
    step = (Fraction(d.post_scale) + Fraction(d.post_eps)) * question.branch_bound
    rational = BRANCHES[question.branch].rational and not several(question)
    if question.norm == "post" and question.gain == "gradient":
        return None
    if question.norm == "post":
        return Fraction(root) if square else None
    if question.norm == "none" and (rational or (question.gain == "gradient" and question.branch == "tanh")):
        return (1 + step * n * (1 + Fraction(d.pre_eps))) ** depth
    if question.norm == "pre" and rational and question.gain != "gradient" and square:
        return 1 + depth * step * root
    if question.norm in BEHIND and question.gain != "gradient" and square:
        return 1 + depth * step / question.branch_bound * root
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
    read, write = n * (1 + mp.mpf(d.pre_eps)), mp.mpf(d.post_scale) + mp.mpf(d.post_eps)
    g = number(question.branch_bound)
    a = _number(envelope(question, depth - 1, n, width)) if depth > 1 else mp.one
    if question.norm == "post":
        a = max(mp.one, mp.sqrt(width))
    u = read * a
    y = g * BRANCHES[question.branch].answers(mp.sqrt(width) if question.norm in BEFORE else u, mp)
    return max(u, y, a + write * (mp.sqrt(width) if question.norm in BEHIND else y))


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
    if question.norm == "post" and question.gain != "gradient":
        attained = not d.rms_eps
    else:
        read, write = gates(d, 1, OPEN)
        attained = read >= 1 + context().mpf(d.pre_eps) and write >= d.post_scale + context().mpf(d.post_eps)
    goal = question.threshold if isinstance(limit, Fraction) else number(question.threshold)
    return bool(goal > limit if attained else goal >= limit)


def why(question: Blocks) -> str:
    d, g = question.dialect, decimal(question.branch_bound)
    gates = f"gates read less than {1 + d.pre_eps:g} of each stream and write less than {d.post_scale + d.post_eps:g}"
    branch = BRANCHES[question.branch]
    if question.gain == "gradient":
        slope, norms = g, norms_of(question.norm)
        steep = context().nstr(steepest(d, question.max_width), 6) if question.norm != "none" else ""
        if norms:
            factor = steep if norms == 1 else f"{steep}^2"
            slope += f" * {factor}, for the normalisation of {question.max_width} channels has one of {steep} near 0"
        if branch.origin:
            largest = branch.slope(context().zero, context())
            slope += f" * {context().nstr(largest, 6)}" * (largest != 1)
        elif not branch.rational:
            slope += f"{',' * bool(norms)} times the largest of {question.branch} within reach"
        if several(question):
            slope += " times 1 + 2 h v^2 within v, for a logit of u and w is at most h |u| |w|, h = "
            slope += decimal(question.score_bound)
        elif question.branch == "attention":
            slope += ", of one token"
        end = f"; the norm behind the sum multiplies all by at most {steep}" if question.norm == "post" else ""
        return f"The residual path adds nothing, {gates}, and the branch has a slope of at most {slope}{end}"
    if question.norm == "post":
        return "A normalised stream of C channels has activations of at most sqrt(C)"
    if question.norm in BEHIND:
        return f"The residual path adds nothing, {gates}, and what the branch answers is normalised to at most sqrt(C)"
    reads = "an input of at most sqrt(C)" if question.norm == "pre" else "an input of at most n times the activations"
    return (
        f"The residual path adds nothing, {gates}, and the branch answers v, {reads}, with {branch.words.format(g=g)}"
    )


def _number(limit: Any) -> Any:
    return number(limit) if isinstance(limit, Fraction) else limit


def short(limit: Any) -> str:
    return context().nstr(_number(limit), 10)
