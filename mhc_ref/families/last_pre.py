"""Last pre: the streams end as the next block would read them, by the h_pre of the last block (DeepSeek-V4.1)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from mhc_ref.block import pre
from mhc_ref.dialect import Dialect

LAST = True


def collapse(
    x: Float[Tensor, "*tokens n C"], dialect: Dialect, h_pre: Float[Tensor, ...]
) -> Float[Tensor, "*tokens C"]:
    """The sum gated by the h_pre of the last block, not normalised, in the dtype of the state."""
    return pre(x, h_pre)
