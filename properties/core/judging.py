"""Verdicts: an output, a limit or a fact within its bound, by the one number error / bound."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from properties.core.picture import Picture, bin_of
from properties.core.rounding import Approx
from properties.core.truth import wide
from properties.guards.faults import HarnessError
from properties.guards.interruption import checkpoint

_LOOSE = 0.1
"""Bounds of this part of what they bound say little."""

Numbers = np.ndarray[Any, np.dtype[np.float64]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]

Against = Literal["exact", "other", "limit", "wanted"]
"""What an output is held to, see `LawBroken`."""
FailureKind = Literal["value", "nan", "exception", "contract", "memory", "time", "randomness", "limit"]
"""What a failure is like, see `properties.core.kinds`."""


class LawBroken(AssertionError):
    """An observation outside its bound. `ratio` is error / bound; the rest is what a reader needs to see it.

    Attributes:
        got, exact: the number that the implementation gave, and the one that it is held to.
        against: what `exact` is: "exact" (the truth, or a closed form), "other" (another output of the implementation),
            "limit" (the most that it may be), or "wanted" (a fact).
        error, gap, bound: the distance of the two, how much of it is no rounding (0 but for a law about a limit), and
            the most that rounding can explain.
        kind: what it is like.
        trial: the bench on which it was found, with everything that was observed; None where nobody kept it.
        picture: the numbers around it; None where it is about no tensor.
    """

    kind: FailureKind
    trial: Judge | None = None
    picture: Picture | None = None

    def __init__(
        self,
        what: str,
        *,
        ratio: float,
        got: str = "",
        exact: str = "",
        error: float = math.nan,
        bound: float = math.nan,
        where: str = "",
        gap: float = 0.0,
        against: Against = "exact",
        kind: FailureKind = "value",
    ) -> None:
        super().__init__(what)
        self.what, self.ratio, self.got, self.exact = what, ratio, got, exact
        self.error, self.bound, self.where = error, bound, where
        self.gap, self.against, self.kind = gap, against, kind


class ContractBroken(LawBroken):
    """The wrong shape, dtype, device, or no tensor at all: nothing that a bound or the truth could excuse."""

    def __init__(self, what: str, got: str = "", wanted: str = "") -> None:
        super().__init__(what, ratio=math.inf, got=got, exact=wanted, against="wanted", kind="contract")


def same_numbers(one: Tensor, other: Tensor) -> bool:
    """Equal in shape and number by number; NaN is equal to NaN, and to nothing else.

    -0 is 0, and a number is the same in every dtype: where an implementation promises the same bits, the sign of a zero
    and the payload of a NaN are not held against it. What differs here differs in its bits, too.
    """
    return one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all())


def magnitude(got: Tensor) -> Tensor:
    """|got| in float64, for a bound that an output itself enters: 0 where that is no finite number, which is claimed of
    it and so breaks a law by itself."""
    return wide(got).abs().nan_to_num(nan=0.0, posinf=0.0)


@dataclass(kw_only=True)
class Judge:
    """What is claimed of numbers and facts, and how near they come to their bounds.

    A bound as large as what it bounds claims nothing: no wrong answer of the right order would be refused. Such a
    number is judged all the same, which an infinity and a NaN do not pass, and counted among the abstentions. What a
    number's size is, entries of the same token say (`_size`), since one of them may cancel; `size` says it of numbers
    that have a scale of their own, as gates and h_res, which are of order 1 even where all of them are near 0.

    Attributes:
        worst: the largest ratio so far.
        claims: how many numbers and facts something was claimed of so far.
        abstentions: of how many numbers nothing was, their bound being infinite or as large as they are.
        stages: the claims and abstentions of numbers by what they are, with every number in its name as N.
        loose: of how many numbers the claims say little: their bounds sum to a tenth of what they bound, or more.
        nearness: how often what was judged came how near to its bound, see `properties.core.picture.bin_of`; the
            nearest number of a tensor stands for all of it.
    """

    worst: float = 0.0
    claims: int = 0
    abstentions: int = 0
    stages: dict[str, tuple[int, int]] = field(default_factory=lambda: {})
    loose: int = 0
    nearness: dict[str, dict[int, int]] = field(default_factory=lambda: {})

    def within(
        self, what: str, got: Tensor, exact: Tensor, bound: Tensor, gap: Tensor | None = None, size: float = 0.0
    ) -> None:
        """|got - exact| <= bound, entry by entry; where the bound is infinite nothing is claimed.

        `exact` is the truth's, or a closed form. Where a law is about a limit that its inputs only come close to, `gap`
        is the distance of the exact value from that limit, at most: it is no rounding, so that the error is allowed for
        it first, and the ratio is (|got - exact| - gap) / bound.

        Raises:
            LawBroken: somewhere the ratio is above 1, a claimed entry is not finite, or the shapes do not fit.
            HarnessError: a bound is negative or not a number, or a claimed entry of `exact` is not finite.
        """
        got, exact, bound, gap = self._aligned(what, got, exact, bound, torch.zeros(()) if gap is None else gap)
        self._judge(what, got, exact, (got - exact).abs(), bound, gap, "exact", size=size)

    def clearly_within(self, got: Tensor, expected: Approx) -> bool:
        """`within` in a few passes, for many numbers: whether every bound is positive and finite, below the size
        of its token, and met.

        Where it is not so nothing is counted, and `within` has the last word.
        """
        exact = expected.value
        if got.numel() != exact.numel():
            return False
        if not got.numel():
            return True
        errors, sizes = expected.sums
        if not math.isfinite(errors):
            return False  # of some numbers nothing may be claimed
        ratio = wide(got).reshape(exact.shape).sub(exact).abs_().div_(expected.error).max().item()
        if not ratio <= 1:
            return False
        self.worst = max(self.worst, ratio)
        self._noted("", ratio)
        self.loose += exact.numel() * (errors > _LOOSE * sizes)
        self.claims += exact.numel()
        return True

    def near(
        self,
        what: str,
        got: Tensor,
        other: Tensor,
        bound: Tensor,
        kind: FailureKind | None = None,
        size: float = 0.0,
    ) -> None:
        """|got - other| <= bound, where `other` is made of further outputs of the implementation.

        `kind`: what a difference is a sign of, where it is not the values as such.

        Raises:
            LawBroken: as for `within`, and where the other one is not finite.
            HarnessError: a bound is negative or not a number.
        """
        got, other, bound = self._aligned(what, got, other, bound)
        self._judge(what, got, other, (got - other).abs(), bound, torch.zeros_like(bound), "other", kind, size)

    def at_most(self, what: str, got: Tensor, limit: Tensor, slack: Tensor, size: float = 0.0) -> None:
        """got <= limit, with `slack` for what rounding explains; ratio = excess / slack.

        Raises:
            LawBroken, HarnessError: as for `within`.
        """
        got, limit, slack = self._aligned(what, got, limit, slack)
        self._judge(what, got, limit, (got - limit).clamp_min(0), slack, torch.zeros_like(slack), "limit", size=size)

    def holds(self, what: str, condition: bool, got: str = "", expected: str = "", kind: FailureKind = "value") -> None:
        """A fact without a tolerance; `kind`: what it is a sign of if it is none."""
        self.claims += 1
        if not condition:
            self.worst = math.inf
            raise LawBroken(what, ratio=math.inf, got=got, exact=expected, against="wanted", kind=kind)

    def contract(self, what: str, condition: bool, got: str = "", expected: str = "") -> None:
        """A fact that needs no truth: a shape, the number of calls.

        Raises:
            ContractBroken: it is not so.
        """
        self.claims += 1
        if not condition:
            self.worst = math.inf
            raise ContractBroken(what, got, expected)

    def _counted(self, what: str, said: int, unsaid: int) -> str:
        """The name of what was judged, with N for every number in it."""
        self.claims += said
        self.abstentions += unsaid
        stage = _NUMBER.sub("N", what)
        before = self.stages.get(stage, (0, 0))
        self.stages[stage] = (before[0] + said, before[1] + unsaid)
        return stage

    def _noted(self, stage: str, ratio: float) -> None:
        bins = self.nearness.setdefault(stage, {})
        at = bin_of(ratio)
        bins[at] = bins.get(at, 0) + 1

    def _aligned(self, what: str, got: Tensor, exact: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        """All of them in float64, on the CPU, in one shape, which is that of `got`."""
        try:
            *rest, shape = torch.broadcast_tensors(*(wide(one) for one in (exact, *others)), wide(got))
        except RuntimeError:  # one output, or two alike, may have the wrong shape
            rest = []
            shape = next(one for one in (wide(exact), *others) if one.ndim and one.shape != got.shape)
        if shape.shape != got.shape:
            raise ContractBroken(f"{what} has shape {tuple(got.shape)}; expected {tuple(shape.shape)}")
        return (wide(got), *rest)

    def _judge(
        self,
        what: str,
        got: Tensor,
        exact: Tensor,
        error: Tensor,
        bound: Tensor,
        gap: Tensor,
        against: Against,
        kind: FailureKind | None = None,
        size: float = 0.0,
    ) -> None:
        checkpoint()
        if got.numel() == 0:
            return
        numbers = got.numpy(), exact.numpy(), error.numpy(), bound.numpy(), gap.numpy()
        self._judge_numbers(what, *numbers, against, kind, size)

    def _judge_numbers(
        self,
        what: str,
        got: Numbers,
        exact: Numbers,
        error: Numbers,
        bound: Numbers,
        gap: Numbers,
        against: Against,
        kind: FailureKind | None,
        size: float,
    ) -> None:
        """Of so few numbers as a rule that a call of torch costs three of numpy."""
        claimed = np.isfinite(bound)
        _sound(f"the bound of {what}", bound, bound >= 0)  # which a NaN is not
        _sound(f"the gap of {what}", gap, (gap >= 0) | ~claimed)
        if against != "other":
            _sound(f"what {what} is held to", exact, np.isfinite(exact) | ~claimed)
        largest = np.maximum(np.abs(exact), np.abs(got)) if against == "limit" else np.abs(exact)
        sizes = np.maximum(_size(largest), size)
        said = int(np.count_nonzero(claimed & ((bound + gap < sizes) | (sizes == 0))))
        stage = self._counted(what, said, claimed.size - said)
        if against == "exact":
            self.loose += said * bool(bound[claimed].sum() > _LOOSE * np.abs(exact[claimed]).sum())
        with np.errstate(all="ignore"):
            beyond = np.maximum(error - gap, 0)
            ratio = np.where(beyond == 0, 0.0, beyond / bound)
        sound = np.isfinite(got) & np.isfinite(exact) & ~np.isnan(ratio)
        ratio = np.where(claimed, np.where(sound, ratio, math.inf), 0.0)
        worst = float(ratio.max())
        self.worst = max(self.worst, worst)
        if said:
            self._noted(stage, worst)
        if worst > 1:
            index = tuple(int(i) for i in np.unravel_index(ratio.argmax(), ratio.shape))
            finite = math.isfinite(got[index].item()) and math.isfinite(exact[index].item())
            broken = LawBroken(
                what,
                ratio=worst,
                got=f"{got[index].item():.12g}",
                exact=f"{exact[index].item():.12g}",
                error=error[index].item(),
                bound=bound[index].item(),
                where=f"[{', '.join(map(str, index))}]" if index else "",
                gap=gap[index].item(),
                against=against,
                kind=kind or ("value" if finite else "nan"),
            )
            broken.picture = Picture.of(index, got, exact, error, bound)
            raise broken


_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?!\w)")


def _size(numbers: Numbers) -> Numbers:
    """How large the numbers of a token are, along the first axis, or all of them where there is but one axis or the
    token is 0; only finite ones count."""
    finite = np.where(np.isfinite(numbers), numbers, 0.0)
    if finite.ndim < 2:
        return finite.max()
    each = finite.max(tuple(range(1, finite.ndim)), keepdims=True)
    return np.where(each > 0, each, each.max())


def _sound(what: str, values: Numbers, right: Flags) -> None:
    """Raise HarnessError for the first value that is not right: what outputs are held to is the harness's to get right.

    A bound that cannot be computed, 0 * inf among others, is infinite: nothing is claimed there.
    """
    if not bool(right.all()):
        index = tuple(int(i) for i in np.argwhere(~right)[0])
        raise HarnessError(
            f"{what} is {values[index].item():.6g} at {list(index)}. A bound and a gap are not negative (infinite "
            "where nothing is claimed), and where the bound is finite so is the number that an output is held to. The "
            "law, its bound or the truth is at fault here, not the implementation"
        )
