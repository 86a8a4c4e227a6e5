"""h_res of every dialect, with what rounding can do to its entries, its odds ratios and its sums."""

from __future__ import annotations

from torch import Tensor

from mhc_ref import Dialect
from mhc_ref.packing import streams_of_logits
from properties.bounds import declared
from properties.bounds.agreement import IN_FLOAT64, must_hold
from properties.bounds.arithmetic import entering
from properties.core.family import Mix, guarantees_of, mix_of
from properties.core.rounding import Approx, Projection, Rounding


def projection(logits: Approx, dialect: Dialect, r: Rounding) -> Projection:
    """h_res of logits [tokens, *s], s the shape that the mix of the dialect says."""
    r = r.at("projection")
    mix, logits = _trusted(logits, dialect), entering(logits, r)
    return mix.bound(logits, dialect, r) if mix.roundings is None else declared.projection(mix, logits, dialect, r)


def held(got: Tensor, logits: Approx, dialect: Dialect, r: Rounding) -> Projection:
    """What an emitted h_res [tokens, n, n] is held to where only guarantees are asked of it: `projection`, or where
    there is no formula what the mix says of `got`."""
    mix = mix_of(dialect)
    return projection(logits, dialect, r) if mix.known else mix.held(got, logits, dialect, r)


def projection_gradient(logits: Approx, cotangent: Approx, dialect: Dialect, r: Rounding) -> Approx:
    """The pullback of `projection`: d <cotangent, h_res> / d logits, shaped like the logits."""
    mix = _trusted(logits, dialect)
    if mix.roundings is not None:
        return declared.pulled(mix, "project", logits, cotangent, dialect, r)
    return mix.pullback(logits, cotangent, dialect, r)


def _trusted(logits: Approx, dialect: Dialect) -> Mix:
    """The mix of the dialect; of one from outside, both formulas have been compared at these sizes."""
    mix, shape = mix_of(dialect), logits.value.shape

    def value(z: Approx) -> Approx:
        found = projection(z, dialect, IN_FLOAT64)
        return Approx(found.value, found.error)

    def pull(z: Approx, bar: Approx) -> Approx:
        return projection_gradient(z, bar, dialect, IN_FLOAT64)

    if mix.is_outside and mix.known:
        n = streams_of_logits(shape, dialect)
        must_hold(mix, dialect, tuple(shape[1:]), (n,), value, pull, guarantees_of(dialect))
    return mix


def pullback_norm(logits: Tensor, dialect: Dialect) -> Tensor:
    """An upper bound of the spectral norm of d h_res / d logits at logits [tokens, n, n], [tokens].

    Raises:
        ValueError: none is known for this dialect.
    """
    return mix_of(dialect).pullback_norm(logits, dialect)
