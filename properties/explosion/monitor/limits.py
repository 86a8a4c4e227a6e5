"""When a layer has left its bounds: what gains of residual mixing may be, and what rounding adds.

Of a constrained dialect two things are proved in `manifold`, for one layer and for every product of layers: the sums on
the axis that is normalised last are at most 1, those on the other below n. Where no eps is added to a denominator the
former are *exactly* 1: so neither can they fall below 1, and a product whose smallest such sum is 0.7 is off the
manifold just as one with 1.3 is. A mixture of permutations has it on both axes. With an eps in a denominator a line
that is starved of mass loses most of it, by as much as its logits say, and nothing is proved from below; nor is
anything for unconstrained mixing. There a threshold stands in for a law:

    with an eps         1/max(n, 2)         the reciprocal of the largest gain that is proved
    with a bound b > 1  1/min(b, 100)       a gain of b and one of 1/b are equally far from 1
    otherwise           1/100

and it is the largest absolute row sum that is held against it: if that is small, so is P x for every state x.

Rounding. A sum that is 1 comes out within a factor of 1 -+ u_l of it for layer l, hence within the product of these
factors in a composite of non-negative matrices. u_l is one unit of the emitted dtype where that is a short one (plus
n/2 of its smallest numbers, where entries underflow), and (n + 1 + 2 max |log A_ij|) units of float32 (float64 for
float64): a sum, a division, and a logarithm as large as that where the implementation works in logs; n times the number
of roundings that a mix from outside declares of an entry; and n units of the dtype in which the monitor multiplies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch

from mhc_ref import Dialect
from mhc_ref.projection import compute_dtype
from properties.core.family import mix_of
from properties.explosion.proofs.caps import applied, largest

Leaving = Literal["explode", "vanish", "not finite"]
KINDS: tuple[Leaving, ...] = ("not finite", "explode", "vanish")

_AXES: tuple[Literal["row", "column"], ...] = ("row", "column")

FAINTEST = 0.01
"""The smallest gain that passes where neither a dialect nor a bound says anything."""


class Sums(NamedTuple):
    """Of the sampled tokens' matrices: extremes of their absolute and signed row and column sums."""

    forward: float  # largest absolute row sum
    backward: float  # largest absolute column sum
    row: float  # smallest row sum
    column: float  # smallest column sum
    faintest: float  # smallest forward gain of a token
    logs: float  # largest |log| of an entry that is not tiny
    most_row: float = 1.0  # largest row sum
    most_column: float = 1.0  # largest column sum


class Limits(NamedTuple):
    """What the gains of a layer and of composites are held against."""

    largest: Mapping[str, float]  # forward, backward; {} where there is none
    exact: tuple[Literal["row", "column"], ...]  # the axes of A on which every sum is 1
    floor: float  # the smallest forward gain of a token, where no axis is exact
    rounded: bool  # proved for exact numbers, so that rounding is added

    def describe(self) -> str:
        return ", ".join(f"{name} {limit:g}" for name, limit in self.largest.items()) or "to be finite"


def limits(dialect: Dialect | None, n: int, bound: float | None = None, floor: float | None = None) -> Limits:
    """The limits of layers of n streams; `bound` and `floor` stand before the dialect's."""
    largest = limits_of(dialect, n) if bound is None else {"forward": bound, "backward": bound}
    exact: tuple[Literal["row", "column"], ...] = ()
    if floor is None and bound is None and dialect is not None and largest:
        held = applied(dialect)
        exact = tuple(axis for axis in _AXES if held.nonnegative and axis in held.sums)
    if floor is None:
        floor = FAINTEST
        if bound is not None and bound > 1:
            floor = 1 / min(bound, 1 / FAINTEST)
        elif bound is None and largest:
            floor = 1 / max(n, 2)
    return Limits(largest, exact, floor, bound is None)


def limits_of(dialect: Dialect | None, n: int) -> dict[str, float]:
    """The largest forward and backward gain of a dialect's operators and of their products; {} where there is none.

    They follow from what the mix guarantees, and `properties.explosion.proofs.caps` has the proofs. Sums that are
    capped are at most 1, those on the other axis at most n; without a cap those of what does not expand are at most
    sqrt(n).
    """
    caps = {} if dialect is None else largest(applied(dialect), n)
    return {name: caps[name].value for name in ("forward", "backward") if name in caps}


def roundoff(dtype: torch.dtype, n: int, logs: float, multiplied: torch.dtype, dialect: Dialect | None = None) -> float:
    """u_l of a layer that emits `dtype` by the mix of `dialect`; composites are multiplied in `multiplied`."""
    if not dtype.is_floating_point:
        return n * torch.finfo(multiplied).eps
    compute, info = compute_dtype(dtype), torch.finfo(dtype)
    stored = 0.0 if dtype == compute else info.eps / 2 + n * info.smallest_normal * info.eps / 2
    declared = 0 if dialect is None else n * (mix_of(dialect).roundings or 0)
    return stored + (n + 1 + 2 * logs + declared) * torch.finfo(compute).eps / 2 + n * torch.finfo(multiplied).eps / 2


class Judge:
    """Judges the layers of one pass, in their order."""

    def __init__(self) -> None:
        self._most = 0.0  # logarithms of the products of 1 + u_l and 1 - u_l
        self._least = 0.0
        self._tainted = False

    def leaving(self, own: Sums, composed: Sums | None, finite: bool, to: Limits, u: float) -> Leaving | None:
        """How a layer leaves its limits, alone or at the end of the product of all layers so far; None: it does not.

        Args:
            own, composed: sums of A_l, and of P_l where that is known.
            finite: all operators and activations of the layer, the sampled and the others, are finite.
            to: the limits.
            u: the layer's `roundoff`.
        """
        self._most += math.log1p(u)
        self._least += math.log1p(-u) if u < 1 else -math.inf
        finite = finite and all(map(math.isfinite, own))
        self._tainted = self._tainted or not all(map(math.isfinite, own))
        if not finite or (composed is not None and self._tainted):
            return "not finite"
        if composed is not None and not all(map(math.isfinite, composed)):
            return "explode"  # finite factors, and a product that float64 cannot hold
        rooms = ((own, u, -u if u < 1 else -1.0), (composed, math.expm1(self._most), math.expm1(self._least)))
        kept = [(sums, more, less) for sums, more, less in rooms if sums is not None]
        if any(_explodes(sums, to, more) for sums, more, _ in kept):
            return "explode"
        return "vanish" if any(_vanishes(sums, to, less) for sums, _, less in kept) else None


def _explodes(sums: Sums, to: Limits, more: float) -> bool:
    room = 1 + more if to.rounded else 1.0
    return any(getattr(sums, name) > limit * room for name, limit in to.largest.items())


def _vanishes(sums: Sums, to: Limits, less: float) -> bool:
    if not sums.faintest > 0:
        return True
    if to.exact:
        return any(getattr(sums, axis) < 1 + less for axis in to.exact)
    return sums.faintest < to.floor
