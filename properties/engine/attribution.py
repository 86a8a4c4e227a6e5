"""How a search asks whose failure it has found; `properties.causes` answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from properties.core.case import Case
from properties.core.law import Law
from properties.core.size import Size
from properties.core.trial import LawBroken
from properties.engine.subject import Subject
from properties.report.cause import Cause


@dataclass(frozen=True)
class Belonging:
    """The causes that a failure belongs to: several where only all of them together give it.

    `how`: "first" for the failure that was explained, "shown" for one that the explanation reproduces, "not told apart"
    for one that may belong.
    """

    causes: tuple[Cause, ...]
    how: Literal["first", "shown", "not told apart"]

    @property
    def keys(self) -> tuple[str, ...]:
        """What tells the causes from others."""
        return tuple(one.key for one in self.causes)


class Attribution(Protocol):
    """Who knows the causes of a run."""

    def known(self, law: Law, subject: Subject, case: Case, broken: LawBroken) -> Belonging | None:
        """The known causes that a failure belongs to; None where it belongs to none of them."""
        ...

    def found(self, law: Law, subject: Subject, case: Case, broken: LawBroken) -> Belonging:
        """Explain a failure that belongs to no known cause."""
        ...

    def settled(
        self, law: Law, subject: Subject, case: Case, broken: LawBroken, causes: Mapping[str, Cause]
    ) -> dict[str, Cause]:
        """The causes of a law, by the keys that they had before its failure was shrunk to this one."""
        ...

    def rule(
        self, law: Law, subject: Subject, seen: Mapping[Size, bool], fails: Callable[[Size], bool | None]
    ) -> str | None:
        """The rule, in words, for the sizes at which a law fails; None where none is likely.

        Asked before the failures are put to the causes, which then have the rule. `seen` says of the sizes that were
        tried whether they failed, `fails` of a further one: None where it cannot be tried.
        """
        ...

    def plainest(self, causes: Iterable[str], score: float) -> bool:
        """Whether no failure of the causes of these keys has been as readable, and this one is worth shrinking."""
        ...

    def noted(self, causes: Iterable[str], score: float) -> None:
        """A failure of the causes of these keys is so readable, see `properties.engine.readable`."""
        ...

    def several(self, subject: Subject) -> bool:
        """Whether more than one cause of an implementation is known."""
        ...
