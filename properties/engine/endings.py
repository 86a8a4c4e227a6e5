"""What ends a search before all of it has been tried."""

from __future__ import annotations

from properties.core.trial import LawBroken


class Enough(BaseException):
    """A hang has been shrunk for long enough; through Hypothesis, which takes an `Exception` for a failure."""

    def __init__(self, broken: LawBroken) -> None:
        super().__init__()
        self.broken = broken


class Settled(BaseException):
    """A failure belongs to a known cause, and so do those at further examples; through Hypothesis, as above."""
