"""What is examined, how long, and what comes of it: the words of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from properties.core.case import Case
from properties.core.device import device_of
from properties.core.implementation import Implementation
from properties.core.law import Law
from properties.core.trial import FloatTruth, Trial
from properties.report.cause import Cause
from properties.strategies import Setting

Status = Literal["passed", "failed", "known", "not-applicable", "error"]


@dataclass(frozen=True)
class Profile:
    """How long to search.

    Attributes:
        examples: examples a law, before its `cost`.
        derandomise: the same examples in every run.
        shrink: minimise what was found.
        remember: keep Hypothesis's own database of failing inputs.
        thorough: laws that take seconds an example are exercised on the CPU too.
    """

    examples: int
    derandomise: bool = False
    shrink: bool = True
    remember: bool = False
    thorough: bool = False


PROFILES = {
    "dev": Profile(examples=10, remember=True),
    "ci": Profile(examples=16, derandomise=True),
    "thorough": Profile(examples=1500, remember=True, thorough=True),
}


@dataclass(frozen=True)
class Subject:
    """One implementation in one dtype on one device, and how to name it again."""

    target: str
    implementation: Implementation
    dtype: torch.dtype
    device: torch.device
    dialect_option: str | None = None

    @property
    def dtype_name(self) -> str:
        """float64, float32, bfloat16, ..."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def id(self) -> str:
        """implementation-dtype-device, as in test ids."""
        return f"{self.implementation.name}-{self.dtype_name}-{self.device.type}"

    def setting(self, law: Law) -> Setting:
        """What the strategies of a law may draw for this subject."""
        accepted = tuple(n for n in self.implementation.streams if n >= law.least_streams)
        flood = device_of(self.device).flood
        return Setting.of(self.implementation, name="", streams=accepted, dtype=self.dtype, flood=flood)

    def trial(self) -> Trial:
        """A fresh bench. float64 outputs are judged by mpmath where a law asks for values, see `Law.judge`."""
        return Trial(self.implementation, self.dtype, self.device, FloatTruth(self.implementation.dialect))


@dataclass(frozen=True)
class Verdict:
    """What came of one law on one subject.

    `worst_ratio` is the largest error / bound seen; `claims` counts the numbers and facts that something was claimed
    of, `abstentions` the numbers whose bound was infinite, over all examples that held.
    """

    law: str
    subject: Subject
    status: Status
    reason: str = ""
    examples: int = 0
    worst_ratio: float = 0.0
    counterexample: Path | None = None
    message: str = ""
    executed_law: str = ""
    case: Case | None = None
    """The smallest failing input that was found."""
    claims: int = 0
    abstentions: int = 0
    readable: float | None = None
    """How hard the counterexample is to read, see `properties.engine.readable`; None where there is none."""
    example: tuple[str, ...] = ()
    """The counterexample in few lines."""
    unlocked_by: tuple[str, ...] = ()
    """Methods that are not offered, each of which alone would make the law apply."""
    causes: tuple[Cause, ...] = ()
    """What a failure belongs to."""
    belongs: tuple[str, ...] = ()
    """How that is known of each, see `properties.engine.attribution.Belonging`."""
