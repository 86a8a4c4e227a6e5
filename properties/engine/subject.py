"""What is examined, how long, and what comes of it: the words of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from properties.core.case import Case
from properties.core.device import device_of
from properties.core.implementation import Implementation, for_states
from properties.core.law import Law
from properties.core.trial import FloatTruth, Trial
from properties.engine.sharing import Drawn
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
        sizes: a law that goes through sizes visits the covering set of this fineness.
        seconds: how long one of them may go on; 0 for no limit. It ends evenly, and says what it left out.
        crowds: in how many of the crowds (`properties.engine.spread`) each law is tried, by its name; None for all; one
            half for every second law in one.
        alone: with how many of the accepted numbers of streams each law is tried by themselves, by its name; None for
            all.
        shared: examples that other searches have found, tried before any other; with it a search notes its own for
            them (`Verdict.showing`), with None nothing. Without `examples` these are all that is tried.
    """

    examples: int
    derandomise: bool = False
    shrink: bool = True
    remember: bool = False
    thorough: bool = False
    sizes: int = 1
    seconds: float = 0.0
    crowds: float | None = None
    alone: int | None = None
    shared: tuple[Drawn, ...] | None = None


PROFILES = {
    "dev": Profile(examples=10, remember=True, sizes=4, seconds=5.0),
    "ci": Profile(examples=16, derandomise=True, sizes=3),
    "thorough": Profile(examples=1500, remember=True, thorough=True, sizes=5),
}


@dataclass(frozen=True)
class Subject:
    """One implementation in one dtype on one device, and how to name it again.

    Its dialect is what is declared for states of that dtype (`Dialect.at`).
    """

    target: str
    implementation: Implementation
    dtype: torch.dtype
    device: torch.device
    dialect_option: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "implementation", for_states(self.implementation, self.dtype))

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
        flood, pulls = device_of(self.device).flood, self.trial().differentiable
        beside = {"name": "", "streams": accepted, "differentiable": pulls}
        return Setting.of(self.implementation, **beside, dtype=self.dtype, flood=flood)

    def trial(self, law: Law | None = None, case: Case | None = None) -> Trial:
        """A fresh bench, on which tokens are arranged as a case says.

        float64 outputs are judged by mpmath where a law asks for values, see `Law.judge`.

        The calls of a law take turns in whether torch records gradients where each of its outputs is judged by itself.
        Those of other laws are compared with one another, to the last bit perhaps, which a second kernel need not give.
        """
        truth, varied = FloatTruth(self.implementation.dialect), law is not None and law.kind in ("oracle", "invariant")
        axes = case.axes if case is not None and "axes" in case else ""
        return Trial(self.implementation, self.dtype, self.device, truth, varied=varied, axes=axes)


@dataclass(frozen=True)
class Verdict:
    """What came of one law on one subject.

    `worst_ratio` is the largest error / bound seen; `claims` counts the numbers and facts that something was claimed
    of, `abstentions` the numbers whose bound was infinite or as large as what it bounds, over all examples that
    held.
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
    stages: tuple[tuple[str, tuple[int, int]], ...] = ()
    """The claims and abstentions of numbers by what they are, see `properties.core.judging.Judge`."""
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
    sizes: str = ""
    """Which sizes were visited, and which were not, by a law that goes through them."""
    visited: dict[str, list[list[int]]] = field(default_factory=lambda: {})
    """Of such a law, along each axis: [size, how many points of it were visited, how many of them failed]."""
    nearness: dict[str, dict[int, int]] = field(default_factory=lambda: {})
    """How near what was judged came to its bounds, see `properties.core.judging.Judge`."""
    showing: dict[str, Drawn] = field(default_factory=lambda: {})
    """By what was seen (`properties.core.picture.behaviours`, "failed at first", "failed") an example that shows it."""
    failure: dict[str, Any] | None = None
    """The failure as it is drawn, see `properties.engine.picturing`."""
