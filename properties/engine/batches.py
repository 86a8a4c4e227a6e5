"""Many cases of one law as one: joined along their tokens, judged in one pass, and cut out again."""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from hypothesis import given, seed
from hypothesis.errors import NonInteractiveExampleWarning
from torch import Tensor

from properties.core.batch_trial import BatchTrial, Reheard
from properties.core.case import Case, map_tensors
from properties.core.law import Law
from properties.core.rounding import example
from properties.core.rows import Rows, together
from properties.core.trial import Answer, ContractBroken, LawBroken, Trial
from properties.core.truth import FloatTruth
from properties.engine.spread import after_the_simplest, frames, seed_of, settings_of
from properties.engine.subject import Profile, Subject
from properties.guards.faults import HarnessError
from properties.guards.surroundings import drawn_alike, usual
from properties.laws.batches import TOGETHER, Together
from properties.strategies import Setting


@dataclass(frozen=True)
class Batch:
    """Cases of one law that share everything but their tokens.

    Attributes:
        whole: one case with the tokens of all.
        of: the case of each token, [tokens], from 0 on.
        cases: how many there are.
        how: how they are joined.
    """

    whole: Case
    of: Tensor
    cases: int
    how: Together

    @property
    def tokens(self) -> int:
        """Of all cases together."""
        return len(self.of)

    def alone(self, case: int) -> Case:
        """One of the cases, as the law would have drawn it."""
        return self.some([case]).whole

    def some(self, cases: Sequence[int]) -> Batch:
        """Some of the cases, in this order, numbered anew."""
        rows = [(self.of == case).nonzero().flatten() for case in cases]
        at = torch.cat(rows) if rows else self.of[:0]
        cut = {name: getattr(self.whole, name)[at].clone() for name in self.how.tokens}
        kept = {name: getattr(self.whole, name) for name in self.how.shared}
        numbers = [torch.full_like(one, k) for k, one in enumerate(rows)]
        return Batch(Case(**cut, **kept), torch.cat(numbers) if rows else at, len(rows), self.how)


def joined(law: Law, cases: Sequence[Case]) -> Batch:
    """Cases that have everything but their tokens in common, as one.

    Raises:
        ValueError: there is none, they differ in more than their tokens, or the law is not one of many cases.
    """
    if (how := TOGETHER.get(law.id)) is None:
        raise ValueError(f"{law.id} is judged case by case; those of many cases are {', '.join(TOGETHER)}")
    if not cases:
        raise ValueError(f"{law.id}: there is no case to join")
    first = cases[0]
    for one in cases:
        for name in how.tokens:
            ours, theirs = getattr(one, name), getattr(first, name)
            if ours.shape[1:] != theirs.shape[1:] or ours.dtype != theirs.dtype:
                raise ValueError(
                    f"{law.id}: a {name} {list(ours.shape)} in {ours.dtype} cannot be joined to one "
                    f"{list(theirs.shape)} in {theirs.dtype}; they differ in more than the number of tokens"
                )
        for name in how.shared:
            if not _alike(getattr(one, name), getattr(first, name)):
                raise ValueError(f"{law.id}: two cases have different {name}, which all cases of one pass share")
    tokens = {name: torch.cat([getattr(one, name) for one in cases]) for name in how.tokens}
    shared = {name: getattr(first, name) for name in how.shared}
    counts = torch.tensor([len(getattr(one, how.tokens[0])) for one in cases])
    of = torch.arange(len(cases)).repeat_interleave(counts)
    return Batch(Case(**tokens, **shared), of, len(cases), how)


def _alike(one: object, other: object) -> bool:
    """Whether two values of a case are the same, bit by bit."""
    if one is other:
        return True
    parts = [list[Tensor](), list[Tensor]()]
    forms = [repr(map_tensors(value, lambda t, k=k: (parts[k].append(t), t.new_zeros(()))[1])) for k, value in
             enumerate((one, other))]  # fmt: skip
    same = [a.shape == b.shape and torch.equal(a, b) for a, b in zip(*parts, strict=False)]
    return forms[0] == forms[1] and len(parts[0]) == len(parts[1]) and all(same)


def drawn(law: Law, subject: Subject, count: int, randomness: int) -> list[Case]:
    """So many cases, or a few less, by the law's own strategy, over the stream counts as in a run."""
    found: list[Case] = []

    def one(case: Case | None) -> None:
        if case is not None:
            found.append(case)

    profile = Profile(count, derandomise=True, shrink=False)
    for index, (frame, examples) in enumerate(frames(subject.setting(law), count, law.schedule)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NonInteractiveExampleWarning)
            cases = law.draw(frame).map(frame.stored)
            cases = after_the_simplest(cases, skip=True) if index else cases
            test = settings_of(profile, examples + bool(index), law, subject, frame)(given(cases)(one))
        with drawn_alike():
            seed(seed_of(law, subject, index, randomness))(test)()
    return found


def widened(law: Law, setting: Setting, case: Case, tokens: int, dice: random.Random) -> Batch:
    """A case that the law drew, and beside it as many cases of one token each as make so many tokens, or as a call
    takes, in all."""
    how = TOGETHER[law.id]
    first = {name: getattr(case, name) for name in how.tokens}
    begun = len(first[how.tokens[0]])
    count = max(0, min(tokens, setting.max_tokens) - begun)
    of = torch.zeros(begun, dtype=torch.long)
    if count:
        more = how.more(dice, setting, case, count)
        first = {name: torch.cat([first[name], more[name]]) for name in how.tokens}
        of = torch.cat([of, torch.arange(1, count + 1)])
    return Batch(Case(**first, **{name: getattr(case, name) for name in how.shared}), of, 1 + count, how)


@usual()
def judged(law: Law, subject: Subject, batch: Batch) -> BatchTrial:
    """The law at all cases in one pass; the bench afterwards, with a ratio for each.

    Raises:
        LawBroken: the call as a whole broke: an exception, a wrong shape, a fact that does not hold.
    """
    here = torch.device(subject.device)
    rows = Rows(batch.of.to(here), batch.cases, here)
    dialect = subject.implementation.dialect
    trial = BatchTrial(subject.implementation, subject.dtype, here, FloatTruth(dialect), rows=rows)
    with together(rows), example():
        law.judge(trial, batch.whole)
    return trial


@usual()
def reheard(law: Law, subject: Subject, case: Case, tape: list[Answer]) -> Trial:
    """The law's own verdict, by itself, on what was answered to a case among many.

    Raises:
        LawBroken: it is broken there, and where it takes the truth mpmath agrees.
        HarnessError: the float64 reference says broken and mpmath says it is not.
    """
    dialect = subject.implementation.dialect
    trial = Reheard(subject.implementation, subject.dtype, subject.device, FloatTruth(dialect), tape)
    try:
        with example():
            law.judge(trial, case)
        return trial
    except ContractBroken:
        raise
    except LawBroken as broken:
        exact = Reheard(trial.implementation, trial.dtype, trial.device, trial.confirming().truth, tape)
        law.judge(exact, case)
        raise HarnessError(
            f"{law.id} on {subject.id}: of a case among others the float64 reference reports a ratio of "
            f"{broken.ratio:.3g} ({broken.what}), mpmath {exact.worst:.3g}: the reference or the bound is at fault, "
            f"not the implementation. Case: {case!r}"
        ) from broken
