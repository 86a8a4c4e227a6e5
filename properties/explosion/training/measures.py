"""What a run is measured by: gains of the composite at the worst token, of gradients, and attention logits."""

from __future__ import annotations

import torch
from torch import Tensor

COMPOSITE = ("forward", "backward", "signed")
"""Gains of A_L ... A_1, of which there are proofs."""
GAINS = (*COMPOSITE, "gradient", "logit")


def composite(operators: Tensor) -> Tensor:
    """A_L ... A_1 [..., n, n] of operators [L, ..., n, n]."""
    product = operators[0]
    for one in operators[1:]:
        product = one @ product
    return product


def gain_of(product: Tensor, gain: str) -> Tensor:
    """The gain of a composite [..., n, n], the largest of all tokens."""
    if gain == "signed":
        return product.sum(-1).abs().amax()
    return product.abs().sum(-1 if gain == "forward" else -2).amax()


def measured(operators: Tensor, largest_logit: Tensor, gain: str, slopes: tuple[Tensor, Tensor] | None) -> Tensor:
    """The gain of one pass (`decoder.Passed`).

    Of gradients: the largest of a token before the first sub-layer, over that after the last.

    `slopes` [B, T, n, C] are the gradients of the loss by the state before the first sub-layer and after the last.
    """
    if gain == "logit":
        return largest_logit
    if gain != "gradient":
        return gain_of(composite(operators), gain)
    assert slopes is not None
    first, last = (one.flatten(-2).norm(dim=-1).amax() for one in slopes)
    return torch.where(last > 0, first / last, 0.0)
