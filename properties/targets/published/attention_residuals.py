"""What the adapters of attention residuals have in common: a read of what came before a layer, and a sum.

A kernel takes the sources and gives what a layer reads. The layer adds what it gives to the newest of them, the sum
under way, in a line that is repeated here; that a group ends, and its sum becomes a source, no block does. Scores have
a norm weight besides, one for all sources, and what counts is the product of both: every second channel of the column
of phi is in the query, the others are in the weight, and 2 is what is not phi there, so that both have values and
gradients of their own and their product is phi exactly.
"""

from __future__ import annotations

import torch
from torch import Tensor

import mhc_ref
from mhc_ref import Branch, Params
from properties.core.implementation import Implementation


class AttentionResiduals(Implementation):
    """Layers that read sources [..., n, C] by a query [C] and a norm weight [C], and a last read."""

    dialect = mhc_ref.ATTN_RES
    norm_weight = False

    def block(self, x: Tensor, params: Params, branch: Branch) -> Tensor:
        older, newest = x.tensor_split([x.shape[-2] - 1], -2)
        return torch.cat([older, newest + branch(self.collapse(x, params)).unsqueeze(-2)], -2)

    def collapse(self, x: Tensor, params: Params | None = None) -> Tensor:
        if params is None:
            raise ValueError("the streams end by a last read, whose query is missing")
        if params.norm_weight is not None:
            raise ValueError("Params.norm_weight is given; expected None: one weight serves all sources")
        return self.read(x, params.phi[:, 0])

    def read(self, x: Tensor, query: Tensor) -> Tensor:
        """What the library makes of it; each class of one says its own."""
        raise NotImplementedError


def divided(phi: Tensor) -> tuple[Tensor, Tensor]:
    """(query, weight), whose product is phi: every second channel of phi is in one of both."""
    other = torch.arange(len(phi), device=phi.device) % 2 == 1
    return torch.where(other, 2.0, phi / 2), torch.where(other, phi / 2, 2.0)
