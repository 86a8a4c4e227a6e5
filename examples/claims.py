"""A mixing whose formula is nobody's business: it claims what it guarantees, and is held to that.

mhc-properties check examples/claims.py:Mine
mhc-properties check examples/claims.py:rotate --dialect "claims: orthogonal"
"""

import torch

from properties import Implementation
from properties.families import claims


class Mine(Implementation):
    """Rows are shares of 1; how they are made is not said."""

    dialect = claims("rows sum to 1", "non-negative", roundings=16)

    def project(self, logits):
        weights = torch.nn.functional.softplus(logits - logits.amax(-1, keepdim=True)) + 0.01
        return weights / weights.sum(-1, keepdim=True)


def rotate(logits):
    """A product of plane rotations, by the first logits of each pair of streams."""
    n = logits.shape[-1]
    matrix = torch.eye(n, dtype=logits.dtype, device=logits.device).expand(logits.shape)
    for i in range(n - 1):
        cosine, sine = logits[..., i, i + 1].cos(), logits[..., i, i + 1].sin()
        turn = torch.eye(n, dtype=logits.dtype, device=logits.device).repeat(*logits.shape[:-2], 1, 1)
        turn[..., i, i], turn[..., i + 1, i + 1] = cosine, cosine
        turn[..., i, i + 1], turn[..., i + 1, i] = -sine, sine
        matrix = turn @ matrix
    return matrix
