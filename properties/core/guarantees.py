"""What a mix guarantees: the promises that laws hold it to, and that explosions take their caps from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

DIM = {"row": -1, "column": -2}
"""The dim of the emitted matrix that an axis normalises over."""

BOTH = frozenset(DIM)
"""Both axes of a matrix."""


@dataclass(frozen=True)
class Guarantees:
    """What holds of every matrix M [n, n] that a mix emits, for all finite logits, in exact arithmetic.

    Axes are "row", sums over dim -1, and "column", sums over dim -2; some of them are given as a set, or as one name.

    Attributes:
        nonnegative: no entry is below 0.
        sums: the axes of M along which every sum is exactly 1.
        capped: the axes along which every sum is at most 1 in absolute values; non-negative ones of `sums` are.
        orthogonal: M M^T = I.
        nonexpansive: |M v|_2 <= |v|_2 for every v.
        constant: M does not depend on the logits.
        identity: M is I, so that nothing needs to read it.
        last: the axis whose lines, of entries that are not negative, are divided by their sums s at the very end, so
            that they sum to s / (s + eps) with the denominator of the dialect; empty where none is.
        scaled: M is D exp(Z) E with positive diagonal D and E, or with an entry_eps what the dialect starts from in
            place of exp(Z): odds ratios are those of that.
        temperature: what the logits are divided by first: Z / temperature stands for Z in all of these.
        alternating: rows and columns are divided by their sums in turn, as often, in the order and with the start and
            the eps that the fields of the dialect say.
        shift: the axis along whose lines a constant added to the logits changes nothing; empty where there is none.
        equivariant: M of P Z Q is P M Q for permutations P and Q, the logits being a matrix [n, n].
        conjugate: M of P Z P^T is P M P^T, so that streams have no names; where the logits are no matrix it is False.
        alone: for n = 1 the entry of M is a number, whatever its logit, so that nothing needs to read that.
    """

    nonnegative: bool = False
    sums: frozenset[str] = frozenset()
    capped: frozenset[str] = frozenset()
    orthogonal: bool = False
    nonexpansive: bool = False
    constant: bool = False
    identity: bool = False
    last: str = ""
    scaled: bool = False
    temperature: float = 1.0
    alternating: bool = False
    shift: str = ""
    equivariant: bool = False
    conjugate: bool = False
    alone: bool = False

    def __post_init__(self) -> None:
        """Draw what follows.

        I is everything that it can be. Non-negative lines that sum to 1 are capped. What is orthogonal does not expand,
        nor does what has both sums capped: the spectral norm is at most the root of the product of the largest absolute
        row and column sums. What is equivariant under two permutations is so under one and its inverse.

        Raises:
            ValueError: an axis that is none.
        """
        for field in ("last", "shift"):
            _axes(field, getattr(self, field))
        self._follows(sums=_axes("sums", self.sums), capped=_axes("capped", self.capped))
        if self.identity:
            self._follows(nonnegative=True, sums=BOTH, orthogonal=True, constant=True, conjugate=True)
        self._follows(capped=self.capped | self.sums if self.nonnegative else self.capped)
        self._follows(nonexpansive=self.nonexpansive or self.orthogonal or self.capped == BOTH)
        self._follows(conjugate=self.conjugate or self.equivariant)

    def _follows(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)


def _axes(field: str, given: Iterable[str]) -> frozenset[str]:
    """Some axes, as a set."""
    found = frozenset([given] if given else []) if isinstance(given, str) else frozenset(given)
    if not found <= BOTH:
        raise ValueError(f"Guarantees.{field} is {given!r}; expected some of 'row' and 'column'")
    return found
