"""What no logits can do: caps on the gains of constrained mixing, with their proofs.

Every Sinkhorn dialect is brought to one form by transposition: C is the matrix whose last division is by row sums,
and the applied operator is C or, where `flipped`, C^T. So "rows" below are the axis that is normalised last, t is the
number of iterations, n the number of streams, L the depth. All entries are positive, because the logits are finite.

Rows. After a division by s + eps or by max(s, eps) a row sum is at most 1, below 1 where an eps is added, and exactly
1 without one. Products of non-negative matrices keep that: P 1 <= 1. At t = 0 a softmax start has the row sums
1 + n entry_eps exactly, and an exp start can have any.

Columns, any depth. An entry of the composite is below its row sum (n >= 2, the rest of the row is positive), hence
below 1; a column of n of them is below n.

Columns, one sub-layer, no denominator eps: below n - 1 + 1/n for every t >= 1. Before the last division the matrix is
column-stochastic (up to one common factor, which the division removes). Let p_i be its entries in the column and q_i
the rest of row i: sum p_i = 1, sum q_i = n - 1, r_i = p_i + q_i < n since sum r_i = n. The column ends as
sum p_i / r_i = n - sum q_i / r_i < n - (n - 1) / n.

Two streams, no denominator eps: both column sums differ from 1 by less than 1/(2t) in one sub-layer, and by less than
1 - (1 - 1/(2t))^L after L. With column sums 1 + d, 1 - d before an iteration and e half the difference of the entries
of the first column, an iteration gives exactly d' = 4 d e^2 / ((1 - d^2)^2 - 4 d^2 e^2). Entries between 0 and 1 mean
|e| <= (1 - |d|) / 2, so |d'| <= |d| / (1 + 2 |d|), that is 1/|d'| >= 1/|d| + 2; and 1/|d_1| >= 2 is the case n = 2
above. For a product, let 1 + x, 1 - x be the column sums of the upper factors, and a, b the entries outside the
diagonal of the next matrix, |b - a| <= k := 1/(2t). Then x' = x (1 - a - b) + b - a lies within |x| + k (1 - |x|), so
that 1 - |x_L| >= (1 - k)^L.

Spectral norm: at most the square root of the largest row sum times the largest column sum.

Stored in a short dtype (`storage`) entries are larger by a factor of at most g, and may be 0: limits are multiplied by
g^L and may be attained; what is said of two streams at several depths does not carry over.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Literal

from mhc_ref import Dialect
from properties.explosion.answer import Answer
from properties.explosion.composite import decimal, powered
from properties.explosion.proofs.caps import Cap
from properties.explosion.proofs.closed_form import smallest_exponent
from properties.explosion.proofs.storage import growth

if TYPE_CHECKING:
    from properties.explosion.questions.constrained import ConstrainedMixing

Axis = Literal["rows", "columns", "spectral"]


def flipped(dialect: Dialect) -> bool:
    """Whether the applied operator is C^T."""
    return (last_axis(dialect) == "row") == dialect.transposed


def last_axis(dialect: Dialect) -> str:
    """The axis of the emitted matrix that is normalised last."""
    return dialect.last_axis if dialect.iterations else dialect.start_axis


def axis(question: ConstrainedMixing) -> Axis:
    """Which sums of C the gain is about. Signed and absolute agree on non-negative matrices."""
    if question.gain == "spectral":
        return "spectral"
    return "rows" if (question.gain == "backward") == flipped(question.dialect) else "columns"


def normalised(dialect: Dialect) -> bool:
    """Whether every row of C sums to exactly 1."""
    return bool(dialect.iterations) and not dialect.denominator_eps


def cap(question: ConstrainedMixing, n: int, depth: int | None) -> Cap:
    """The smallest proved cap of n streams and `depth` sub-layers, of any depth for None.

    Not for an exp start without iterations, which has none.
    """
    dialect, about = question.dialect, axis(question)
    squared = about == "spectral"
    grown = growth(question, n)  # 1, unless the matrices are stored in a short dtype
    rows = grown ** (depth or question.max_depth)
    stored = f" as they are stored in {question.dtype}" if question.stored else ""
    if not dialect.iterations:
        rows = (1 + n * Fraction(dialect.entry_eps)) ** (depth or question.max_depth)  # never stored
    loses = bool(dialect.iterations and dialect.denominator_eps and dialect.denominator == "add")
    if about == "rows" or n == 1:
        how = "its last division makes every row sum" if dialect.iterations else "a softmax makes every row sum"
        clamped = dialect.iterations and dialect.denominator_eps
        if stored:
            return Cap(rows, False, f"{how} at most {decimal(grown, 12)}{stored}, and products have products of that")
        size = "less than 1" if loses else f"{'at most ' * bool(clamped)}{decimal(rows, 12)}"
        return Cap(rows, loses, f"{how} {size}, and so it is in products")
    if normalised(dialect) and n == 2 and depth is not None and (depth == 1 or not stored):
        k = Fraction(1, 2 * dialect.iterations)
        why = f"with 2 streams a sub-layer moves less than 1/(2t) = {decimal(k)} of the mass that is still elsewhere"
        return Cap((2 - (1 - k) ** depth) * rows ** _power(about), not stored, why + stored, squared)
    if normalised(dialect) and depth == 1:
        why = "a column that sums to 1 before its rows are normalised sums to less than n - 1 + 1/n after"
        return Cap((n - 1 + Fraction(1, n)) * rows ** _power(about), not stored, why + stored, squared)
    sums = f"the rows of every composite are {'not negative' if stored else 'positive'}"
    sums = f"{sums} and sum to at most {decimal(rows, 12)}{stored}"
    end = f"is at most {decimal(n * rows, 12)}" if stored else f"stays below {decimal(n * rows, 12)}"
    return Cap(n * rows ** _power(about), not stored, f"{sums}, so a column of n = {n} entries {end}", squared)


def _power(about: Axis) -> int:
    """How often the row sums count: in the row sums and in the column sums for the square of a spectral norm."""
    return 2 if about == "spectral" else 1


def answer(question: ConstrainedMixing) -> Answer | None:
    """What follows without a search; None where one is needed."""
    dialect, threshold = question.dialect, question.threshold
    if threshold == 0:
        return Answer(None, None, True, "Finite logits give positive entries only, and so every gain is above 0.")
    if dialect.iterations == 0:
        return _softmax(question) if dialect.start == "softmax" else _unnormalised(question)
    if question.direction == "vanish":
        return _vanish(question)
    if normalised(dialect) and threshold <= 1:
        return Answer(1, 1, True, "With one stream the projection is 1, whatever the logit.")
    return _above_every_cap(question)


def _above_every_cap(question: ConstrainedMixing) -> Answer | None:
    most = 1 if axis(question) == "rows" else question.max_streams
    caps = [cap(question, n, None) for n in range(1, question.max_streams + 1)]
    if all(one.excludes(question) for one in caps):
        limited = question.stored or not question.dialect.iterations
        where = f"Up to depth {question.max_depth}" if limited else "At every depth"
        return Answer(None, None, True, f"{where} {caps[most - 1].sentence(question)}.")
    return None


def _softmax(question: ConstrainedMixing) -> Answer | None:
    """A softmax and no iteration: row sums of 1 + n entry_eps. No gain of a product is below their product."""
    eps, threshold = Fraction(question.dialect.entry_eps), question.threshold
    sums = f"A softmax row sums to 1 + n * {decimal(eps, 12)}, whatever the logits"
    why = f"{sums}, and every gain of a product is at least that"
    if question.direction == "vanish":
        return Answer(1, 1, True, f"{why}.") if threshold >= 1 + eps else Answer(None, None, True, f"{why}.")
    if threshold <= 1 + eps:
        return Answer(1, 1, True, f"{why}.")
    if axis(question) != "rows":
        return _above_every_cap(question)
    why = f"{sums}, and in a product the sums are multiplied"
    r = 1 + question.max_streams * eps
    depth = smallest_exponent(r, threshold, question.max_depth)
    if depth is None:
        reached = f"{question.max_depth} sub-layers reach {powered(r, question.max_depth)}"
        return Answer(None, None, True, f"{why}: {reached} < {decimal(threshold)}.")
    streams = next(n for n in range(1, question.max_streams + 1) if (1 + n * eps) ** depth >= threshold)
    return Answer(depth, streams, True, f"{why}: {decimal(r, 12)} at {question.max_streams} streams.")


def _unnormalised(question: ConstrainedMixing) -> Answer:
    """exp(Z) + entry_eps, divided by nothing."""
    if question.direction == "explode":
        return Answer(
            1, 1, True, "Without an iteration nothing is normalised: exp of a logit is as large as one likes."
        )
    eps = Fraction(question.dialect.entry_eps)
    if not eps:
        return Answer(
            1, 1, True, "Without an iteration nothing is normalised: exp of a logit is as small as one likes."
        )
    why = f"Without an iteration every entry exceeds its eps of {decimal(eps)}, and every gain of L sub-layers eps^L"
    for depth in range(1, question.max_depth + 1):
        if eps**depth < question.threshold:
            return Answer(depth, 1, True, f"{why}.")
        if eps >= 1:
            break
    return Answer(None, None, True, f"{why}, which is at least {decimal(question.threshold)} up to the largest depth.")


def _vanish(question: ConstrainedMixing) -> Answer | None:
    if not normalised(question.dialect):
        return None
    if question.stored and question.threshold < 1:
        lowest = growth(question, question.max_streams, -1)
        why = f"Every row sums to 1, at least {decimal(lowest, 12)} as it is stored in {question.dtype}"
        least = lowest**question.max_depth
        if question.threshold < least:
            left = f"{question.max_depth} sub-layers leave at least {decimal(least, 12)}"
            return Answer(None, None, True, f"{why}, and no gain is below the products of that: {left}.")
        return None
    why = "Every row sums to exactly 1, so the mean column sum is 1 and the spectral norm at least 1, in every product"
    if question.threshold < 1:
        return Answer(None, None, True, f"{why}: no gain is below 1.")
    return Answer(1, 1, True, f"{why}; with one stream all gains are 1.")
