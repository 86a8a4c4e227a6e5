"""Whether a failure is that of an explaining implementation: it breaks the same law, and answers alike.

A failure belongs to an explanation when the reference with that explanation applied (a) breaks the law at the same
case, and (b) gives everything that the law observed, within its own bound. It is "shown" to belong where that
implementation is also further from the declared dialect than the two bounds together; otherwise the two cannot be told
apart here.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from mhc_ref import Params
from properties.core.case import Case
from properties.core.deviant import Deviant
from properties.core.implementation import Implementation, Reference
from properties.core.law import Law
from properties.core.noise import Noise
from properties.core.observer import Seen
from properties.core.rounding import PRODUCTS
from properties.core.trial import FloatTruth, LawBroken, NoRoom, TargetRaised, Trial
from properties.engine.subject import Subject
from properties.guards.faults import HarnessError
from properties.guards.printable import name_of

Belongs = Literal["shown", "not told apart"]

SAMPLES = 4
"""How often an explaining implementation is disturbed. The root mean square of four is below a quarter of the true one
in 7 of 1000 entries (chi-square of 4 degrees of freedom). There the bound is as wide as the true one, which in float32
and float64 is that of eight evaluations (`noise.FINE`)."""
SPREAD = 4.0
"""The bound in root mean squares of the disturbed answers, which are themselves several roundings wide (`noise`)."""
STORED = 4.0
"""And so many units of roundoff of the largest number of a tensor: a gate as (1 + tanh(z / 2)) / 2 is accurate
absolutely. In a short dtype, in which numbers are stored, so many of a number by itself as well."""
LOGARITHM = 64.0
"""In float32 and float64 so many, or twice the largest logit of the case: a formula in logarithms gives an entry as
exp(z - f - g), which is off by u (|z| + |f| + |g|), also an entry near 1, to which a quotient is not sensitive at
all."""
NEAR = 16.0
"""Answers that are as near as this, in units of roundoff of each number, are within the bound of any implementation
that takes a dozen steps: then its bound is not computed."""
ROUGH = 4096.0
"""What is further apart than so many units of roundoff of the largest number nearby is not looked at more closely."""
FAR = 100.0
"""A law that is broken by so many of the declared dialect's bounds leaves no doubt that the two are apart."""


class _Full(BaseException):
    """Everything that is to be compared has been observed; through code of laws, which takes an `Exception` for
    more."""


@dataclass
class _Observed(Trial):
    """A bench that ends, without a verdict, when so many answers are on the tape."""

    needed: int = 0
    noise: Noise | None = None

    def _observe(self, *asked: Any, **more: Any) -> Any:
        with self.noise or contextlib.nullcontext():
            result = super()._observe(*asked, **more)
        if len(self.tape) >= self.needed:
            raise _Full
        return result


def belongs(law: Law, subject: Subject, case: Case, broken: LawBroken, made: Deviant) -> Belongs | None:
    """Whether the failure of `subject` at `case` is that of `made`; None where it is not.

    Arguments:
        broken: with the trial at which the law was broken.
        made: the explaining implementation, which declares what the subject declares.
    """
    given = broken.trial
    if not isinstance(given, Trial):
        return None
    alike = like(made, subject.implementation)
    truth = FloatTruth(subject.implementation.dialect)
    other = Trial(alike, subject.dtype, subject.device, truth, axes=given.axes)
    also = judged(law, other, case)
    if given.unanswered or other.unanswered:
        return "shown" if _same_end(given, broken, other, also) and _same(given, other) else None
    if len(other.tape) < len(given.tape) and also is None:
        return None
    count = min(len(given.tape), len(other.tape))
    pairs = list(_pairs(given, other, count))
    if not pairs or any(not one.comparable for one in pairs):
        return None
    clear = broken.ratio >= FAR and also is not None and len(other.tape) == len(given.tape)
    near = all(_near(one) for one in pairs)
    if clear and near:
        return "shown"
    bounds = _bounds(law, alike, given, case, count, pairs)
    if any(_apart(one.given, one.other, bound) > 1 for one, bound in zip(pairs, bounds, strict=True)):
        lost = also is not None and also.kind == broken.kind == "nan"
        return "not told apart" if lost and all(map(_alike_but_lost, pairs, bounds)) else None
    if clear:
        return "shown"
    both = also is not None and len(other.tape) == len(given.tape)
    return _told(law, subject, given, case, count, pairs, bounds, both, near)


def resembles(law: Law, subject: Subject, case: Case, broken: LawBroken, made: Deviant) -> bool:
    """Whether it is worth the time to ask whether a failure is that of `made`: the answers are roughly alike."""
    given = broken.trial
    if not isinstance(given, Trial) or given.unanswered:
        return False
    other = tape_of(law, like(made, subject.implementation), given, case, len(given.tape))
    return other is not None and all(
        one.comparable and _apart(one.given, one.other, _roughly(one.other)) <= 1
        for one in _pairs(given, other, len(given.tape))
    )


def _roughly(value: Tensor) -> Tensor:
    """As much as rounding makes of a number by a few thousand operations, some of which cancel."""
    size = value.double().abs().nan_to_num(0, 0, 0)
    top = size.amax((-2, -1), keepdim=True) if value.ndim > 1 and value.numel() else size
    return _roundoff(value, 1.0) + (ROUGH * torch.finfo(value.dtype).eps if value.is_floating_point() else 0) * top


def like(made: Deviant, target: Implementation) -> Deviant:
    """The explaining implementation, declared as the target is."""
    for name in (
        "products",
        "mixing",
        "parameters",
        "short_stages",
        "emits",
        "streams",
        "dtypes",
        "norm_weight",
        "tunable",
    ):
        setattr(made, name, getattr(target, name))
    return made


def judged(law: Law, trial: Trial, case: Case) -> LawBroken | None:
    """How a law is broken; None where it holds, or cannot judge what it sees."""
    try:
        law.judge(trial, case)
    except LawBroken as broken:
        return broken
    except (HarnessError, NoRoom):
        return None
    return None


def _same_end(given: Trial, broken: LawBroken, other: Trial, also: LawBroken | None) -> bool:
    """Whether both failed to answer the same question, and in the same way."""
    if given.unanswered != other.unanswered or also is None or type(broken) is not type(also):
        return False
    if isinstance(broken, TargetRaised) and isinstance(also, TargetRaised):
        return name_of(broken.raised) == name_of(also.raised)
    return broken.what == also.what


def _same(given: Trial, other: Trial) -> bool:
    """Whether what was answered before is the same, as nearly as numbers can be."""
    return len(given.tape) == len(other.tape) and all(
        one.comparable and _near(one) for one in _pairs(given, other, len(given.tape))
    )


@dataclass(frozen=True)
class _Pair:
    """Two numbers or tensors that answer one question."""

    given: Tensor
    other: Tensor
    exact: bool = False
    comparable: bool = True


_NONE = torch.empty(0)


def _pairs(given: Trial, other: Trial, count: int) -> Iterator[_Pair]:
    for one, two in zip(given.tape[:count], other.tape[:count], strict=True):
        first, second = list(_flat(one.value)), list(_flat(two.value))
        if one.question != two.question or len(first) != len(second):
            yield _Pair(_NONE, _NONE, comparable=False)
            continue
        for a, b in zip(first, second, strict=True):
            if isinstance(a, Tensor) and isinstance(b, Tensor):
                yield _Pair(a, b, not a.is_floating_point(), a.shape == b.shape and a.dtype == b.dtype)
            elif isinstance(a, float) and isinstance(b, float):
                yield _Pair(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64))
            else:
                yield _Pair(_NONE, _NONE, True, bool(a == b))


def numbers(given: Trial, count: int) -> list[Tensor]:
    """Every number and tensor among so many answers, in float64."""
    flat = (one for each in given.tape[:count] for one in _flat(each.value))
    return [torch.as_tensor(one).double() for one in flat if isinstance(one, (Tensor, float))]


def _flat(value: Any) -> Iterator[Any]:
    """The tensors and numbers of an answer, in order."""
    if isinstance(value, Seen):
        yield value.u
        yield value.y
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from _flat(one)
    else:
        yield value


def _near(one: _Pair) -> bool:
    return _apart(one.given, one.other, _roundoff(one.other, NEAR)) <= 1


def _roundoff(value: Tensor, units: float) -> Tensor:
    """So many units of roundoff of every number, and what is lost below the normal ones."""
    if not value.is_floating_point():
        return torch.zeros(value.shape, dtype=torch.float64)
    info = torch.finfo(value.dtype)
    return units * (info.eps / 2 * value.double().abs().nan_to_num(0, 0, 0) + info.tiny)


def _apart(one: Tensor, other: Tensor, bound: Tensor) -> float:
    """The largest |one - other| / bound; infinite where only one of the two is finite, or they differ without a
    bound."""
    if not one.numel():
        return 0.0
    one, other = one.double(), other.double()
    same = (one == other) | (one.isnan() & other.isnan())
    ratio = torch.where(same, 0.0, (one - other).abs() / bound)
    return float(ratio.nan_to_num(nan=math.inf, posinf=math.inf).max())


def _alike_but_lost(one: _Pair, bound: Tensor) -> bool:
    """Whether two agree wherever the explaining implementation is finite: where it is not, another order of the same
    operations may give an infinity for its NaN, and whatever comes of that."""
    kept = one.other.isfinite()
    return _apart(one.given[kept], one.other[kept], bound[kept]) <= 1


def _bounds(
    law: Law, made: Implementation, given: Trial, case: Case, count: int, pairs: Sequence[_Pair]
) -> list[Tensor]:
    """What rounding can make of each answer of an explaining implementation."""
    squares = [torch.zeros(one.other.shape, dtype=torch.float64) for one in pairs]
    told = 0
    for seed in range(SAMPLES):
        moved = tape_of(law, made, given, case, count, Noise(seed, PRODUCTS[made.products]))
        values = [two for two in _pairs(moved, moved, min(count, len(moved.tape)))] if moved is not None else []
        if len(values) != len(pairs) or any(a.given.shape != b.other.shape for a, b in zip(values, pairs, strict=True)):
            continue
        told += 1
        for square, sample, one in zip(squares, values, pairs, strict=True):
            square += (sample.given.double() - one.other.double()).nan_to_num(0, 0, 0).square()
    short = STORED if given.implementation.mixing == "compute" else 4 * STORED
    fine = max(LOGARITHM, 2 * _largest_logit(case))

    def bound(square: Tensor, one: _Pair) -> Tensor:
        if one.exact:
            return torch.zeros_like(square)
        units = fine if one.other.dtype in (torch.float32, torch.float64) else short
        size = one.other.double().abs().nan_to_num(0, 0, 0)
        whole = STORED * torch.finfo(one.other.dtype).eps / 2 * (size.max() if size.numel() else 0.0)
        return SPREAD * (square / max(told, 1)).sqrt() + _roundoff(one.other, units) + whole

    return [bound(square, one) for square, one in zip(squares, pairs, strict=True)]


def _largest_logit(case: Case) -> float:
    """The largest of the logits of a case and of the biases in it; 1000 at most, beyond which all are alike."""
    found: list[Tensor] = []

    def keep(value: Any) -> None:
        if isinstance(value, Params):
            found.append(value.bias)
        elif isinstance(value, (tuple, list)):
            for one in value:
                keep(one)

    for name, value in case.items():
        keep(value)
        if name == "logits" and isinstance(value, Tensor):
            found.append(value)
    sizes = [float(one.double().abs().nan_to_num(0, 0, 0).max()) for one in found if one.numel()]
    return min(1000.0, max(sizes, default=0.0))


def tape_of(
    law: Law, made: Implementation, given: Trial, case: Case, count: int, noise: Noise | None = None
) -> Trial | None:
    """What a law observes of an implementation until so many answers are on the tape; None where it does not get
    there."""
    trial = _Observed(made, given.dtype, given.device, FloatTruth(given.dialect), varied=given.varied, axes=given.axes)
    trial.needed, trial.noise = count, noise
    try:
        law.judge(trial, case)
    except (_Full, LawBroken):
        pass
    except (HarnessError, NoRoom, RuntimeError):  # what no mode of dispatch can be put around
        return None
    return trial if len(trial.tape) >= count else None


def _told(
    law: Law,
    subject: Subject,
    given: Trial,
    case: Case,
    count: int,
    pairs: Sequence[_Pair],
    bounds: Sequence[Tensor],
    broken: bool,
    near: bool,
) -> Belongs | None:
    """Whether an implementation that answers alike is apart from the declared dialect at this case.

    Arguments:
        broken: whether it breaks the law as well.
        near: whether its answers are those of the subject but for a few last bits. Then it need not be apart from the
            dialect by all that a slip makes of rounding, as one does that itself rounds.
    """
    reference = Reference(subject.implementation.dialect)
    for name in ("products", "mixing", "parameters", "short_stages"):
        setattr(reference, name, getattr(subject.implementation, name))
    declared = tape_of(law, reference, given, case, count)
    if declared is None:
        return "shown" if broken else None
    there = list(_pairs(declared, declared, count))
    if len(there) != len(pairs) or any(a.given.shape != b.other.shape for a, b in zip(there, pairs, strict=True)):
        return "shown" if broken else None

    def differs(limits: Sequence[Tensor]) -> bool:
        three = zip(pairs, there, limits, strict=True)
        return any(_apart(one.other, two.given, limit) > 1 for one, two, limit in three)

    if broken:
        far = [_roundoff(one.other, 4 * NEAR) for one in pairs]
        return "shown" if differs([2 * one for one in bounds]) or (near and differs(far)) else "not told apart"
    return "not told apart" if differs([one / 8 for one in bounds]) else None
