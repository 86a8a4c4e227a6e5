"""Two deviations that do not hide one another: each shows by itself beside the other."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Iterator, Sequence

from mhc_ref import PRESETS, Dialect
from properties.catalogue.deviations import CATALOGUE, Deviant
from properties.core.implementation import Implementation, Reference
from properties.core.slips import Kind
from properties.diagnosis.answers import Answer, Predictions, alike, answer
from properties.diagnosis.composing import compose
from properties.diagnosis.parts import of_deviation
from properties.diagnosis.ties import APART, questions, wide_frame
from properties.diagnosis.view import Frame, View

BESIDE: dict[str, tuple[Kind, ...]] = {
    "value": ("scaling", "normalisation", "order", "orientation", "eps", "iterations", "packing", "missing-term"),
    "gradient": ("gradient",),
    "execution": ("execution",),
}
"""What is put beside a value slip, by the kinds of its deviations."""
_SEED = 5
"""Of the questions that a pair is chosen by: not those of an exam."""


def pairs(beside: str, count: int, seed: int = 0) -> Iterator[tuple[str, Implementation, tuple[str, str]]]:
    """A target, what it is and the two names: value slips, each beside one of another stage; always the same ones."""
    dialect = PRESETS.default

    def rank(names: tuple[str, str]) -> bytes:
        return hashlib.blake2b(f"{seed} {' '.join(names)}".encode(), digest_size=8).digest()

    def fits(names: tuple[str, str]) -> bool:
        return names[0] != names[1] and (beside != "value" or names[0] < names[1])

    product = itertools.product(_of(BESIDE["value"], dialect), _of(BESIDE[beside], dialect))
    chosen = filter(None, (_pair(names, dialect) for names in sorted(filter(fits, product), key=rank)))
    yield from itertools.islice(chosen, count)


def _of(kinds: Sequence[Kind], dialect: Dialect) -> list[str]:
    return [name for name, one in CATALOGUE.items() if one.kind in kinds and one.applies(dialect)]


def _pair(names: tuple[str, str], dialect: Dialect) -> tuple[str, Implementation, tuple[str, str]] | None:
    if of_deviation(names[0]).stage == of_deviation(names[1]).stage:
        return None
    made = compose(names, dialect)
    if made is None or not hide_nothing(names, made, dialect):
        return None
    made.name = "+".join(names)
    return made.name, made, names


def hide_nothing(names: tuple[str, str], both: Deviant, dialect: Dialect) -> bool:
    """Whether each of two deviations has a question at which both together answer as it does, and not as the other.

    One of gradients may share its question with the other: both together then answer like neither.
    """
    right, one, two = (_answers(name, dialect) for name in ("", *names))
    together = [answer(given.probe, View(both, _frame(dialect))) for given in right]
    predictions = Predictions(both.mixing)
    seen: set[str] = set()
    shared = CATALOGUE[names[1]].kind in BESIDE["gradient"]
    for base, first, second, all_of in zip(right, one, two, together, strict=True):

        def same(a: Answer, b: Answer, base: Answer = base) -> bool:
            slack = predictions.of(base.probe, dialect)
            return alike(a, b, slack, lambda found: [0 * value.double() for value in found.values]) <= APART

        shows = not same(first, base), not same(second, base)
        as_one, as_two = same(all_of, first), same(all_of, second)
        if shows == (True, False) and as_one:
            seen.add("first")
        if as_two if shows == (False, True) else shared and shows == (True, True) and not (as_one or as_two):
            seen.add("second")
    return seen == {"first", "second"}


@functools.cache
def _answers(name: str, dialect: Dialect) -> tuple[Answer, ...]:
    """Of one deviation by itself, of the reference where there is no name."""
    made = CATALOGUE[name].make(dialect) if name else Reference(dialect)
    view = View(made, _frame(dialect))
    return tuple(answer(probe, view) for probe in questions(_frame(dialect), _SEED))


@functools.cache
def _frame(dialect: Dialect) -> Frame:
    return wide_frame(Frame.of(Deviant(dialect)))
