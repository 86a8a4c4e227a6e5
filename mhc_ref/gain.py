"""Gains of a residual operator and of composites of many.

Throughout, A [..., n, n] is the operator that is *applied*: x' = A x. Forward gain is about row sums, backward gain
about column sums. The mHC paper's "Amax Gain Magnitude" is the *signed* one: its own figure 8 can only be read so.
Signed sums are no norm: [[101, -100], [-100, 101]] has signed gain 1 at every power and spectral norm 201, so the
absolute sums (inf-norm, 1-norm) and the spectral norm stand beside them. On non-negative matrices both agree.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Gains(NamedTuple):
    """Five gains of an operator, each [...] for operators [..., n, n]; dimensionless."""

    forward_signed: Tensor
    backward_signed: Tensor
    forward: Tensor
    backward: Tensor
    spectral: Tensor


def gains(operator: Float[Tensor, "*batch n n"]) -> Gains:
    """max_i |sum_j A_ij|, max_j |sum_i A_ij|, the inf-norm, the 1-norm and the spectral norm of each operator.

    In float32 at least. A NaN gives NaN, and an infinity an infinite spectral norm.
    """
    operator = operator.to(torch.promote_types(operator.dtype, torch.float32))
    size = operator.abs()
    # A singular value decomposition raises for what is not finite, and for a whole batch where one operator is so.
    finite = operator.isfinite().all(-1).all(-1)
    spectral = torch.linalg.matrix_norm(torch.where(finite[..., None, None], operator, 0), 2)
    return Gains(
        forward_signed=operator.sum(-1).abs().amax(-1),
        backward_signed=operator.sum(-2).abs().amax(-1),
        forward=size.sum(-1).amax(-1),
        backward=size.sum(-2).amax(-1),
        spectral=torch.where(finite, spectral, size.amax((-2, -1))),
    )


def prefixes(operators: Float[Tensor, "L *batch n n"]) -> Float[Tensor, "L *batch n n"]:
    """P_l = A_l ... A_1, the forward composites: what reaches layer l from the input. None where there is no layer."""
    composites = list(operators[:1])
    for operator in operators[1:]:
        composites.append(operator @ composites[-1])
    return torch.stack(composites) if composites else operators


def suffixes(operators: Float[Tensor, "L *batch n n"]) -> Float[Tensor, "L *batch n n"]:
    """S_l = A_L ... A_l, the backward composites: what a gradient passes from the output to layer l. None where there
    is no layer."""
    composites = list(operators[-1:])
    for operator in reversed(operators[:-1]):
        composites.append(composites[-1] @ operator)
    return torch.stack(composites[::-1]) if composites else operators
