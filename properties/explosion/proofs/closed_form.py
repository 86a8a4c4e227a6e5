"""Where the smallest explosion is known in closed form, and why it is the smallest.

Both families are I0 + E with |E_ij| <= bound, where I0 is 0 (an entry bound) or the identity (an identity bound, and
the residual chain with one stream). Every gain here is at most the rate r(n) of one sub-layer, and r is multiplied:

    entry bound b:     r(n) = n b
    identity bound d:  r(n) = 1 + n d
    residual chain:    r    = 1 + g

The row sums and the column sums of |A| and the Frobenius norm of A, which bounds the spectral norm, are at most n b;
the norm of I + E is at most 1 + the norm of E. Absolute row sums, absolute column sums and the spectral norm are
submultiplicative, and a signed row sum is at most the absolute one. The matrix whose entries are all at their bound
attains r(n) in every gain, and its powers attain r(n)^L: so the smallest depth is the smallest L with
r(n)^L >= threshold at the largest n allowed, and the fewest streams are the smallest n that do it at that L.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING

from properties.explosion.answer import Answer
from properties.explosion.composite import Matrix, decimal, powered

if TYPE_CHECKING:
    from properties.explosion.questions.linear import BoundedQuestion


def strongest(question: BoundedQuestion, n: int) -> Matrix:
    """The single matrix whose powers grow (or fade) fastest in the closed form."""
    if question.direction == "explode":
        entry = question.bound
    elif question.origin == 0:
        entry = Fraction(0)
    else:
        entry = -min(question.bound, Fraction(1, n))
    return tuple(tuple(question.origin * (i == j) + entry for j in range(n)) for i in range(n))


def rate(question: BoundedQuestion, n: int) -> Fraction:
    """r(n): what one sub-layer of n streams multiplies the gain by at most (explode) or at least (vanish)."""
    if question.direction == "vanish":
        return max(Fraction(0), 1 - n * question.bound) if question.origin else Fraction(0)
    return question.origin + n * question.bound


def answer(question: BoundedQuestion) -> Answer:
    """The closed-form minimum of the question, or the proof that there is none."""
    return _explode(question) if question.direction == "explode" else _vanish(question)


def _explode(question: BoundedQuestion) -> Answer:
    most, threshold = question.max_streams, question.threshold
    r = rate(question, most)
    why = question.growth()
    if r <= 1 and threshold > r:
        return Answer(
            None,
            None,
            True,
            f"{why}. At {_streams(most)} that is {decimal(r)}, at most 1, so no depth passes {decimal(r)} < "
            f"{decimal(threshold)}.",
        )
    depth = smallest_exponent(r, threshold, question.max_depth)
    if depth is None:
        return Answer(
            None,
            None,
            True,
            f"{why}. At {_streams(most)} that is {decimal(r)}, so {question.max_depth} sub-layers reach at most "
            f"{powered(r, question.max_depth)} < {decimal(threshold)}{_needed(r, threshold)}.",
        )
    streams = next(n for n in range(1, most + 1) if rate(question, n) ** depth >= threshold)
    sentences = [f"{why}: {decimal(r)} at {_streams(most)}"]
    if depth > 1:
        sentences.append(f"{_sublayers(depth - 1)} reach at most {powered(r, depth - 1)} < {decimal(threshold)}")
    if streams > 1:
        fewer = rate(question, streams - 1) ** depth
        sentences.append(
            f"{_sublayers(depth)} of {_streams(streams - 1)} reach at most {decimal(fewer, 12)} < {decimal(threshold)}"
        )
    return Answer(depth, streams, True, "; ".join(sentences) + ".")


def _vanish(question: BoundedQuestion) -> Answer:
    """Fading. An entry bound contains the zero matrix. With an identity bound |A x|_inf >= (1 - n d) |x|_inf.

    That inequality bounds every gain from below by (1 - n d)^L (also in the 2-norm, for which the norm of E is at most
    n d as well); the signed gain attains it on the constant vector, one stream attains it in every gain.
    """
    threshold, most = question.threshold, question.max_streams
    if question.origin == 0:
        return Answer(1, 1, True, "The zero matrix is within every entry bound, and its gain is 0.")
    d = question.bound
    lowest = rate(question, most)
    why = f"A sub-layer of n streams multiplies the largest activation by at least 1 - {decimal(d)} n"
    depth = smallest_exponent_below(lowest, threshold, question.max_depth)
    if depth is None:
        return Answer(
            None,
            None,
            True,
            f"{why}, so {question.max_depth} sub-layers of {_streams(most)} leave at least "
            f"{powered(lowest, question.max_depth)} > {decimal(threshold)}.",
        )
    if question.gain == "signed" or most == 1:
        streams = next(n for n in range(1, most + 1) if rate(question, n) ** depth <= threshold)
        left = f"; {_sublayers(depth - 1)} leave at least {powered(lowest, depth - 1)}" if depth > 1 else ""
        return Answer(depth, streams, True, f"{why}: {decimal(lowest)} at {_streams(most)}{left}.")
    alone = smallest_exponent_below(rate(question, 1), threshold, question.max_depth)
    proof = f"{why}, so fewer than {_sublayers(depth)} cannot reach {decimal(threshold)}"
    if alone == depth:
        return Answer(depth, 1, True, f"{proof}; one stream does it in {depth}.")
    return Answer(alone, None if alone is None else 1, False, f"{proof}; whether {depth} can is not proved.")


def smallest_exponent(r: Fraction, threshold: Fraction, limit: int) -> int | None:
    """The smallest L in 1..limit with r^L >= threshold."""
    if r >= threshold:
        return 1
    if r <= 1:
        return None
    # Not beyond what floating point can miss: r^limit is an exact power, which is long for a large limit.
    needed = estimated(r, threshold)
    if needed > 1.001 * limit + 2:
        return None
    limit = min(limit, 2 + math.ceil(1.001 * needed))
    if r**limit < threshold:
        return None
    low, high = 1, limit  # r^low < threshold <= r^high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if r**middle >= threshold else (middle, high)
    return high


def estimated(r: Fraction, threshold: Fraction) -> float:
    """About the L with r^L = threshold, for both above 1 and perhaps by no more than 1e-300."""
    return math.log1p(float(threshold - 1)) / math.log1p(float(r - 1))


def smallest_exponent_below(r: Fraction, threshold: Fraction, limit: int) -> int | None:
    """The smallest L in 1..limit with r^L <= threshold, for 0 <= r < 1."""
    if r <= threshold:
        return 1
    return smallest_exponent(1 / r, 1 / threshold, limit) if r and threshold else None


def _needed(r: Fraction, threshold: Fraction) -> str:
    if r <= 1:
        return ""
    estimate = math.ceil(estimated(r, threshold))
    exactly = smallest_exponent(r, threshold, estimate + 2) if estimate < 100_000 else None
    return f" ({exactly} would be needed)" if exactly else f" (about {estimate:.3g} would be needed)"


def _streams(n: int) -> str:
    return f"{n} stream{'s' * (n > 1)}"


def _sublayers(depth: int) -> str:
    return f"{depth} sub-layer{'s' * (depth > 1)}"
