"""Cases of laws, joined as batches, for the tests of many cases in one pass."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mhc_ref import PAPER, Dialect
from properties.core.batch_trial import HALF, Reheard
from properties.core.case import Case
from properties.core.implementation import Implementation, Reference
from properties.core.law import Law, all_laws
from properties.core.rounding import example
from properties.core.trial import LawBroken
from properties.core.truth import FloatTruth
from properties.engine.batches import Batch, drawn, judged, reheard, widened
from properties.engine.batching import Tally, examine_many
from properties.engine.subject import Subject
from properties.laws.batches import TOGETHER

CPU = torch.device("cpu")
LAWS = {id: all_laws()[id] for id in TOGETHER}
ORACLES = tuple(id for id, law in LAWS.items() if law.kind == "oracle" and id != "manifold.other-axis-sums")


def subject_of(implementation: Implementation, dtype: torch.dtype = torch.float32, on: torch.device = CPU) -> Subject:
    return Subject("target", implementation, dtype, on)


@functools.cache
def batch_of(id: str, dialect: Dialect, dtype: torch.dtype, n: int, tokens: int, seed: int = 1) -> Batch:
    """A case of the law with n streams, and further ones."""
    ours = Reference(dialect)
    ours.streams = (n,)
    subject, law = subject_of(ours, dtype), LAWS[id]
    case = drawn(law, subject, 4, seed)[-1]
    return widened(law, subject.setting(law), case, tokens, random.Random(seed))


def fails(law: Law, subject: Subject, case: Case) -> bool:
    """Whether the law fails at one case, as it is found in a search: by the float64 reference, or by mpmath."""
    try:
        with example():
            law.judge(subject.trial(), case)
    except LawBroken:
        return True
    return False


def suspected(law: Law, subject: Subject, batch: Batch) -> tuple[list[bool], Any]:
    """Whether each case is suspected in a pass; all are where the call breaks."""
    try:
        trial = judged(law, subject, batch)
    except LawBroken:
        return [True] * batch.cases, None
    ratios = trial.ratios.tolist()
    return [ratio > trial.limit for ratio in ratios], trial


def compared(
    implementation: Implementation, dtype: torch.dtype, ids: tuple[str, ...], tokens: int, right: bool = False
) -> Iterator[str]:
    """Put cases of every law before it together and one by one; whoever answers otherwise in a batch is yielded.

    Where the two verdicts differ, the law by itself must agree with the pass on what was answered there, and so it must
    on the first case; of what is `right` no case may be suspected.
    """
    for id in ids:
        law, subject = LAWS[id], subject_of(implementation, dtype)
        if law.inapplicable(implementation, dtype, CPU) is not None:
            continue
        batch = batch_of(id, implementation.dialect, dtype, 3, tokens)
        suspects, trial = suspected(law, subject, batch)
        assert not (right and any(suspects)), (implementation.name, id)
        for k, suspect in enumerate(suspects):
            case = batch.alone(k)
            same = fails(law, subject, case) is suspect
            # from half of the bound on float64 is put to mpmath, which may well say that it holds
            near = trial is not None and dtype == torch.float64 and HALF < trial.ratios[k].item() <= 1
            if trial is not None and (k == 0 or not same):
                heard = verdict_on(law, subject, case, trial.answers_to([k]))
                assert heard is suspect or near, (implementation.name, id, k)
            if not (same or near):
                yield implementation.name.partition(":")[2]


def verdict_on(law: Law, subject: Subject, case: Case, tape: list[Any]) -> bool:
    """Whether the law, by itself, fails on what was answered to a case among others."""
    truth = FloatTruth(subject.implementation.dialect)
    try:
        with example():
            law.judge(Reheard(subject.implementation, subject.dtype, subject.device, truth, tape), case)
    except LawBroken:
        return True
    return False


def heard_alike(id: str, dialect: Dialect, on: torch.device, tokens: int) -> None:
    """What a device answers to many cases has there the ratios and claims that the law, on the CPU, finds of each."""
    ours = Reference(dialect)
    ours.devices = ("cpu", on.type)
    law, subject = LAWS[id], subject_of(ours, on=on)
    for n in (1, 4):
        batch = batch_of(id, dialect, torch.float32, n, tokens)
        trial = judged(law, subject, batch)
        assert not trial.suspects()
        assert trial.ratios.device.type == on.type
        ratios, said, unsaid = (one.cpu().tolist() for one in (trial.ratios, trial.said, trial.unsaid))
        facts = id == "block.agrees-with-oracle"  # that its branch was called once
        for k in (0, 1, batch.cases // 2, batch.cases - 1):
            heard = reheard(law, subject, batch.alone(k), trial.answers_to([k]))
            assert ratios[k] == pytest.approx(heard.worst, rel=1e-6, abs=1e-9)
            assert (said[k], unsaid[k]) == (heard.claims - facts, heard.abstentions)


class Touched(Reference):
    """The reference, but for what `touch` makes of a mixed state."""

    def __init__(self, touch: Callable[[Tensor, Tensor], Tensor], dialect: Dialect = PAPER) -> None:
        super().__init__(dialect)
        self.streams, self.touch = (2,), touch

    def post(self, x: Tensor, y: Tensor, h_post: Tensor, h_res: Tensor) -> Tensor:
        return self.touch(x, super().post(x, y, h_post, h_res))


POST = LAWS["mixing.post-is-the-declared-combination"]


def many(implementation: Implementation, where: Path, dtype: torch.dtype = torch.float32, **options: Any) -> Tally:
    chosen: dict[str, Any] = {"tokens": 800, "at_once": 400, **options}
    return examine_many(POST, subject_of(implementation, dtype), directory=where, **chosen)
