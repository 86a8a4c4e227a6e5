"""The causes of a run: the first failure of a kind is explained, and later ones are put to what is known.

| asked in turn | |
|---|---|
| an exception of the same class at the same place of the target's code | is the same cause |
| each part of an explanation, then two together, then all of them | by `agreement.belongs` |
| the account of the implementation (`diagnosis.parts`), once | its parts and its undeclared limits become known |
| every single slip of the catalogue, at this very case (`here`) | |
| what nothing explains | is told apart by stage and kind |
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from properties.causes.agreement import belongs
from properties.causes.here import narrowed, slips_at
from properties.causes.limited import limit_of, limits_at
from properties.causes.overwriting import overwritten
from properties.causes.places import Places
from properties.causes.repeating import unrepeated
from properties.causes.sharing import shared
from properties.causes.stages import shows, stage_of
from properties.causes.wording import (
    DOES,
    contract_words,
    exception_key,
    fault_of_ours,
    limit_cause,
    noting,
    part_cause,
    part_key,
    raised_cause,
    suspect_key,
    unsteady_cause,
    unsteady_key,
)
from properties.core.case import Case
from properties.core.kinds import kind_of
from properties.core.law import Law
from properties.core.size import Size
from properties.core.trial import LawBroken, TargetRaised
from properties.diagnosis.composing import remembers
from properties.diagnosis.diagnose import NoVerdict
from properties.diagnosis.parts import Account, Limit, Part, account_of, made
from properties.engine.attribution import Belonging
from properties.engine.subject import Subject
from properties.engine.trying import only_so
from properties.guards.interruption import watched
from properties.guards.printable import message_of
from properties.guards.surroundings import told, usual
from properties.report.cause import TIED, Cause

ALIKE = ("nan", "randomness", "memory", "time", "contract")
"""Kinds of failures that are told apart from wrong values where nothing explains them."""


_SHRUNK = 2
"""How many failures of a cause are shrunk beside the first one, each as it is more readable than all before."""


@dataclass
class _Suspect:
    """What is known of one implementation."""

    account: Account | None = None
    parts: list[Part] = field(default_factory=lambda: [])
    limits: list[Limit] = field(default_factory=lambda: [])
    probed: bool = False
    """Whether every circumstance has been probed, and not only where the exam met an exception."""
    places: Places = field(default_factory=Places)
    """At which sizes its causes show."""
    open: dict[str, Cause] = field(default_factory=lambda: {})
    """Causes without an explanation, by key: exceptions, limits, stages."""
    trouble: str = ""
    """What failed in our own code when a failure was put to the known causes; told with the next cause."""


class Causes:
    """The causes that are known so far, see `properties.engine.attribution.Attribution`.

    Arguments:
        folder: where the workers of a run meet; None for one process.
        announce: told of every new cause as soon as it is known.
        seconds: of computing that the account of an implementation may take.
    """

    def __init__(
        self, folder: Path | None = None, announce: Callable[[Cause], None] | None = None, seconds: float = 8.0
    ) -> None:
        self.folder, self.announce, self.seconds = folder, announce, seconds
        self._suspects: dict[tuple[str, str], _Suspect] = {}
        self._announced: set[str] = set()
        self._plainest: dict[str, float] = {}
        self._shrunk: Counter[str] = Counter()

    def plainest(self, causes: Iterable[str], score: float) -> bool:
        """Whether no failure of these causes has been as readable so far; of each cause a few are shrunk for that."""
        keys = tuple(causes)
        if not all(score < self._plainest.get(key, 0.0) and self._shrunk[key] < _SHRUNK for key in keys):
            return False
        self._shrunk.update(keys)
        return True

    def noted(self, causes: Iterable[str], score: float) -> None:
        """Remember how readable a failure is."""
        for key in causes:
            self._plainest[key] = min(score, self._plainest.get(key, score))

    def several(self, subject: Subject) -> bool:
        """Whether more than one cause of an implementation is known."""
        suspect = self._suspect(subject)
        return len(suspect.parts) + len(suspect.open) > 1

    @told()
    @usual()
    def rule(
        self, law: Law, subject: Subject, seen: Mapping[Size, bool], fails: Callable[[Size], bool | None]
    ) -> str | None:
        """The simplest rule for the sizes at which a law fails; None where none is likely."""
        rule = self._suspect(subject).places.swept((law.id, subject.id), seen, fails)
        return None if rule is None else rule.text

    @told()
    @usual()
    def known(self, law: Law, subject: Subject, case: Case, broken: LawBroken) -> Belonging | None:
        """The known causes that a failure belongs to."""
        suspect = self._suspect(subject)
        try:
            belonging = self._known(law, subject, case, broken, suspect)
        except Exception as error:  # ours: the failure is then explained by itself, and that is noted
            suspect.trouble = suspect.trouble or fault_of_ours("it could not be put to the known causes", error)
            return None
        return None if belonging is None else self._announced_once(self._placed(law, subject, case, belonging))

    @told()
    @usual()
    def found(self, law: Law, subject: Subject, case: Case, broken: LawBroken) -> Belonging:
        """Explain a failure, with the account of the implementation at first, else at this very case."""
        suspect = self._suspect(subject)
        with watched():
            try:
                belonging = self._explained(law, subject, case, broken, suspect)
            except Exception as error:  # ours: it must never replace the failure that it is about
                note = fault_of_ours("it could not be explained", error)
                belonging = self._unexplained(law, subject, case, broken, suspect, (note,))
            if suspect.trouble:
                belonging = replace(belonging, causes=tuple(noting(one, suspect.trouble) for one in belonging.causes))
        return self._announced_once(self._placed(law, subject, case, belonging))

    @told()
    @usual()
    def settled(
        self, law: Law, subject: Subject, case: Case, broken: LawBroken, causes: Mapping[str, Cause]
    ) -> dict[str, Cause]:
        """The causes of a law, by the keys that they had, when its failure has been shrunk: of explanations that were
        as good as one another, those that the smaller input refutes are dropped."""
        suspect = self._suspect(subject)
        found = dict(causes)
        with watched():
            for number, part in enumerate(suspect.parts):
                key = part_key(subject, part)
                if key not in found or not part.ties:
                    continue
                beside = [one for one in suspect.parts if one is not part]
                try:
                    left = narrowed(law, subject, case, broken, beside, part)
                except Exception as error:  # ours: the ties stand, and that is noted
                    found[key] = noting(found[key], fault_of_ours("it could not be put to the smaller input", error))
                    continue
                if left is not None:
                    if key in self._announced:
                        left = replace(left, told_as=part.key)
                    suspect.parts[number] = left
                    suspect.places.renamed(key, part_key(subject, left))
                    found[key] = replace(part_cause(subject, left, law), where=found[key].where, first=found[key].first)
        self._announced_once(Belonging(tuple(found.values()), "first"), tied=True)
        return found

    def _placed(self, law: Law, subject: Subject, case: Case, belonging: Belonging) -> Belonging:
        """The causes with the sizes at which they show, as far as that is known by now."""
        places = self._suspect(subject).places
        places.belongs((law.id, subject.id), belonging.keys)
        if law.kind == "oracle" and belonging.how != "not told apart" and len(belonging.keys) == 1:
            places.failed(belonging.keys[0], case)  # laws of other kinds call with other sizes than the case has
        causes = tuple(replace(one, where=places.where(one.key)) for one in belonging.causes)
        return replace(belonging, causes=causes)

    def _announced_once(self, belonging: Belonging, tied: bool = False) -> Belonging:
        """Announce what is new; what is tied only when the failure has been shrunk, which may decide it."""
        for one in belonging.causes:
            if one.key not in self._announced and (tied or not any(note.startswith(TIED) for note in one.notes)):
                self._announced.add(one.key)
                if self.announce is not None:
                    self.announce(one)
        return belonging

    def _suspect(self, subject: Subject) -> _Suspect:
        return self._suspects.setdefault(suspect_key(subject), _Suspect())

    def _explained(self, law: Law, subject: Subject, case: Case, broken: LawBroken, suspect: _Suspect) -> Belonging:
        if suspect.account is None:
            suspect.account = shared(self.folder, "\0".join(suspect_key(subject)), lambda: self._account(subject))
            suspect.parts += suspect.account.parts
            suspect.limits += suspect.account.limits
            known = self._known(law, subject, case, broken, suspect)
            if known is not None:
                return Belonging(known.causes, "first" if known.how == "shown" else known.how)
        if broken.kind in ("exception", "contract") and not suspect.probed:
            suspect.probed = True
            suspect.limits += limits_at(subject, case)  # of what the exam does not ask
            if (limited := self._limited(law, subject, case, broken, suspect)) is not None:
                return Belonging((limited,), "first")
        if isinstance(broken, TargetRaised):
            return Belonging((self._raised(law, subject, broken, suspect),), "first")
        if (unsteady := self._unsteady(law, subject, case, broken, suspect)) is not None:
            return unsteady
        new = slips_at(law, subject, case, broken, suspect.parts)
        if new:
            suspect.parts += new
            return Belonging(tuple(part_cause(subject, one, law) for one in new), "first")
        if not suspect.account.unexplained and (memory := self._remembered(law, subject, suspect)) is not None:
            return memory  # what earlier calls have left cannot be made again
        return self._unexplained(law, subject, case, broken, suspect, suspect.account.notes)

    def _unsteady(
        self, law: Law, subject: Subject, case: Case, broken: LawBroken, suspect: _Suspect
    ) -> Belonging | None:
        """What does not give the same again: a known slip that remembers calls, or a cause of its own."""
        if not unrepeated(law, subject, case, broken):
            return None
        if (memory := self._remembered(law, subject, suspect)) is not None:
            return memory
        key = unsteady_key(subject)
        how = "shown" if key in suspect.open else "first"
        return Belonging((suspect.open.setdefault(key, unsteady_cause(law, subject)),), how)

    def _remembered(self, law: Law, subject: Subject, suspect: _Suspect) -> Belonging | None:
        """A known slip for which earlier calls matter, which nobody can repeat."""
        for part in suspect.parts:
            explaining = made([part], subject.implementation.dialect)
            if explaining is not None and remembers(explaining):
                return Belonging((part_cause(subject, part, law),), "not told apart")
        return None

    def _account(self, subject: Subject) -> Account:
        dtype = torch.float16 if subject.dtype == torch.float16 else None
        try:
            return account_of(subject.implementation, dtype=dtype, device=subject.device.type, seconds=self.seconds)
        except NoVerdict as error:
            return Account(none=message_of(error), notes=(message_of(error),))

    def _known(self, law: Law, subject: Subject, case: Case, broken: LawBroken, suspect: _Suspect) -> Belonging | None:
        same = self._limited(law, subject, case, broken, suspect)
        if same is None and isinstance(broken, TargetRaised):
            same = suspect.open.get(exception_key(subject, broken))
        if same is not None:
            return Belonging((same,), "shown")
        untold: Belonging | None = None
        for parts in _combined(suspect.parts):
            explaining = made(parts, subject.implementation.dialect)
            if explaining is None:
                continue
            how = belongs(law, subject, case, broken, explaining)
            found = Belonging(tuple(part_cause(subject, one, law) for one in parts), how) if how else None
            if how == "shown":
                return found
            untold = untold or found
        if untold is None and (found := self._decided(law, subject, case, broken, suspect)) is not None:
            return found
        if untold is None and unsteady_key(subject) in suspect.open:
            untold = self._unsteady(law, subject, case, broken, suspect)
        return untold or self._alike(law, subject, case, broken, suspect)

    def _decided(
        self, law: Law, subject: Subject, case: Case, broken: LawBroken, suspect: _Suspect
    ) -> Belonging | None:
        """A known cause of which this failure refutes what was named, and shows what explained it as well."""
        for number, part in enumerate(suspect.parts):
            beside = [one for one in suspect.parts if one is not part]
            left = narrowed(law, subject, case, broken, beside, part) if part.ties else None
            if left is not None and left.deviation != part.deviation:
                suspect.parts[number] = replace(left, told_as=part.key)  # laws have been told that it is theirs
                return Belonging((part_cause(subject, suspect.parts[number], law),), "shown")
        return None

    def _limited(self, law: Law, subject: Subject, case: Case, broken: LawBroken, suspect: _Suspect) -> Cause | None:
        """The undeclared limit that a failure comes from."""
        one = limit_of(law, subject, case, broken, suspect.limits)
        return None if one is None else suspect.open.setdefault(one.declare, limit_cause(subject, one))

    def _raised(self, law: Law, subject: Subject, broken: TargetRaised, suspect: _Suspect) -> Cause:
        return suspect.open.setdefault(exception_key(subject, broken), raised_cause(law, subject, broken))

    def _alike(self, law: Law, subject: Subject, case: Case, broken: LawBroken, suspect: _Suspect) -> Belonging | None:
        """A cause without an explanation that may well show here."""
        if not suspect.open:
            return None
        _recognise(law, subject, case, broken)
        key = self._open_key(law, subject, broken, suspect)
        return Belonging((suspect.open[key],), "not told apart") if key in suspect.open else None

    def _unexplained(
        self, law: Law, subject: Subject, case: Case, broken: LawBroken, suspect: _Suspect, notes: Sequence[str]
    ) -> Belonging:
        _recognise(law, subject, case, broken)
        stage, kind = self._stage(law, broken, suspect)
        key = self._open_key(law, subject, broken, suspect)
        beside = "beside what is explained, " if suspect.parts else ""
        account = suspect.account
        if account and not (account.parts or account.unexplained or account.limits or account.none):
            elsewhere = (
                f"at other inputs it behaves as declared (worst ratio {account.ratio:.2g} in {account.calls} calls)"
            )
            so = " or ".join(only_so(law, subject, case, broken))
            matters = f"here it is wrong only {so}" if so else "it is this input that matters, or how the call is made"
            notes = (f"{elsewhere}: {matters}", *notes)
        notes = (*(f"explained beside it: {one.words}" for one in suspect.parts), *notes)
        why = contract_words(broken) or ", which no dialect and none of the named slips explains"
        cause = Cause(
            key,
            subject.implementation.name,
            f"{beside}it {DOES[kind]} in the {stage}{why}",
            stage=stage,
            kind=kind,
            notes=tuple(notes),
            first=law.id,
        )
        return Belonging((suspect.open.setdefault(key, cause),), "first")

    def _stage(self, law: Law, broken: LawBroken, suspect: _Suspect) -> tuple[str, str]:
        kind = kind_of(broken, law)
        kept = kind if kind in ALIKE else "value"
        for stage, what in suspect.account.unexplained if suspect.account else ():
            if what == kept and stage and shows(stage, law):
                return stage, kind
        return stage_of(law), kind

    def _open_key(self, law: Law, subject: Subject, broken: LawBroken, suspect: _Suspect) -> str:
        stage, kind = self._stage(law, broken, suspect)
        return f"{subject.implementation.name}: {kind} in {stage}"


def _recognise(law: Law, subject: Subject, case: Case, broken: LawBroken) -> None:
    """A wrong value that is one of memory: it was right when it was returned."""
    if kind_of(broken, law) == "value" and overwritten(law, subject, case, broken):
        broken.kind = "memory"


def _combined(parts: Sequence[Part]) -> Iterator[tuple[Part, ...]]:
    """Each by itself, two at a time, all of them."""
    yield from itertools.combinations(parts, 1)
    yield from itertools.combinations(parts, 2)
    if len(parts) > 2:
        yield tuple(parts)
