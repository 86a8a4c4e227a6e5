"""Cayley: what the Cayley transform of skew logits guarantees, how far rounding carries it, where its mistakes show.

**The inverse.** B = I - S has no singular value below 1. Solving by elimination gives the exact solution of a system
B + D, |D| <= gamma_{3n} G, G = |L||U| entry by entry (Higham, Accuracy and Stability of Numerical Algorithms, theorem
9.4). G is the largest of four: without pivots and with partial ones, of B and of its transpose; no other order of
pivots is taken to grow more. S itself has an error E, so that with H = gamma G + E the computed inverse is off by

    |e| <= |B^-1| H (|B^-1| + |e|),   e <= (I - K)^-1 K |B^-1|,   K = |B^-1| H;

where a line of K sums to 1/2 or more nothing is claimed.

**The value.** M is 2 B^-1 - I, or B^-1 times I + S, or solved for from the left or the right, where the error is that
of the inverse with |M| in place of one |B^-1|, and of I + S. All are admitted; the product, which multiplies the error
of an inverse by |I + S|, if its elimination has pivots.

**The gradient.** dM = B^-1 dS (I + M), and I + M = 2 B^-1, so that <C, dM> = <G, dS> with G = 2 B^-T C B^-T. Reverse
mode through a solver gives B^-T C (I + M^T), and through a product (I + M^T) C B^-T, in which I + M^T may cancel. By Z
it is reach (G - G^T). Reverse mode through the steps of an elimination without pivots is not admitted: what it is made
of grows with S^2, and in float32 it keeps no digit beyond |S| of about 1000.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from mhc_ref import Dialect
from mhc_ref.families import cayley as formulas
from properties.bounds.arithmetic import contracted, plus
from properties.core.family import Guarantees, Mix
from properties.core.rounding import INF, Approx, Projection, Rounding, known


class Cayley(Mix):
    """A. Cayley, 1846."""

    name = "cayley"
    words = "the Cayley transform of its logits"
    source = "A. Cayley, 1846; sparse-hyper-connections 0.1.2; JPmHC, arXiv 2602.18308"
    BY_STREAM = formulas.BY_STREAM
    MOST_STREAMS = formulas.MOST_STREAMS
    FIELDS = formulas.FIELDS

    def shape(self, n: int, dialect: Dialect) -> tuple[int, ...]:
        return formulas.shape(n, dialect)

    def guarantees(self, dialect: Dialect) -> Guarantees:
        """(I - S)^T = I + S, and the two commute, so that M M^T = I. P S P^T is skew too; for n = 1 there is only 1."""
        return Guarantees(orthogonal=True, conjugate=True, alone=True)

    def bound(self, logits: Approx, dialect: Dialect, r: Rounding) -> Projection:
        m = _System(logits, dialect, r).m
        return Projection(m.value, m.error, torch.zeros_like(m.value), m.error.sum(-1))

    def pullback(self, logits: Approx, cotangent: Approx, dialect: Dialect, r: Rounding) -> Approx:
        system = _System(logits, dialect, r)
        back, m = _turned(system.inverse), _turned(system.m)
        left, right = _times(back, cotangent, r), _times(cotangent, back, r)
        half = _times(left, back, r)
        ways = [
            Approx(2 * half.value, 2 * half.error),
            plus(left, _times(left, m, r), r=r),
            plus(right, _times(m, right, r), r=r),
        ]
        by_skew = Approx(ways[0].value, torch.stack([one.error for one in ways]).amax(0))
        return _skew(by_skew, dialect, r)

    def telling(self, n: int, dialect: Dialect) -> SearchStrategy[Any]:
        """One turn of two streams, by a little or nearly half round, where I + M cancels; over any symmetric part."""

        def made(angle: float, first: int, second: int, even: float) -> Any:
            z = np.full((n, n), even)
            if first % n != second % n:
                z[first % n, second % n] += angle / dialect.reach
            return z

        angles = st.sampled_from((0.0, 1.0, -1.0, 0.125, 30.0, 1000.0))
        return st.builds(made, angles, st.integers(0, n - 1), st.integers(0, n - 1), st.sampled_from((0.0, 3.0, -40.0)))


class _System:
    """B = I - S of a batch of logits, [tokens, n, n], solved.

    Attributes:
        inverse: B^-1.
        m: (I - S)^-1 (I + S).
    """

    def __init__(self, logits: Approx, dialect: Dialect, r: Rounding) -> None:
        s = _skew(logits, dialect, r)
        n = s.value.shape[-1]
        eye = torch.eye(n, dtype=torch.float64, device=s.value.device).expand_as(s.value)
        b, other = eye - s.value, eye + s.value
        inverse = torch.linalg.inv(b)
        value = torch.linalg.solve(b, other)
        size, met = inverse.abs(), s.error + r.unit * other.abs()  # met: the error of I - S and I + S
        plain, pivoted = _grown(b)
        turned = [one.mT for one in _grown(b.mT)]
        unit = r.gamma(3 * n)
        largest = torch.maximum(torch.maximum(plain, pivoted), torch.maximum(*turned))
        every = _series(size, unit * largest + met)
        calm = _series(size, unit * torch.maximum(pivoted, turned[1]) + met)
        lost = n * r.tiny
        off = every.left @ size + lost
        by_product = _times(Approx(other, met), Approx(inverse, known(calm.left @ size + lost)), r)
        solved = every.left @ value.abs() + every.whole @ size @ met
        from_right = value.abs() @ every.right + met @ size @ every.back
        twice = 2 * off + r.unit * (2 * size + value.abs())
        error = torch.stack([twice, by_product.error, solved + lost, from_right + lost]).amax(0) + r.unit * value.abs()
        beyond = r.beyond(s.value.abs().amax((-1, -2), keepdim=True).square() + 1) | ~every.small
        self.inverse = Approx(inverse, torch.where(beyond, INF, known(off)))
        self.m = Approx(value, torch.where(beyond, INF, known(error)))


class _Series(NamedTuple):
    """What errors H of a system and of its solutions add up to, with A = |B^-1|.

    Attributes:
        whole, left: (I - A H)^-1, and that times A H.
        back, right: (I - H A)^-1, and H A times that.
        small: where the lines of A H and H A sum to less than 1/2, [tokens, 1, 1].
    """

    whole: Tensor
    left: Tensor
    back: Tensor
    right: Tensor
    small: Tensor


def _series(a: Tensor, h: Tensor) -> _Series:
    ah, ha = a @ h, h @ a
    sums = torch.stack([ah.sum(-1).amax(-1), ha.sum(-1).amax(-1)]).amax(0)
    small = (sums < 0.5)[:, None, None]
    ah, ha = (torch.where(small, one, 0.0) for one in (ah, ha))
    eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device).expand_as(a)
    whole, back = torch.linalg.inv(eye - ah), torch.linalg.inv(eye - ha)
    return _Series(whole, whole @ ah, back, ha @ back, small)


def _grown(b: Tensor) -> tuple[Tensor, Tensor]:
    """|L||U| by elimination without pivots, none of which is below 1, and with partial ones."""
    lower, upper = torch.eye(b.shape[-1], dtype=b.dtype, device=b.device).repeat(len(b), 1, 1), b.clone()
    for k in range(b.shape[-1] - 1):
        ratio = upper[:, k + 1 :, k : k + 1] / upper[:, k : k + 1, k : k + 1]
        lower[:, k + 1 :, k : k + 1] = ratio
        upper[:, k + 1 :] = upper[:, k + 1 :] - ratio * upper[:, k : k + 1]
    order, low, up = torch.linalg.lu(b)
    return lower.abs() @ upper.triu().abs(), order @ (low.abs() @ up.abs())


def _skew(z: Approx, dialect: Dialect, r: Rounding) -> Approx:
    """reach (Z - Z^T), or reach Z - reach Z^T, whose products round nothing where reach is a power of two."""
    reach, value = abs(dialect.reach), formulas.skew(z.value, dialect)
    products = 0.0 if math.frexp(reach)[0] == 0.5 else reach * r.unit * (z.value.abs() + z.value.abs().mT)
    error = (reach * (z.error + z.error.mT) + products) * (1 + 4 * r.unit) + 2 * r.unit * value.abs() + r.tiny
    nothing = torch.eye(z.value.shape[-1], dtype=torch.bool, device=z.value.device)
    return Approx(value, torch.where(nothing & torch.isfinite(error), 0.0, error))


def _turned(a: Approx) -> Approx:
    return Approx(a.value.mT, a.error.mT)


def _times(a: Approx, b: Approx, r: Rounding) -> Approx:
    """A product of two matrices, in any order of its sums."""
    return contracted("...ij,...jk->...ik", a, b, a.value.shape[-1], r)


MIX = Cayley()
