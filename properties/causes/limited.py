"""Which undeclared limit a failure comes from: the implementation refuses what it would not be asked if it declared it.

A failure is that of a limit where it is the same exception at the same place of the target's code (or a wrong form, as
there), and where the law, of an implementation that declares the limit, says nothing, draws no such case, or holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mhc_ref import Params
from mhc_ref.packing import logits_shape, streams_of_logits
from properties.core.case import Case, streams_of
from properties.core.declaration import TABLE, Declaration
from properties.core.implementation import METHODS, Implementation, overrides
from properties.core.law import Law
from properties.core.trial import LawBroken, NoRoom, TargetRaised
from properties.diagnosis.limits import Limit
from properties.diagnosis.probing import MANY, probed
from properties.diagnosis.view import Unanswered
from properties.engine.subject import Subject
from properties.guards.faults import HarnessError
from properties.guards.printable import name_of
from properties.guards.traces import place_of


def limit_of(law: Law, subject: Subject, case: Case, broken: LawBroken, limits: Sequence[Limit]) -> Limit | None:
    """The limit that a failure comes from; None where it comes from none of these.

    Where a case meets several of them, that one is told which the law is about.
    """
    where = ("", "")
    if isinstance(broken, TargetRaised):
        where = name_of(broken.raised), place_of(broken.raised)
    elif broken.kind != "contract":
        return None
    alike = [one for one in limits if (one.error, one.place) == where and one.attribute]
    narrow = [(one, Declaring(subject.implementation, one)) for one in alike]
    asked = [(one, made) for one, made in narrow if law.inapplicable(made, subject.dtype, subject.device) is None]
    silent = [one for one, _ in narrow if all(one is not other for other, _ in asked)]
    outside = (one for one, _ in asked if _outside(one, case, subject))
    holding = (one for one, made in asked if _holds(law, replace(subject, implementation=made), case))
    return next(iter(silent), None) or next(outside, None) or next(holding, None)


def limits_at(subject: Subject, case: Case) -> tuple[Limit, ...]:
    """The limits of an implementation, those among them of as many tokens as a case has."""
    many = max([MANY, *(tokens for tokens, _ in _sizes(case, subject))])
    dtype = torch.float16 if subject.dtype == torch.float16 else None
    try:
        return probed(subject.implementation, dtype=dtype, device=subject.device.type, many=many)
    except (Unanswered, HarnessError):  # the failure is told without them
        return ()


class Declaring(Implementation):
    """The same implementation, declaring a limit."""

    def __init__(self, implementation: Implementation, limit: Limit) -> None:
        changed = {limit.attribute: TABLE[limit.attribute].taken(limit.value)}
        declared = Declaration.of(implementation).with_(**changed)
        vars(self).update({name: getattr(declared, name) for name in TABLE})
        methods = [method for method in METHODS if overrides(implementation, method)]
        vars(self).update({method: getattr(implementation, method) for method in (*methods, "tuned")})


def _outside(limit: Limit, case: Case, subject: Subject) -> bool:
    """Whether no such case is drawn of an implementation that declares the limit."""
    value = TABLE[limit.attribute].taken(limit.value)
    if limit.attribute == "dtypes":
        return subject.dtype not in value
    if limit.attribute == "streams":
        n = streams_of(case, subject.implementation.dialect)
        return n is not None and n not in value
    if limit.attribute == "norm_weight":
        return any(one.norm_weight is not None for one in _parameters(case))
    sizes = list(_sizes(case, subject))
    if limit.attribute == "channel_multiple":
        return any(channels % value for _, channels in sizes)
    if limit.attribute == "max_tokens":
        return any(tokens > value for tokens, _ in sizes)
    return limit.attribute == "zero_tokens" and any(tokens == 0 for tokens, _ in sizes)


def _parameters(case: Case) -> Iterator[Params]:
    for _, value in case.items():
        several: Sequence[Any] = value if isinstance(value, tuple) and not isinstance(value, Params) else (value,)
        yield from (one for one in several if isinstance(one, Params))


def _sizes(case: Case, subject: Subject) -> Iterator[tuple[int, int]]:
    """Tokens and channels of what a case has of them."""
    values = dict(case.items())
    if isinstance(count := values.get("count"), int):  # the tokens of the case over and over
        yield count, 0
    for name, axes in (("x", 2), ("h", 1)):
        if isinstance(one := values.get(name), Tensor) and one.ndim >= axes:
            yield math.prod(one.shape[: one.ndim - axes]), one.shape[-1]
    if isinstance(logits := values.get("logits"), Tensor) and logits.ndim:
        dialect = subject.implementation.dialect
        axes = len(logits_shape(streams_of_logits(logits.shape, dialect), dialect))
        yield math.prod(logits.shape[: logits.ndim - axes]), 0


def _holds(law: Law, subject: Subject, case: Case) -> bool:
    try:
        law.judge(subject.trial(law, case), case)
    except (LawBroken, HarnessError, NoRoom):  # what the law cannot judge here is no argument for it
        return False
    return True
