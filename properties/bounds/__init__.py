"""Derived error bounds: the largest error that rounding can explain, stage by stage, for this very example.

Conventions. u is the unit roundoff, gamma_k = k u / (1 - k u) (Higham, Accuracy and Stability, lemma 3.1), tiny the
smallest normal number. `Approx(value, error)` says: every admitted evaluation lies within `error` of `value`, entry by
entry. All magnitudes are taken in float64. Admitted are: any order of summation, fused multiply-adds, division or
multiplication by a reciprocal, the norm applied before or after the matmul, the bias as a term of the matmul's sum, any
formula of sigmoid and tanh that is accurate absolutely, exp and log accurate to a few units, the linear domain, the log
domain in place or with potentials, scaling vectors, and flushing of subnormal numbers. Matrix products read their
operands in the compute dtype, unless the implementation declares otherwise (`Rounding.dot`); Sinkhorn's sums are no
matrix products.

A tolerance for a float32 implementation judged by the float64 reference is bound(u32) + bound(u64). Every bound here is
a polynomial in u with non-negative coefficients and without a constant term, hence superadditive, so one evaluation at
u32 + u64 covers both.
"""

from properties.bounds import block, pullback, stack
from properties.bounds.arithmetic import (
    affine,
    contracted,
    holding,
    plus,
    softmax,
    softmax_gradient,
    stored,
    times,
    weighted_sum,
)
from properties.bounds.block import Coefficients
from properties.bounds.gradients import Pullback, coefficients_gradient
from properties.bounds.projection import held, projection, projection_gradient, pullback_norm
from properties.bounds.stages import (
    gated,
    gated_logits,
    gates,
    normalised,
    projected,
    squash_gradient,
    squashed,
)
from properties.core.rounding import INF, PRODUCTS, Approx, Projection, Rounding

__all__ = [
    "INF",
    "PRODUCTS",
    "Approx",
    "Coefficients",
    "Projection",
    "Pullback",
    "Rounding",
    "affine",
    "block",
    "coefficients_gradient",
    "contracted",
    "gated",
    "gated_logits",
    "gates",
    "held",
    "holding",
    "normalised",
    "plus",
    "projected",
    "projection",
    "projection_gradient",
    "pullback",
    "pullback_norm",
    "softmax",
    "softmax_gradient",
    "squash_gradient",
    "squashed",
    "stack",
    "stored",
    "times",
    "weighted_sum",
]
