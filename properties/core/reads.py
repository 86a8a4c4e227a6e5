"""What the suite asks of a read: the family that says what a branch reads the streams with."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from mhc_ref import Dialect
from properties.core.family import Family, family
from properties.core.rounding import Approx, Rounding


class Completed(NamedTuple):
    """Gradients of what a read makes of its products: by these, by the columns of phi behind, by bias and alpha."""

    products: Approx
    beyond: Approx
    bias: Approx
    alpha: Approx


class Read(Family):
    """What a branch reads the streams with (`Dialect.read`), made of the first logits of a token.

    Attributes:
        by_stream: h_pre has one number for each stream, else it is [n, C]; what the state is multiplied by is in it.
        plain: it is `pre(logits) + pre_eps`, whatever the state is otherwise, of logits that have gates and biases.
    """

    slot = "read"
    by_stream: bool = False
    plain: bool = False

    def weights(self, logits: Tensor, x: Tensor, params: Any, dialect: Dialect) -> Tensor:
        """h_pre [..., n] or [..., n, C], in torch, in the dtype of the logits."""
        return self._formula("weights")(logits, x, params, dialect)

    def affine(self, dialect: Dialect) -> bool:
        """Whether logits have gates and biases."""
        return self._formula("affine")(dialect)

    def share(self, n: int, dialect: Dialect) -> float:
        """What the products with phi are multiplied by."""
        return self._formula("share")(n, dialect)

    def joins(self, dialect: Dialect) -> bool:
        """Whether the logits of h_post are made with those of h_pre."""
        return False

    def completed(self, logits: Tensor, n: int, params: Any, dialect: Dialect) -> Tensor:
        """The logits of a token [..., P + n + R] of its products with phi, where they have no gates and biases."""
        return logits

    def completed_bound(self, products: Approx, n: int, params: Any, dialect: Dialect, r: Rounding) -> Approx:
        """The same of products [tokens, P + n + R] with errors."""
        return products

    def completed_pullback(
        self, products: Approx, n: int, params: Any, cotangent: Approx, dialect: Dialect, r: Rounding, kept: str
    ) -> Completed | None:
        """d <cotangent, completed>; None where the products are the logits. `kept`: see `pullback`."""
        return None

    def bound(self, logits: Approx, x: Approx, params: Any, dialect: Dialect, r: Rounding) -> Approx:
        """h_pre of logits [tokens, width] and a state [tokens, n, C]."""
        raise self._missing("the error of its value, `bound(logits, x, params, dialect, r)`")

    def pullback(
        self, logits: Approx, x: Approx, params: Any, cotangent: Approx, dialect: Dialect, r: Rounding, kept: str
    ) -> tuple[Approx, Approx | None, Approx | None, Approx | None]:
        """d <cotangent, h_pre> by the logits, and by the columns of phi beyond those of logits, the norm weight and the
        state, None for those that h_pre does not depend on past its logits; `kept`: "t" where the gradients by
        parameters are asked for token by token, else ""."""
        raise self._missing("the error of its gradient, `pullback(logits, x, params, cotangent, dialect, r, kept)`")


def read_of(dialect: Dialect) -> Read:
    """What the branch of a dialect reads with."""
    return family("read", dialect.read)


def as_pre_takes(gates: Tensor, x: Tensor, dialect: Dialect) -> Tensor:
    """An h_pre of gates [..., n] for a state [..., n, C]: themselves, or [..., n, C] that differ by channel where the
    branch of the dialect reads with those."""
    if read_of(dialect).by_stream:
        return gates
    by_channel = 1 + torch.arange(x.shape[-1], dtype=gates.dtype, device=gates.device) % 4 / 4
    return gates.unsqueeze(-1) * by_channel


def mapping_shapes(
    state: tuple[int, ...], dialect: Dialect
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """The shapes of h_pre, h_post and h_res for a state [..., n, C]."""
    gates, n = state[:-1], state[-2]
    return gates if read_of(dialect).by_stream else state, gates, (*gates, n)
