"""Whether a failure is one of outputs that a later call overwrites: it is gone where each is copied at once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor

from mhc_ref import Mappings
from properties.causes.agreement import judged
from properties.core.case import Case
from properties.core.implementation import METHODS
from properties.core.law import Law
from properties.core.trial import LawBroken, TargetRaised, Trial
from properties.engine.subject import Subject


def overwritten(law: Law, subject: Subject, case: Case, broken: LawBroken) -> bool:
    """Whether the law fails again, and holds where every output is copied before the next call."""
    given = broken.trial
    if isinstance(broken, TargetRaised) or not isinstance(given, Trial) or broken.kind != "value":
        return False
    target = subject.implementation
    try:
        copying = copy.copy(target)
        for name in METHODS:
            setattr(copying, name, _copied(getattr(target, name)))
    except Exception:  # whatever the target's own code raises: it cannot be copied, and nothing is told of it
        return False

    def holds(implementation: Any) -> bool:
        trial = Trial(implementation, subject.dtype, subject.device, given.truth, varied=given.varied, axes=given.axes)
        return judged(law, trial, case) is None

    return holds(copying) and not holds(target)


def _copied(method: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *given, **named: _copy(method(*given, **named))


def _copy(answer: Any) -> Any:
    if isinstance(answer, Tensor):
        return answer.clone()
    if isinstance(answer, Mappings):
        return Mappings(*map(_copy, answer))
    return answer
