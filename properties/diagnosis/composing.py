"""Named slips put into one implementation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mhc_ref import Dialect
from properties.catalogue.deviations import CATALOGUE, HIDDEN, Deviant
from properties.core.deviant import redialected
from properties.core.shelves import steps_of
from properties.diagnosis.amounts import Numbered
from properties.diagnosis.measured import Measured


def compose(names: Sequence[str], base: Dialect, *measured: Measured | None) -> Deviant | None:
    """An implementation with all of these slips, declaring `base`; None where one of them makes no difference.

    Arguments:
        measured: slips with a number beside those that have a name; there are none where it is None.
    """
    numbers = [one for one in measured if one is not None]
    if len({one.kind for one in numbers}) < len(numbers):
        return None
    slips = [CATALOGUE[name] if name in CATALOGUE else HIDDEN[name] for name in names]
    if any(not one.applies(base) for one in slips):
        return None
    parts = [one.make(base) for one in slips]
    deviants = [part for part in parts if isinstance(part, Deviant)]
    if len(deviants) < len(parts):
        return None
    if len(deviants) == 1 and not numbers:
        return deviants[0]
    kinds: list[type[Deviant]] = [
        *(part.slip for part in deviants if not redialected(part)),
        *(one.kind for one in numbers),
    ]

    def low(kind: type[Deviant]) -> bool:
        """A slip of any dialect lies over one in the steps of a family, which hides it otherwise."""
        return any(issubclass(kind, steps) for steps in steps_of(base))

    kinds.sort(key=low)
    redialects = [name for name, part in zip(names, deviants, strict=True) if redialected(part)]

    def change(dialect: Dialect) -> Dialect:
        for name in redialects:
            dialect = getattr(CATALOGUE[name].make(dialect), "computed", dialect)
        return dialect

    def prepare(self: Deviant) -> None:
        for kind in kinds:
            kind.prepare(self)

    memory = {"prepare": prepare} if any(kind.prepare is not Deviant.prepare for kind in kinds) else {}
    both: Any = Deviant
    if kinds:
        try:
            both = type("Both", tuple(kinds), memory)
        except TypeError:  # two slips that no class can have together
            return None
    title = "+".join([*names, *map(str, numbers)])
    try:
        made: Deviant = both(base, title, change if redialects else None)
    except ValueError:  # two changes that make no dialect together
        return None
    if isinstance(made, Numbered):
        made.numbers = {one.kind: one.amount() for one in numbers}
    return made


def orders(names: tuple[str, ...], base: Dialect) -> Iterator[tuple[str, ...]]:
    """The slips as given; and with the last of them first where it can hide another, or another can hide it."""
    yield names
    if len(names) < 2:
        return
    made = [CATALOGUE[name].make(base) for name in names if CATALOGUE[name].applies(base)]
    *parts, last = [part.slip for part in made if isinstance(part, Deviant)] or [Deviant]

    def meet(one: type[Deviant]) -> bool:
        steps = vars(one).keys() & vars(last).keys()
        return (one is Deviant and last is Deviant) or any(not name.startswith("__") for name in steps)

    if any(meet(one) for one in parts):
        yield (names[-1], *names[:-1])


def remembers(made: Deviant) -> bool:
    """Whether earlier calls matter to an implementation."""
    return type(made).prepare is not Deviant.prepare
