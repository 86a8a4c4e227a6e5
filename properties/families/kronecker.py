"""Kronecker: what a Kronecker product of small mixtures of permutations guarantees, and the rest that is known of it.

**The bound.** An entry of M is a product of one entry of each factor. An entry of a factor of size k adds up (k-1)! of
its k! coefficients, a softmax. For k = 2 there are two, p and q, and either may be computed as 1 less the other, as
KromHC does:

    |fl(1 - p~) - q| <= |p~ - p| + u |1 - p~| <= e_p + u (q + e_p),

so that an entry of 1e-9 beside one of 1 errs by some u, not by some u times itself. The product of K entries is rounded
K - 1 times; by its logarithms, added up and taken the exponential of, each partial sum is rounded to u times its size,
at most |log M|, before and after: 2 (K - 1) u |log M| relative to M, little where M is large.

**The gradient.** Of a factor it is the cotangent times all others, summed (n^2 products, in any order), over each
permutation, and pulled back by the softmax. For k = 2, where q = 1 - p, that is p q (c_p - c_q), by the first logit and
its opposite by the second: whoever computes 1 - p has that p and that q there, and a slope of the sigmoid p (1 - p).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from mhc_ref import Dialect
from mhc_ref.families import kronecker as formulas
from mhc_ref.packing import streams_of_logits
from properties.bounds.arithmetic import contracted, plus, softmax, softmax_gradient, times
from properties.core.family import BOTH, Guarantees, Mix
from properties.core.rounding import Approx, Projection, Rounding, known

GAPS = (0.0, 1.0, 8.0, 17.0, 21.0, 60.0, 104.0, 1000.0)
"""How far the largest logit of a factor lies above the next: between 17 and 21 the other coefficient is lost beside 1
in float32, at 104 it is no number above 0."""


class Kronecker(Mix):
    """arXiv 2601.21579."""

    name = "kronecker"
    words = "a Kronecker product of mixtures of permutations"
    source = "KromHC, arXiv 2601.21579"
    BY_STREAM = formulas.BY_STREAM
    MOST_STREAMS = formulas.MOST_STREAMS
    FIELDS = formulas.FIELDS
    CAPTURABLE = False

    def shape(self, n: int, dialect: Dialect) -> tuple[int, ...]:
        return formulas.shape(n, dialect)

    def beginning(self, n: int, dialect: Dialect, far: float = 0.0) -> Tensor:
        """The first permutation of every factor is the identity."""
        parts = [torch.full((math.factorial(k),), -far, dtype=torch.float64) for k in formulas.factors(n, dialect)]
        for part in parts:
            part[0] = 0.0
        return torch.cat(parts).view(self.shape(n, dialect))

    def guarantees(self, dialect: Dialect) -> Guarantees:
        """Products of doubly stochastic matrices: sums factor, sum_jl U_ij V_kl = (sum_j U_ij) (sum_l V_kl) = 1. A
        softmax does not see a constant; for n = 1 there is only 1."""
        return Guarantees(nonnegative=True, sums=BOTH, shift="row", alone=True)

    def bound(self, logits: Approx, dialect: Dialect, r: Rounding) -> Projection:
        parts = [_factor(part, k, r) for part, k in _parts(logits, dialect)]
        m = _product(parts, r)
        error = known(m.error + _by_logarithms(m.value, len(parts), r))
        return Projection(m.value, error, torch.zeros_like(m.value), error.sum(-1))

    def pullback(self, logits: Approx, cotangent: Approx, dialect: Dialect, r: Rounding) -> Approx:
        parts = list(_parts(logits, dialect))
        made = [_factor(part, k, r) for part, k in parts]
        whole = _product(made, r).value
        lost = (cotangent.value.abs() * _by_logarithms(whole, len(parts), r)).sum((-2, -1)).unsqueeze(-1)
        values, errors = list[Tensor](), list[Tensor]()
        for at, (part, k) in enumerate(parts):
            left, right = _product(made[:at], r, part), _product(made[at + 1 :], r, part)
            back = _pulled(part, k, made[at], _seen(cotangent, left, right, k, len(parts), r), r)
            values.append(back.value)
            errors.append(back.error + lost)
        return Approx(torch.cat(values, -1).view_as(logits.value), torch.cat(errors, -1).view_as(logits.value))

    def telling(self, n: int, dialect: Dialect) -> SearchStrategy[Any]:
        """One permutation of each factor far above the others, at any height: where p is 1 and 1 - p is not 0."""
        shape = self.shape(n, dialect)
        counts = [math.factorial(k) for k in formulas.factors(n, dialect)]

        def made(drawn: list[tuple[float, int, float]]) -> Any:
            lines = [np.full(count, height) for count, (_, _, height) in zip(counts, drawn, strict=True)]
            for line, (gap, which, _) in zip(lines, drawn, strict=True):
                line[which % len(line)] += gap
            return np.concatenate(lines).reshape(shape)

        one = st.tuples(st.sampled_from(GAPS), st.integers(0, 1), st.sampled_from((0.0, -1.5, 40.0)))
        return st.lists(one, min_size=len(counts), max_size=len(counts)).map(made)


def _parts(logits: Approx, dialect: Dialect) -> list[tuple[Approx, int]]:
    """The logits of each factor [tokens, k!], and its size k."""
    sizes = formulas.factors(streams_of_logits(logits.value.shape, dialect), dialect)
    lines = (formulas.by_factor(one.flatten(1), sizes) for one in (logits.value, logits.error))
    return [(Approx(value, error), k) for value, error, k in zip(*lines, sizes, strict=True)]


def _factor(logits: Approx, k: int, r: Rounding) -> Approx:
    """U [tokens, k, k] of the coefficients of its permutations; for k = 2 either of them may be 1 less the other."""
    coefficients = softmax(logits, r)
    matrices = formulas.permutation_matrices(k).to(logits.value.device)
    value = torch.einsum("...p,pij->...ij", coefficients.value, matrices)
    error = torch.einsum("...p,pij->...ij", coefficients.error, matrices)
    if k > 2:
        return Approx(value, known(error + r.dot(len(matrices)) * value))
    error = error + r.dot(2) * value
    return Approx(
        value, known(torch.maximum(error, error.flip(-1) * (1 + r.unit) + r.unit * value)) if k == 2 else error
    )


def _product(parts: list[Approx], r: Rounding, like: Approx | None = None) -> Approx:
    """The Kronecker product of some factors; 1 of none, for as many tokens as `like` has."""
    found = parts[0] if parts else Approx.exact(torch.ones(len(like.value) if like else 1, 1, 1))
    for part in parts[1:]:
        a, b = found.value.shape[-1], part.value.shape[-1]
        left = [one.repeat_interleave(b, -1).repeat_interleave(b, -2) for one in (found.value, found.error)]
        right = [one.repeat(1, a, a) for one in (part.value, part.error)]
        found = times(Approx(*left), Approx(*right), r)
    return found


def _by_logarithms(m: Tensor, factors: int, r: Rounding) -> Tensor:
    """What rounding may do to products that are sums of logarithms."""
    size = m.clamp_min(torch.finfo(torch.float64).tiny).log().abs()
    return m * (2 * (factors - 1) * r.unit * size).expm1()


def _seen(cotangent: Approx, left: Approx, right: Approx, k: int, factors: int, r: Rounding) -> Approx:
    """The cotangent of a factor of size k [tokens, k, k]: that of M times what stands left and right of it."""
    a, b = left.value.shape[-1], right.value.shape[-1]
    bar = (one.reshape(-1, a, k, b, a, k, b) for one in (cotangent.value, cotangent.error))
    others = _product([left, right], r)
    beside = (one.reshape(-1, a, b, a, b) for one in (others.value, others.error))
    return contracted("...apbcqd,...abcd->...pq", Approx(*bar), Approx(*beside), (a * b) ** 2 + 2 * factors, r)


def _pulled(logits: Approx, k: int, factor: Approx, bar: Approx, r: Rounding) -> Approx:
    """d <bar, U> / d the logits of a factor."""
    matrices = formulas.permutation_matrices(k)
    chosen = contracted("...ij,pij->...p", bar, Approx.exact(matrices), k * k, r)
    back = softmax_gradient(logits, chosen, r)
    if k != 2:
        return back
    first, second = (Approx(chosen.value[..., i : i + 1], chosen.error[..., i : i + 1]) for i in (0, 1))
    apart = plus(first, Approx(-second.value, second.error), r=r)
    p, q = (Approx(factor.value[..., 0, i : i + 1], factor.error[..., 0, i : i + 1]) for i in (0, 1))
    slope = times(times(p, q, r), apart, r)
    nothing = torch.zeros_like(apart.value)
    values, errors = (torch.cat([one, nothing], -1) for one in (apart.value, apart.error))  # by p with 1 - p, or by q
    alone = [softmax_gradient(logits, Approx(values.roll(i, -1), errors.roll(i, -1)), r) for i in (0, 1)]
    most = torch.cat([slope.error, back.error, *(one.error for one in alone)], -1).amax(-1, keepdim=True)
    return Approx(back.value, most.expand_as(back.value))


MIX = Kronecker()
