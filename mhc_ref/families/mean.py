"""Mean: the streams end as their mean."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from mhc_ref.dialect import Dialect
from mhc_ref.projection import compute_dtype

HEAD = False


def collapse(x: Float[Tensor, "*tokens n C"], dialect: Dialect, h_pre: None) -> Float[Tensor, "*tokens C"]:
    """The mean over the streams, in the dtype of the state."""
    return x.to(compute_dtype(x.dtype)).mean(-2).to(x.dtype)
