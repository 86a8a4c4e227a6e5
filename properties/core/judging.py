"""Verdicts: an output, a limit or a fact within its bound, by the one number error / bound."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from properties.core.truth import wide
from properties.guards.faults import HarnessError
from properties.guards.interruption import checkpoint

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
    """

    kind: FailureKind
    trial: Judge | None = None

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


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Equal in shape and entry by entry; NaN is equal to NaN, and to nothing else."""
    return one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all())


def magnitude(got: Tensor) -> Tensor:
    """|got| in float64, for a bound that an output itself enters: 0 where that is no finite number, which is claimed of
    it and so breaks a law by itself."""
    return wide(got).abs().nan_to_num(nan=0.0, posinf=0.0)


@dataclass(kw_only=True)
class Judge:
    """What is claimed of numbers and facts, and how near they come to their bounds.

    Attributes:
        worst: the largest ratio so far.
        claims: how many numbers and facts something was claimed of so far.
        abstentions: of how many numbers nothing was, their bound being infinite.
    """

    worst: float = 0.0
    claims: int = 0
    abstentions: int = 0

    def within(self, what: str, got: Tensor, exact: Tensor, bound: Tensor, gap: Tensor | None = None) -> None:
        """|got - exact| <= bound, entry by entry; where the bound is infinite nothing is claimed.

        `exact` is the truth's, or a closed form. Where a law is about a limit that its inputs only come close to, `gap`
        is the distance of the exact value from that limit, at most: it is no rounding, so that the error is allowed for
        it first, and the ratio is (|got - exact| - gap) / bound.

        Raises:
            LawBroken: somewhere the ratio is above 1, a claimed entry is not finite, or the shapes do not fit.
            HarnessError: a bound is negative or not a number, or a claimed entry of `exact` is not finite.
        """
        got, exact, bound, gap = self._aligned(what, got, exact, bound, torch.zeros(()) if gap is None else gap)
        self._judge(what, got, exact, (got - exact).abs(), bound, gap, "exact")

    def near(self, what: str, got: Tensor, other: Tensor, bound: Tensor, kind: FailureKind | None = None) -> None:
        """|got - other| <= bound, where `other` is made of further outputs of the implementation.

        `kind`: what a difference is a sign of, where it is not the values as such.

        Raises:
            LawBroken: as for `within`, and where the other one is not finite.
            HarnessError: a bound is negative or not a number.
        """
        got, other, bound = self._aligned(what, got, other, bound)
        self._judge(what, got, other, (got - other).abs(), bound, torch.zeros_like(bound), "other", kind)

    def at_most(self, what: str, got: Tensor, limit: Tensor, slack: Tensor) -> None:
        """got <= limit, with `slack` for what rounding explains; ratio = excess / slack.

        Raises:
            LawBroken, HarnessError: as for `within`.
        """
        got, limit, slack = self._aligned(what, got, limit, slack)
        self._judge(what, got, limit, (got - limit).clamp_min(0), slack, torch.zeros_like(slack), "limit")

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

    def _aligned(self, what: str, got: Tensor, exact: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        """All of them in float64, on the CPU, in one shape, which is that of `got`."""
        try:
            *rest, shape = torch.broadcast_tensors(*(wide(one) for one in (exact, *others)), wide(got))
        except RuntimeError:  # of two outputs one may have the wrong shape
            rest, shape = [], wide(exact)
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
    ) -> None:
        checkpoint()
        if got.numel() == 0:
            return
        numbers = got.numpy(), exact.numpy(), error.numpy(), bound.numpy(), gap.numpy()
        self._judge_numbers(what, *numbers, against, kind)

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
    ) -> None:
        """Of so few numbers as a rule that a call of torch costs three of numpy."""
        claimed = np.isfinite(bound)
        _sound(f"the bound of {what}", bound, bound >= 0)  # which a NaN is not
        _sound(f"the gap of {what}", gap, (gap >= 0) | ~claimed)
        if against != "other":
            _sound(f"what {what} is held to", exact, np.isfinite(exact) | ~claimed)
        said = int(np.count_nonzero(claimed))
        self.claims += said
        self.abstentions += claimed.size - said
        with np.errstate(all="ignore"):
            beyond = np.maximum(error - gap, 0)
            ratio = np.where(beyond == 0, 0.0, beyond / bound)
        sound = np.isfinite(got) & np.isfinite(exact) & ~np.isnan(ratio)
        ratio = np.where(claimed, np.where(sound, ratio, math.inf), 0.0)
        worst = float(ratio.max())
        self.worst = max(self.worst, worst)
        if worst > 1:
            index = tuple(int(i) for i in np.unravel_index(ratio.argmax(), ratio.shape))
            finite = math.isfinite(got[index].item()) and math.isfinite(exact[index].item())
            raise LawBroken(
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
