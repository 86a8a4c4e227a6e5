"""What the suite asks of a norm: the family that says how a state is normalised before it is projected."""

from __future__ import annotations

from torch import Tensor

from mhc_ref import Dialect
from properties.core.family import Family, family
from properties.core.rounding import Approx, Rounding


class Norm(Family):
    """How a state is normalised before the products with phi (`Dialect.norm_over`).

    Attributes:
        OVER: the dims of x [..., n, C] over which it divides by the root of the mean square, so that it does not see
            the scale of a state; None for a norm that does something else.
    """

    slot = "norm"
    OVER: tuple[int, ...] | None = None

    def normalise(self, x: Tensor, dialect: Dialect) -> Tensor:
        """[..., n, C] -> [..., n, C], before the norm weight, in torch, in the dtype of x."""
        return self._formula("normalise")(x, dialect)

    def bound(self, x: Approx, weight: Tensor | None, dialect: Dialect, r: Rounding) -> tuple[Approx, Tensor]:
        """The normalised state [tokens, n, C] times the norm weight [n*C], and the relative error that its entries
        share, which `Approx.error` leaves out: a factor may be applied after the products with phi."""
        raise self._missing("the error of its value, `bound(x, weight, dialect, r)`")

    def pullback(
        self, x: Approx, cotangent: Approx, through: Tensor, shared: Tensor, dialect: Dialect, r: Rounding
    ) -> Approx:
        """d <cotangent, x^> / dx, [tokens, n, C].

        Arguments:
            x, cotangent: the state, and the cotangent of the normalised one, [tokens, n, C].
            through: the sum of magnitudes that the cotangent was added up from, [tokens, n, C].
            shared: what `bound` gave.
        """
        raise self._missing("the error of its gradient, `pullback(x, cotangent, through, shared, dialect, r)`")


def keeps_zeros(dialect: Dialect) -> bool:
    """A 0 in a state is a 0 in the normalised one, and nothing of the others depends on it but their number."""
    return norm_of(dialect).OVER is not None and not dialect.centred


def norm_of(dialect: Dialect) -> Norm:
    """The norm of a dialect."""
    return family("norm", dialect.norm_over)
