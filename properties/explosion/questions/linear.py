"""Bounded mixing: the residual chain (family residual) and unconstrained hyper-connections (family hc)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, ClassVar

import torch
from torch import Tensor

from properties.explosion.answer import Answer
from properties.explosion.composite import decimal, measure
from properties.explosion.configurations import Chain, matrices
from properties.explosion.options import (
    BRANCH_BOUND,
    ENTRY_BOUND,
    IDENTITY_BOUND,
    MAX_STREAMS,
    asked,
    one_stream,
    stored_one_stream,
)
from properties.explosion.proofs import closed_form, overflow
from properties.explosion.questions.question import LinearQuestion, written_matrices
from properties.explosion.searches import bounded
from properties.explosion.searches.architecture import searched_depth
from properties.explosion.searches.entries import complexity
from properties.explosion.searches.hunt import Hunt
from properties.explosion.searches.hypothesise import Clock


@dataclass(frozen=True, kw_only=True)
class BoundedQuestion(LinearQuestion[Chain]):
    """Matrices I0 + E with |E_ij| <= bound, where I0 is the zero matrix or the identity.

    Attributes:
        STRONGEST: the strongest of them, in words.
    """

    STRONGEST: ClassVar[str]

    @property
    @abstractmethod
    def origin(self) -> int:
        """The diagonal of I0: 0 or 1."""

    @property
    @abstractmethod
    def bound(self) -> Fraction:
        """The largest |E_ij|."""

    @abstractmethod
    def growth(self) -> str:
        """What a sub-layer multiplies the gain by at most, in words."""

    @abstractmethod
    def applied(self, operator: Tensor, x: Tensor) -> Tensor:
        """The strongest sub-layer [n, n] applied to the streams x [n], in their dtype."""

    def solve(self, hunt: Hunt[Chain]) -> Answer:
        return bounded.solve(self, hunt)

    def entries(self, found: Chain) -> int:
        return complexity(found.operators, self.origin)[0]

    def reached(self, found: Chain) -> bool:
        if self.gain == "nonfinite":
            return not bool(overflow.states(self, found.streams, found.depth)[-1].isfinite().all())
        return super().reached(found)

    def measured(self, found: Chain) -> float:
        return torch.inf if self.gain == "nonfinite" else super().measured(found)

    def bounds(self, found: Chain) -> list[float]:
        return [float(closed_form.rate(self, found.streams) ** depth) for depth in range(1, found.depth + 1)]

    def written(self, found: Chain) -> dict[str, Any]:
        return {"operators": written_matrices(found.operators)}

    def read(self, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Chain:
        return Chain(matrices(header["operators"], "operators"))

    def frontier(self, n: int) -> int | None:
        """The smallest depth of exactly n streams, by the closed form."""
        return closed_form.smallest_exponent(closed_form.rate(self, n), self.threshold, self.max_depth)

    def searched(self, n: int, clock: Clock) -> int | None:
        """The smallest depth of exactly n streams that a search finds which knows nothing of the closed form."""
        return searched_depth(self, n, clock)


@dataclass(frozen=True, kw_only=True)
class ResidualChain(BoundedQuestion):
    """x + g F(x), F linear of norm 1, |g| <= branch_bound, one stream."""

    family = FORM = "residual"
    STRONGEST = "1 + g"

    max_streams: int = field(**asked(MAX_STREAMS, default=1, read=one_stream, stored=stored_one_stream))
    branch_bound: Fraction = field(**asked(BRANCH_BOUND))

    @property
    def origin(self) -> int:
        return 1

    @property
    def bound(self) -> Fraction:
        return self.branch_bound

    def within(self) -> str:
        return f"x + g F(x) with F of norm 1 and |g| <= {decimal(self.branch_bound)}"

    def growth(self) -> str:
        return f"A sub-layer multiplies the gain by at most 1 + {decimal(self.bound)}"

    def applied(self, operator: Tensor, x: Tensor) -> Tensor:
        return x + float(self.bound) * x  # as the reference adds a branch


@dataclass(frozen=True, kw_only=True)
class BoundedMixing(BoundedQuestion):
    """Any mixing of n streams whose entries are within `entry_bound`, or within `identity_bound` of the identity's."""

    family = FORM = "hc"
    STRONGEST = "its largest matrix"

    entry_bound: Fraction | None = field(**asked(ENTRY_BOUND))
    identity_bound: Fraction | None = field(**asked(IDENTITY_BOUND))

    def check(self) -> None:
        given = [name for name in ("entry_bound", "identity_bound") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"hc needs exactly one of entry_bound and identity_bound; {' and '.join(given) or 'neither'} was "
                "given. entry_bound: |A_ij| <= b; identity_bound: |A_ij - I_ij| <= d"
            )

    @property
    def origin(self) -> int:
        return 0 if self.entry_bound is not None else 1

    @property
    def bound(self) -> Fraction:
        return self.entry_bound or self.identity_bound or Fraction(0)

    def within(self) -> str:
        form = "" if self.origin == 0 else " of the identity's"
        return f"mixing matrices with every entry within {decimal(self.bound)}{form}"

    def growth(self) -> str:
        factors = "those of a product are at most the product of its factors'"
        norm = {
            "forward": f"of absolute row sums, {factors}",
            "backward": f"of absolute column sums, {factors}",
            "signed": f"signed row sums are at most the absolute ones, and {factors}",
            "spectral": f"the spectral norm is at most the Frobenius norm, and {factors}",
        }[measure(self.gain)]
        form = f"n * {decimal(self.bound)}" if self.origin == 0 else f"1 + n * {decimal(self.bound)}"
        return f"A sub-layer of n streams multiplies the gain by at most {form} ({norm})"

    def applied(self, operator: Tensor, x: Tensor) -> Tensor:
        return operator @ x
