"""Carry: every stream keeps a share alpha of itself beside a gate beta, alpha^2 = max(1 - beta^2, floor) (Muse Spark).

M = diag(alpha), beta = sigma(z / temperature): beside a branch of weight beta the two squares sum to 1, except at the
floor, where they sum to at most 1 + floor. A transform gate beside which alpha is 1 - beta is that of highway networks.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from mhc_ref.dialect import Dialect
from mhc_ref.registry import TEMPERATURE, Field

BY_STREAM = True
MOST_STREAMS = None
FIELDS = {
    "temperature": TEMPERATURE,
    "floor": Field(
        1e-3,
        lambda f: isinstance(f, float) and 1e-30 <= f < 1,
        "a number from 1e-30 to 1, the smallest alpha^2",
        "the smallest square of the share that a stream keeps of itself",
    ),
}


def shape(n: int, dialect: Dialect) -> tuple[int, ...]:
    """One logit a stream."""
    return (n, 1)


def project(logits: Float[Tensor, "*tokens n 1"], dialect: Dialect) -> Float[Tensor, "*tokens n n"]:
    """M = diag(alpha), alpha^2 = max(sigma(-z / temperature) (1 + beta), floor): 1 - beta^2 as a product, which keeps
    its digits where beta is nearly 1."""
    over = logits.squeeze(-1) / dialect.temperature
    square = (-over).sigmoid() * (1 + over.sigmoid())
    return square.clamp(min=dialect.floor).sqrt().diag_embed()
