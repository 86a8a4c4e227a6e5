"""Depth attention step by step: the scores of the sources, their shares, and what is read of each."""

from __future__ import annotations

import math

from torch import Tensor

from mhc_ref import Dialect, Params
from properties.core.deviant import Deviant


def attends(dialect: Dialect) -> bool:
    """A branch reads the streams by a softmax of their products with one query."""
    return dialect.read == "depth-attention"


class DepthAttentionSteps(Deviant):
    """u = sum_i softmax_i(<q, x^_i>) x_i, each operation a step."""

    def gated(self, dynamic: Tensor, gate: Tensor, static: Tensor) -> Tensor:
        return dynamic if attends(self.computed) else super().gated(dynamic, gate, static)

    def read_weights(self, logits: Tensor, x: Tensor, params: Params) -> Tensor:
        if not attends(self.computed):
            return super().read_weights(logits, x, params)
        scaled = self.computed.scaled
        scores = self.scores(logits, x)
        return self.of_sources(self.h_pre(scores / math.sqrt(x.shape[-1]) if scaled else scores), x)

    def scores(self, logits: Tensor, x: Tensor) -> Tensor:
        """The products of the query with each source over its rms."""
        return logits

    def of_sources(self, shares: Tensor, x: Tensor) -> Tensor:
        """What the sources as they are are multiplied by."""
        return shares / self.rms(self.mean_square(x)).squeeze(-1) if self.computed.reads_normalised else shares

    def head(self, x: Tensor, params: Params) -> Tensor:
        if not attends(self.computed):
            return super().head(x, params)
        query = params._replace(phi=params.phi[:, :1])
        return self.read_weights(self.asked(x, query), x, params)

    def asked(self, x: Tensor, query: Params) -> Tensor:
        """<q, x^_i> of a phi that is the query alone."""
        return (self.normalised(x, query.norm_weight) @ query.phi).squeeze(-1)


STEPS = {"read": DepthAttentionSteps}
