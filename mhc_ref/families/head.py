"""Head: the streams end as a sum gated like h_pre, with parameters of its own (DeepSeek-V4, `hc_head`)."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from mhc_ref.block import head_weights, pre
from mhc_ref.dialect import Dialect

HEAD = True


def collapse(x: Float[Tensor, "*tokens n C"], dialect: Dialect, head: Any) -> Float[Tensor, "*tokens C"]:
    """The sum gated by pre(alpha_0 * dynamic(x^ phi) + bias) + pre_eps, not normalised.

    Of `head` the first n columns of phi [n*C, >= n], the first n entries of the bias and the first gate are read.

    Raises:
        ValueError: no head is given.
    """
    if head is None:
        raise ValueError("collapse='head' needs the parameters of the head; none were given")
    return pre(x, head_weights(x, head, dialect))
