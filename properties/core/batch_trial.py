"""Many cases of one law on one bench: one call, one truth, one bound, and a verdict for each case.

A law is written once, for the tokens of a case; it judges those of hundreds here, since tokens are independent. Nothing
is raised for a number that is off: the largest ratio of each case is kept where the implementation computes, and only
the cases that may have failed come back, for the law to judge them one by one. What breaks a call as a whole (an
exception, a wrong shape) is raised as ever.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mhc_ref import Mappings
from properties.core.judging import Against, FailureKind
from properties.core.observer import Seen
from properties.core.rounding import Approx
from properties.core.rows import Rows
from properties.core.trial import Answer, Trial
from properties.guards.faults import HarnessError
from properties.guards.interruption import checkpoint

NEAR = 1 - 1e-6
"""A ratio up to which a case holds for certain: a pass over many cases adds up its float64 numbers in another order."""
HALF = 0.5
"""The same where mpmath is the judge of float64, whom the float64 reference stands in for. Its own error is within half
of the bound, which at twice the unit roundoff is at least twice what it is at one (`properties.bounds`); so a ratio of
1/2 against the reference is one of 1 at most against the exact value."""


@dataclass
class BatchTrial(Trial):
    """The bench on which many cases are tried at once; its law must be run within `properties.core.rows.together`.

    Attributes:
        rows: the case of each token.
        ratios: the largest error / bound of each case, [cases] in float64, where the implementation computes.
        said, unsaid: of how many numbers of each case something was claimed, and of how many nothing was.
        limit: the ratio up to which a case holds for certain; what is above it the law judges again, by itself.
    """

    rows: Rows = field(kw_only=True)
    limit: float = NEAR
    ratios: Tensor = field(init=False)
    said: Tensor = field(init=False)
    unsaid: Tensor = field(init=False)

    def __post_init__(self) -> None:
        none = torch.zeros(self.rows.cases, dtype=torch.float64, device=self.rows.place)
        self.ratios, self.said, self.unsaid = none, none.clone(), none.clone()

    def judge_exactly(self) -> None:
        """float64 is judged by the float64 reference, within half of the bound."""
        if self.dtype == torch.float64:
            self.limit = HALF

    def clearly_within(self, got: Tensor, expected: Approx) -> bool:
        """Not here: each case has its own verdict."""
        return False

    @property
    def _stays(self) -> bool:
        return True

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
        """As `Judge._judge_numbers`, case by case. Where a bound, a gap or what an output is held to is unsound, the
        case is put to the law, which says whose fault that is."""
        checkpoint()
        if got.numel() == 0:
            return
        if got.shape[0] != len(self.rows.of):
            raise HarnessError(
                f"{what} has {got.shape[0]} tokens; the cases that are judged together have {len(self.rows.of)}. A law "
                "whose numbers do not follow its tokens cannot be judged for many cases at once"
            )
        claimed = bound.isfinite()
        sound = (bound >= 0) & ((gap >= 0) | ~claimed)
        if against != "other":
            sound &= exact.isfinite() | ~claimed
        beyond = (error - gap).clamp_min(0)
        ratio = torch.where(beyond == 0, 0.0, beyond / bound)
        fine = got.isfinite() & exact.isfinite() & ~ratio.isnan()
        ratio = torch.where(claimed, torch.where(fine, ratio, math.inf), 0.0)
        ratio = torch.where(sound, ratio, math.inf)
        self.ratios = torch.maximum(self.ratios, self.rows.most(_by_token(ratio).amax(1)))
        largest = torch.maximum(exact.abs(), got.abs()) if against == "limit" else exact.abs()
        sizes = self._sizes(largest).clamp_min(size)
        counted = claimed & ((bound + gap < sizes) | (sizes == 0))
        said = self.rows.total(_by_token(counted).sum(1).double())
        every = self.rows.total(torch.full_like(_by_token(ratio)[:, 0], got[0].numel()))
        self.said, self.unsaid = self.said + said, self.unsaid + every - said

    def _sizes(self, numbers: Tensor) -> Tensor:
        """How large the numbers of a token are, or where they have no other axis or the token is 0 those of its
        case."""
        finite = _by_token(torch.where(numbers.isfinite(), numbers, 0.0)).amax(1)
        of_case = self.rows.most(finite)[self.rows.of]
        each = of_case if numbers.ndim < 2 else torch.where(finite > 0, finite, of_case)
        return each.reshape(-1, *[1] * (numbers.ndim - 1))

    def suspects(self) -> list[int]:
        """The cases that may have failed."""
        return (self.ratios > self.limit).nonzero().flatten().cpu().tolist()

    def answers_to(self, cases: list[int]) -> list[Answer]:
        """What was answered to some of the cases."""
        wanted = torch.tensor(cases, device=self.rows.place)
        kept = (self.rows.of[:, None] == wanted).any(1)
        return [Answer(one.question, _tokens_of(one.value, kept)) for one in self.tape]


def _by_token(numbers: Tensor) -> Tensor:
    """[tokens, all others]."""
    return numbers.reshape(len(numbers), -1)


def _tokens_of(value: Any, kept: Tensor) -> Any:
    """Some tokens of an answer, on the CPU; a mapping that is not emitted has none."""
    if isinstance(value, Tensor):
        return value[kept].cpu() if value.numel() or len(value) == len(kept) else value.cpu()
    if isinstance(value, Seen):
        return Seen(_tokens_of(value.u, kept), _tokens_of(value.y, kept))
    if isinstance(value, Mappings):
        return Mappings(*(_tokens_of(part, kept) for part in value))
    parts = [_tokens_of(part, kept) for part in value]
    return parts if isinstance(value, list) else tuple(parts)


@dataclass
class Reheard(Trial):
    """The bench of one case with what was answered to it among many: the law's own verdict on those answers."""

    replaying: bool = True

    def _answered(self, question: str) -> Any:
        """The next answer, which was to the same method, of more tokens."""
        self._next += 1
        if self._next > len(self.tape):
            raise HarnessError(f"{question} was not asked while many cases were judged together")
        answer = self.tape[self._next - 1]
        if answer.question.partition("(")[0] != question.partition("(")[0]:
            raise HarnessError(f"{question} is asked in place of {answer.question}, which was for many cases together")
        return answer.value
