"""The atlas: the smallest depth that explodes against the deviation of the weights, family by family.

A deviation d is the one number by which the weights of a family may leave what neither grows nor fades:

    residual            x + g F(x), |g| <= d                  rate 1 + d
    hc near identity    |A_ij - I_ij| <= d                    rate 1 + n d
    hc near average     |A_ij| <= 1/n + d                     rate 1 + n d
    block:linear        A x + h_post^T F(h_pre x), |F| <= d   rate 1 + 2 n d, never quite reached
    block:linear:pre    the same behind a pre-norm            1 + 2 d L, never quite reached
    mhc                 any logits at all                     no depth passes n

The frontier of a family is its closed form (`closed_form`, `blocks`, where the proofs are). The points beside it were
found by search: over depths and over changes to a stack of the strongest matrix, by exact products; of blocks over
depths, with open gates, by the recurrence. The search knows what is strongest and not how far that goes, so a point
below its line would refute the proof, and one above would show what the search misses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from properties.explosion.composite import decimal
from properties.explosion.options import Number, exact, seconds
from properties.explosion.proofs.manifold import answer as constrained_answer
from properties.explosion.questions.blocks import Blocks
from properties.explosion.questions.constrained import ConstrainedMixing
from properties.explosion.questions.families import ask
from properties.explosion.questions.linear import BoundedQuestion
from properties.explosion.searches.hypothesise import BudgetSpent, Clock

DEVIATIONS: tuple[str, ...] = ("0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1")
DEEPEST = 5_000
WIDEST = 16
"""Streams: every depth and every number of them is a product of exact matrices."""

RESIDUAL, NEAR_IDENTITY, NEAR_AVERAGE = "residual", "hc near identity", "hc near average"
BLOCK, PRE_NORM, CONSTRAINED = "block:linear", "block:linear:pre", "mhc"
FAMILIES: tuple[str, ...] = (RESIDUAL, NEAR_IDENTITY, NEAR_AVERAGE, BLOCK, PRE_NORM, CONSTRAINED)


@dataclass(frozen=True)
class Point:
    """One family of n streams at one deviation.

    Attributes:
        family: one of `FAMILIES`.
        streams: n, exactly.
        deviation: d; None for constrained mixing, whose logits are unlimited.
        frontier: the smallest depth by the closed form; None where no depth up to the limit is enough.
        searched: the smallest depth that the search found; None where it found none, or did not get there in time.
        impossible: the proof that no depth at all is enough, or "".
    """

    family: str
    streams: int
    deviation: Fraction | None
    frontier: int | None
    searched: int | None
    impossible: str = ""


@dataclass(frozen=True)
class Atlas:
    """All points for one threshold; `complete` is False where the budget was spent or Ctrl-C came first."""

    threshold: Fraction
    max_depth: int
    points: tuple[Point, ...]
    complete: bool
    seconds: float

    @property
    def agree(self) -> bool:
        """Whether every search found exactly the depth of the closed form."""
        return all(one.searched == one.frontier for one in self.points)

    def to_json(self) -> dict[str, Any]:
        """{threshold, max_depth, complete, agree, seconds, points: [{family, streams, deviation, ...}]}."""
        return {
            "threshold": float(self.threshold),
            "max_depth": self.max_depth,
            "complete": self.complete,
            "agree": self.agree,
            "seconds": self.seconds,
            "points": [
                {
                    "family": one.family,
                    "streams": one.streams,
                    "deviation": None if one.deviation is None else float(one.deviation),
                    "frontier": one.frontier,
                    "searched": one.searched,
                    "impossible": one.impossible or None,
                }
                for one in self.points
            ],
        }

    def to_text(self) -> str:
        """A table: a row for each family and n, a column for each deviation."""
        return "\n".join(_lines(self))

    def __str__(self) -> str:
        return self.to_text()


def atlas(
    threshold: Number = 100,
    *,
    deviations: Sequence[Number] = DEVIATIONS,
    max_streams: int = 4,
    max_depth: int = DEEPEST,
    seed: int = 0,
    budget: float = 300.0,
    progress: Callable[[str], None] | None = None,
) -> Atlas:
    """The smallest depth at which the gain reaches `threshold`, for every family, n and deviation.

    The gain is the largest absolute row sum (largest activation of a block) for all but mhc, for which it is the
    backward gain, the one that finite Sinkhorn iterations leave free.

    Args:
        threshold: above 1, an exact decimal.
        deviations: above 0.
        max_streams: n goes from 1 to this, at most to 16.
        max_depth: what needs more sub-layers has no point.
        seed: of the searches.
        budget: seconds for all searches together; what is not done by then is missing, and `complete` is False.

    Raises:
        ValueError: a number out of its range.
    """
    goal = exact(threshold, "threshold")
    if goal <= 1:
        raise ValueError(f"threshold is {threshold}; expected more than 1: one sub-layer without deviation reaches 1")
    if isinstance(max_streams, bool) or not isinstance(max_streams, int) or not 1 <= max_streams <= WIDEST:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"max_streams is {max_streams!r}; expected an integer from 1 to {WIDEST}")
    seconds(budget)
    steps = sorted({exact(one, "deviation") for one in deviations})
    if not steps:
        raise ValueError("no deviation was given; expected some, such as 0.05")
    clock = Clock(budget, progress)
    points: list[Point] = []
    complete = True
    for family, n, deviation in places(max_streams, steps):
        found, ended = point(family, n, deviation, goal, clock if complete else None, max_depth=max_depth, seed=seed)
        complete = complete and ended
        if found is not None:
            points.append(found)
    return Atlas(goal, max_depth, tuple(points), complete, round(clock.seconds, 3))


def point(
    family: str,
    n: int,
    deviation: Fraction | None,
    threshold: Fraction,
    clock: Clock | None,
    *,
    max_depth: int = DEEPEST,
    seed: int = 0,
) -> tuple[Point | None, bool]:
    """One point, and whether its search came to its end. Nothing is searched without a clock.

    None below the cap of constrained mixing, which has no frontier there: `explode mhc` searches it.
    """
    asked = asked_of(family, n, deviation, threshold, max_depth=max_depth, seed=seed)
    if isinstance(asked, ConstrainedMixing):
        known = constrained_answer(asked)
        proof = known.proof if known is not None and known.proved and known.depth is None else ""
        return (Point(family, n, None, None, None, proof) if proof else None), True
    searched, ended = None, clock is not None
    if clock is not None:
        clock.stage = f"{family}, n = {n}, deviation {decimal(deviation or Fraction(0))}"
        try:
            searched = asked.searched(n, clock)
        except (BudgetSpent, KeyboardInterrupt):
            ended = False
    return Point(family, n, deviation, asked.frontier(n), searched), ended


def asked_of(
    family: str, n: int, deviation: Fraction | None, threshold: Fraction, *, max_depth: int = DEEPEST, seed: int = 0
) -> BoundedQuestion | Blocks | ConstrainedMixing:
    """The question that a place of the atlas stands for, with n streams at most."""
    name, options = {
        NEAR_IDENTITY: ("hc", {"identity_bound": deviation}),
        NEAR_AVERAGE: ("hc", {"entry_bound": Fraction(1, n) + (deviation or 0)}),
        CONSTRAINED: ("mhc", {"gain": "backward"}),
    }.get(family, (family, {"branch_bound": deviation}))
    return ask(name, threshold, **options, max_depth=max_depth, max_streams=n, seed=seed)


def places(max_streams: int, deviations: Sequence[Fraction]) -> Iterator[tuple[str, int, Fraction | None]]:
    """(family, streams, deviation) of every point."""
    for family in FAMILIES:
        # One stream behind a pre-norm grows as many do: an average of streams is normalised again.
        for n in (1,) if family in (RESIDUAL, PRE_NORM) else range(1, max_streams + 1):
            for deviation in (None,) if family == CONSTRAINED else deviations:
                yield family, n, deviation


def _lines(one: Atlas) -> Iterator[str]:
    yield f"Smallest depth whose gain reaches {decimal(one.threshold)}, against the deviation of the weights"
    yield "(found by search; a number in brackets is the closed form's where the search found another or none)"
    yield ""
    deviations = sorted({point.deviation for point in one.points if point.deviation is not None})
    yield f"  {'family':18}{'n':>3}  " + "".join(f"{decimal(deviation, 6):>12}" for deviation in deviations)
    rows = dict.fromkeys((point.family, point.streams) for point in one.points)
    for family, n in rows:
        cells = {point.deviation: point for point in one.points if (point.family, point.streams) == (family, n)}
        if family == CONSTRAINED:
            yield f"  {family:18}{n:>3}      impossible at every depth, whatever the logits"
        else:
            yield f"  {family:18}{n:>3}  " + "".join(f"{_cell(cells[deviation]):>12}" for deviation in deviations)
    yield ""
    proofs = [point for point in one.points if point.impossible]
    if proofs:
        yield f"mhc: {proofs[-1].impossible}"
    measured = [point for point in one.points if point.deviation is not None]
    agreeing = sum(point.searched == point.frontier for point in measured)
    yield f"{agreeing} of {len(measured)} searches found the depth of the closed form, in {one.seconds:.0f} s."
    if not one.complete:
        yield "Stopped before the end: the rest was not searched."


def _cell(point: Point) -> str:
    if point.searched == point.frontier:
        return "-" if point.searched is None else str(point.searched)
    return f"{'?' if point.searched is None else point.searched} [{'-' if point.frontier is None else point.frontier}]"
