"""Whether a failure is one of calls that do not give the same again: they race, or remember earlier ones."""

from __future__ import annotations

import torch
from torch import Tensor

from properties.causes.agreement import numbers, tape_of
from properties.core.case import Case
from properties.core.implementation import Reference
from properties.core.law import Law
from properties.core.trial import LawBroken, TargetRaised, Trial
from properties.engine.subject import Subject

_ASKED = 6
"""How often the same is asked again, if the first two times differ."""
_SPREADS = 8.0
"""An answer that is off by so many times what it differs by from call to call is wrong by itself."""
_ROUNDINGS = 128.0
"""What is nearer than so many units in the last place of the largest number nearby may be rounding."""


def unrepeated(law: Law, subject: Subject, case: Case, broken: LawBroken) -> bool:
    """Whether the subject, asked the same again, answers otherwise, by as much as it is wrong."""
    given = broken.trial
    if isinstance(broken, TargetRaised) or not isinstance(given, Trial) or given.unanswered or not given.tape:
        return False
    count = len(given.tape)
    declared = _numbers(tape_of(law, Reference(subject.implementation.dialect), given, case, count), count)
    values = _numbers(given, count)
    worst = _apart(values, declared)
    spread = [0.0] * len(values)
    for asked in range(_ASKED):
        again = _apart(values, _numbers(tape_of(law, subject.implementation, given, case, count), count))
        if len(again) != len(values) or len(worst) != len(values):
            return False
        spread = [max(pair) for pair in zip(spread, again, strict=True)]
        if asked and not any(spread):
            return False
    rounding = [_ROUNDINGS * torch.finfo(subject.dtype).eps * _top(value) for value in values]
    told = list(zip(worst, spread, rounding, strict=True))
    off, each, _ = max(told, key=lambda one: one[0] / (one[2] or 1.0), default=(1.0, 0.0, 0.0))
    if off > _SPREADS * each:
        return False  # what is most wrong is not what changes
    return all(off <= _SPREADS * each + own for off, each, own in told)


def _numbers(tape: Trial | None, count: int) -> list[Tensor]:
    return [] if tape is None else numbers(tape, count)


def _apart(one: list[Tensor], other: list[Tensor]) -> list[float]:
    """The largest difference of each; empty where they cannot be compared."""
    if [value.shape for value in one] != [value.shape for value in other]:
        return []
    return [_top(a - b) for a, b in zip(one, other, strict=True)]


def _top(difference: Tensor) -> float:
    return float(torch.nan_to_num(difference, 0, 0, 0).abs().max()) if difference.numel() else 0.0
