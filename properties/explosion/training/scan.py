"""The minimal exploding run on a lattice: every size in ascending order, all admissible rates and seeds of one at once.

A rate is admissible for a size if the plain decoder, trained in the same way, has there a median final loss within
`TOLERANCE` of its best over all rates, and has learned at least `LEARNED`. So an explosion cannot be had by a rate at
which nothing trains. Nothing is bisected: whether a run crosses is not monotone in its rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from mhc_ref.packing import streams_up_to
from properties.explosion.training.runs import Runs, train
from properties.explosion.training.setup import Setup

TOLERANCE, LEARNED = 0.1, 1.0
"""Nats a token."""
LAST = 10
"""The final loss is the mean of so many steps."""
FRESH = 20
"""Seeds on which what was found is tried again; none of them was searched on."""
MARGIN = 1e-6
"""By how much more than the threshold is asked for, so that another machine's rounding does not undo what was found."""
_SMALLEST_WIDTH, _SMALLEST_LENGTH = 8, 32
_FAR = 1000
_FIRST_SEEDS = 1


def rates(setup: Setup) -> list[float]:
    """Thirteen rates over three decades, ascending."""
    top = 0 if setup.optimizer == "adamw" else 1
    return [10 ** (top - 3 + step / 4) for step in range(13)]


@dataclass(frozen=True)
class Lattice:
    """The sizes that are tried: every depth, every number of streams that the residual takes, powers of two."""

    depths: tuple[int, ...]
    streams: tuple[int, ...]
    widths: tuple[int, ...]
    tokens: tuple[int, ...]

    @classmethod
    def of(cls, setup: Setup, depth: int, streams: int, width: int, tokens: int) -> Lattice:
        """The lattice up to these sizes."""
        dialect = setup.residual.dialect
        several = (1,) if dialect is None else tuple(n for n in streams_up_to(streams, dialect) if n > 1)
        widths = tuple(w for w in _doubling(_SMALLEST_WIDTH, width) if w % setup.heads == 0)
        lattice = cls(tuple(range(1, depth + 1)), several, widths, tuple(_doubling(_SMALLEST_LENGTH, tokens)))
        for name, sizes in vars(lattice).items():
            if not sizes:
                raise ValueError(
                    f"no {name} are left to try: {setup.residual.name} takes more than 1 stream, the smallest width "
                    f"is {_SMALLEST_WIDTH}, a multiple of the heads, and the smallest length {_SMALLEST_LENGTH} tokens"
                )
        return lattice

    def sizes(self, setup: Setup) -> Iterator[Setup]:
        """Every size, in lexicographic order."""
        for depth in self.depths:
            for n in self.streams:
                for width in self.widths:
                    for tokens in self.tokens:
                        yield setup.with_(depth=depth, streams=n, width=width, tokens=tokens)

    def words(self) -> str:
        """The lattice in words."""
        names = ("sub-layers", "streams", "width", "tokens")
        values = (self.depths, self.streams, self.widths, self.tokens)
        return "; ".join(f"{name} {', '.join(map(str, sizes))}" for name, sizes in zip(names, values, strict=True))


def _doubling(least: int, most: int) -> Iterator[int]:
    while least <= most:
        yield least
        least *= 2


@dataclass(frozen=True)
class Hit:
    """A size, the first step at which all seeds have crossed, and the smallest rate at which they have by then."""

    setup: Setup
    step: int
    rate: float


def final(runs: Runs) -> torch.Tensor:
    """The final loss of every run [R]; infinite where it is no number."""
    return runs.losses[-LAST:].mean(0).nan_to_num(nan=math.inf)


def admissible(setup: Setup, seeds: Sequence[int], tick: Callable[[], None]) -> list[float]:
    """The rates at which the plain decoder of this size trains nearly as well as at its best."""
    tried = rates(setup)
    runs = train(setup.joined_by("plain"), "forward", _each(tried, seeds), [*seeds] * len(tried), tick=tick)
    ends = final(runs).view(len(tried), -1).median(1).values
    begun = runs.losses[0].view(len(tried), -1).median(1).values
    good = (ends <= ends.min() + TOLERANCE) & (begun - ends >= LEARNED)
    return [rate for rate, fits in zip(tried, good.tolist(), strict=True) if fits]


def crossing(
    setup: Setup, gain: str, threshold: float, allowed: Sequence[float], seeds: Sequence[int], tick: Callable[[], None]
) -> Hit | None:
    """The first step, and of that step the smallest allowed rate, at which every seed has crossed; None for none.

    A rate that the first seeds do not cross at is not tried on the others: all of them are asked for.
    """
    goal = threshold * (1 + MARGIN)
    first, rest = [*seeds[:_FIRST_SEEDS]], [*seeds[_FIRST_SEEDS:]]
    begun = train(setup, gain, _each(allowed, first), first * len(allowed), tick=tick).crossing(goal)
    by_rate = begun.view(len(allowed), -1)
    left = [index for index, steps in enumerate(by_rate.tolist()) if all(steps)]
    if not left:
        return None
    latest = torch.tensor([max(by_rate[index].tolist()) for index in left])
    if rest:
        kept = [allowed[index] for index in left]
        others = train(
            setup,
            gain,
            _each(kept, rest),
            rest * len(kept),
            tick=tick,
        ).crossing(goal)
        steps = others.view(len(kept), -1)
        latest = torch.where((steps > 0).all(1), torch.maximum(latest, steps.amax(1)), 0)
    hits = [(step, allowed[index]) for step, index in zip(latest.tolist(), left, strict=True) if step]
    return Hit(setup, *min(hits)) if hits else None


def smallest(
    setup: Setup,
    gain: str,
    threshold: float,
    lattice: Lattice,
    seeds: Sequence[int],
    tick: Callable[[str], None],
) -> Hit | None:
    """The first size of the lattice that crosses for every seed at an admissible rate; None where none does."""
    known: dict[Setup, list[float]] = {}
    for size in lattice.sizes(setup):

        def now(size: Setup = size) -> None:
            tick(f"{size.depth} sub-layers, {size.streams} streams, width {size.width}, {size.tokens} tokens")

        plain = size.joined_by("plain")
        if plain not in known:
            known[plain] = admissible(size, seeds, now)
        found = crossing(size, gain, threshold, known[plain], seeds, now) if known[plain] else None
        if found is not None:
            return found
    return None


def fresh_seeds(seeds: Sequence[int]) -> list[int]:
    """Seeds that were not searched on."""
    return [max(seeds) + _FAR + index if max(seeds) < 2**62 else min(seeds) - _FAR - index for index in range(FRESH)]


def _each(values: Sequence[float], seeds: Sequence[int]) -> list[float]:
    return [value for value in values for _ in seeds]
