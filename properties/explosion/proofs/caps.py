"""What follows from what a mix guarantees, whatever the mix is: caps and floors of gains, with their proofs.

Guarantees are of all finite logits (`properties.core.family.Guarantees`), here of the applied operator A. P is a
product A_L ... A_1 of any number of them, n the number of streams.

Lines. Where absolute row sums of A are at most 1, so are those of P (the inf-norm is submultiplicative): the forward
gain is at most 1. No entry of P is then above 1, so a column of n of them sums to at most n, and the backward gain is
at most n. The same is said of columns. The square of the spectral norm is at most the product of the two.

Lengths. Where A does not expand, neither does P: its spectral norm is at most 1. A row of P is then no longer than 1,
and the absolute sum of n numbers whose squares sum to at most 1 is at most sqrt(n); of a column too.

Floors. Where every row of A sums to exactly 1, P 1 = 1: the signed sums of its rows are 1, so no gain about rows is
below 1, and neither is the spectral norm; all entries sum to n, so some column sums to at least 1. Of columns the same.
Where A is orthogonal, so is P: its spectral norm is 1, every row and column has length 1, hence an absolute sum of at
least 1; and P 1 has length sqrt(n), so some signed row sum is at least 1 in size.

Both. Non-negative lines that sum to 1 on both axes leave no choice: every gain of every product is 1.

Constant. A that does not depend on the logits has one stack for every depth and n; its gain is computed.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from mhc_ref import Dialect
from mhc_ref.packing import streams_up_to
from properties.bounds.promises import must_be_kept
from properties.core.family import Guarantees, mix_of
from properties.explosion.answer import Answer
from properties.explosion.composite import decimal, measure

if TYPE_CHECKING:
    from properties.explosion.questions.constrained import LogitsQuestion

_TURNED = {"row": "column", "column": "row"}


@dataclass(frozen=True)
class Cap:
    """The gain is at most `limit`, below it where `strict`; of the square of the gain where `squared`."""

    limit: Fraction
    strict: bool
    why: str
    squared: bool = False

    @property
    def value(self) -> float:
        """The limit of the gain itself."""
        return float(self.limit) ** 0.5 if self.squared else float(self.limit)

    def excludes(self, question: LogitsQuestion) -> bool:
        goal = question.threshold**2 if self.squared else question.threshold
        return goal > self.limit or (self.strict and goal == self.limit)

    def sentence(self, question: LogitsQuestion) -> str:
        value = f"{'the square root of ' * self.squared}{decimal(self.limit, 12)}"
        relation = "stays below" if self.strict else "is at most"
        return f"the {question.gain} gain {relation} {value}: {self.why}"


def applied(dialect: Dialect) -> Guarantees:
    """What the mix of a dialect guarantees of the applied operator A, which may be the transpose of M."""
    held = mix_of(dialect).guarantees(dialect)
    if not dialect.transposed:
        return held
    sums, capped = (frozenset(_TURNED[axis] for axis in axes) for axes in (held.sums, held.capped))
    return dataclasses.replace(held, sums=sums, capped=capped)


def largest(held: Guarantees, n: int) -> dict[str, Cap]:
    """The smallest cap of the forward, the backward and the spectral gain of all products of n streams, if any."""
    found: dict[str, Cap] = {}
    for gain, axis in (("forward", "row"), ("backward", "column")):
        if axis in held.capped:
            found[gain] = Cap(
                Fraction(1), False, f"{axis}s of A are capped, with absolute sums of at most 1, also in products"
            )
        elif held.nonexpansive:
            how = "is orthogonal" if held.orthogonal else "does not expand"
            why = f"A {how}, so no product expands, and the squares of n = {n} entries of a {axis} sum to 1 at most"
            found[gain] = Cap(Fraction(n), False, why, squared=True)
        elif _TURNED[axis] in held.capped:
            why = f"{_TURNED[axis]}s of A are capped, so no entry of a product is above 1, and a {axis} has n = {n}"
            found[gain] = Cap(Fraction(n), False, why)
    if held.nonexpansive:
        how = "is orthogonal" if held.orthogonal else "does not expand"
        found["spectral"] = Cap(Fraction(1), False, f"A {how}, so no product expands")
    elif len(found) == 2:  # one axis is capped, the other follows
        why = f"its square is at most the product of the largest row and column sums, 1 and n = {n}"
        found["spectral"] = Cap(Fraction(n), False, why, squared=True)
    return found


def cap(question: LogitsQuestion, n: int, depth: int | None) -> Cap | None:
    """The smallest cap that follows from the guarantees, which is one of every depth; None where none does."""
    caps = largest(applied(question.dialect), n)
    return caps.get({"signed": "forward"}.get(measure(question.gain), measure(question.gain)))


def _sizes(question: LogitsQuestion) -> list[int]:
    """A few numbers of streams that the mix takes."""
    return [n for n in streams_up_to(question.max_streams, question.dialect) if n > 1][:3]


def answer(question: LogitsQuestion) -> Answer | None:
    """What follows without a search; None where one is needed.

    Raises:
        HarnessError: the formula of a mix from outside does not keep what its family guarantees.
    """
    for n in _sizes(question):
        must_be_kept(question.dialect, n)
    held, threshold = applied(question.dialect), question.threshold
    if held.nonnegative and len(held.sums) == 2:
        why = "Every row and every column sums to 1, whatever the logits, so all gains of every product are 1"
        possible = threshold <= 1 if question.direction == "explode" else threshold >= 1
        return Answer(1, 1, True, f"{why}.") if possible else Answer(None, None, True, f"{why}.")
    if question.direction == "vanish":
        if (held.sums or held.orthogonal) and threshold < 1:
            lines = " and every ".join(sorted(held.sums))
            why = f"every {lines} of A sums to exactly 1" if held.sums else "A is orthogonal"
            return Answer(None, None, True, f"The mixing guarantees that {why}, so no gain of a product is below 1.")
        return None
    caps = [cap(question, n, None) for n in streams_up_to(question.max_streams, question.dialect)]
    excluding = [one for one in caps if one is not None and one.excludes(question)]
    if len(excluding) < len(caps):
        return None
    return Answer(None, None, True, f"At every depth {max(excluding, key=lambda one: one.value).sentence(question)}.")
