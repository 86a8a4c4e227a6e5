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

_SPREADS = 8.0
"""An answer that is off by so many times what it differs by from call to call is wrong by itself."""


def unrepeated(law: Law, subject: Subject, case: Case, broken: LawBroken) -> bool:
    """Whether the subject, asked the same twice more, answers otherwise, by as much as it is wrong."""
    given = broken.trial
    if isinstance(broken, TargetRaised) or not isinstance(given, Trial) or given.unanswered or not given.tape:
        return False
    who = subject.implementation, subject.implementation, Reference(subject.implementation.dialect)
    tapes = [given, *(tape_of(law, one, given, case, len(given.tape)) for one in who)]
    values = [numbers(one, len(given.tape)) for one in tapes if one is not None]
    if len(values) < len(tapes) or any([v.shape for v in one] != [v.shape for v in values[0]] for one in values):
        return False
    first, second, third, declared = values
    worst = [_top(one - other) for one, other in zip(first, declared, strict=True)]
    spread = [max(_top(b - a), _top(c - a)) for a, b, c in zip(first, second, third, strict=True)]
    return any(spread) and all(off <= _SPREADS * each for off, each in zip(worst, spread, strict=True) if off > 0)


def _top(difference: Tensor) -> float:
    return float(torch.nan_to_num(difference, 0, 0, 0).abs().max()) if difference.numel() else 0.0
