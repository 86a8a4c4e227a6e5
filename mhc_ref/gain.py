"""Gains of a residual operator and of composites of many.

Throughout, A [..., n, n] is the operator that is *applied*: x' = A x. Forward gain is about row sums, backward gain
about column sums. The mHC paper's "Amax Gain Magnitude" is the *signed* one: its own figure 8 can only be read so.
Signed sums are no norm: [[101, -100], [-100, 101]] has signed gain 1 at every power and spectral norm 201, so the
absolute sums (inf-norm, 1-norm) and the spectral norm stand beside them. On non-negative matrices both agree.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Average = Literal["gain", "operator"]


class Gains(NamedTuple):
    """Five gains of an operator, each [...] for operators [..., n, n]; dimensionless."""

    forward_signed: Tensor
    backward_signed: Tensor
    forward: Tensor
    backward: Tensor
    spectral: Tensor


def gains(operator: Float[Tensor, "*batch n n"]) -> Gains:
    """max_i |sum_j A_ij|, max_j |sum_i A_ij|, the inf-norm, the 1-norm and the spectral norm of each operator."""
    return Gains(
        forward_signed=operator.sum(-1).abs().amax(-1),
        backward_signed=operator.sum(-2).abs().amax(-1),
        forward=operator.abs().sum(-1).amax(-1),
        backward=operator.abs().sum(-2).amax(-1),
        spectral=torch.linalg.matrix_norm(operator, 2),
    )


def prefixes(operators: Float[Tensor, "L *batch n n"]) -> Float[Tensor, "L *batch n n"]:
    """P_l = A_l ... A_1, the forward composites: what reaches layer l from the input."""
    composites = [operators[0]]
    for operator in operators[1:]:
        composites.append(operator @ composites[-1])
    return torch.stack(composites)


def suffixes(operators: Float[Tensor, "L *batch n n"]) -> Float[Tensor, "L *batch n n"]:
    """S_l = A_L ... A_l, the backward composites: what a gradient passes from the output to layer l."""
    composites = [operators[-1]]
    for operator in reversed(operators[:-1]):
        composites.append(composites[-1] @ operator)
    return torch.stack(composites[::-1])


def token_average(composites: Float[Tensor, "L tokens n n"], average: Average) -> Gains:
    """The gains of each layer's composite averaged over tokens, each [L].

    ``gain`` averages the gains of the tokens' composites; ``operator`` takes the gain of the averaged composite.
    They differ by an order of magnitude for unconstrained mixing, so the order is never implied.
    """
    if average == "operator":
        return gains(composites.mean(1))
    return Gains(*(each.mean(1) for each in gains(composites)))
