"""h_res of every dialect, with what rounding can do to its entries, its odds ratios and its sums."""

from __future__ import annotations

from torch import Tensor

from mhc_ref import Dialect
from properties.bounds import declared
from properties.core.family import mix_of
from properties.core.rounding import Approx, Projection, Rounding


def projection(logits: Approx, dialect: Dialect, r: Rounding) -> Projection:
    """h_res of logits [tokens, *s], s the shape that the mix of the dialect says."""
    mix = mix_of(dialect)
    return mix.bound(logits, dialect, r) if mix.roundings is None else declared.projection(mix, logits, dialect, r)


def projection_gradient(logits: Approx, cotangent: Approx, dialect: Dialect, r: Rounding) -> Approx:
    """The pullback of `projection`: d <cotangent, h_res> / d logits, shaped like the logits."""
    mix = mix_of(dialect)
    if mix.roundings is not None:
        return declared.pulled(mix, "project", logits, cotangent, dialect, r)
    return mix.pullback(logits, cotangent, dialect, r)


def pullback_norm(logits: Tensor, dialect: Dialect) -> Tensor:
    """An upper bound of the spectral norm of d h_res / d logits at logits [tokens, n, n], [tokens].

    Raises:
        ValueError: none is known for this dialect.
    """
    return mix_of(dialect).pullback_norm(logits, dialect)
