"""The head step by step: the weights of the streams, and a sum like that of h_pre."""

from __future__ import annotations

from torch import Tensor

from mhc_ref import Dialect, Params
from properties.core.deviant import Deviant


def has_a_head(dialect: Dialect) -> bool:
    """The streams end in a sum gated by parameters of its own."""
    return dialect.collapse == "head"


class HeadSteps(Deviant):
    """The step `head`, which every deviant has, gathered by the step of h_pre."""

    def collapse(self, x: Tensor, params: Params | None = None) -> Tensor:
        if params is None or not has_a_head(self.computed):
            return super().collapse(x, params)
        return self.pre(x, self.head(self.widened(x), params.widened()))


STEPS = {"end": HeadSteps}
