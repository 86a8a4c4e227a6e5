"""Head: the streams end as a sum gated like h_pre, with parameters of its own (DeepSeek-V4, `hc_head`)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from mhc_ref.block import pre
from mhc_ref.dialect import Dialect

HEAD = True


def collapse(
    x: Float[Tensor, "*tokens n C"], dialect: Dialect, h_pre: Float[Tensor, ...]
) -> Float[Tensor, "*tokens C"]:
    """The sum gated by the h_pre of the head's parameters, not normalised, in the dtype of the state."""
    return pre(x, h_pre)
