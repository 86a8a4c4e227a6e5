"""What the examples of a search have come to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from properties.core.picture import add_nearness
from properties.core.trial import Trial


@dataclass
class Tally:
    """The examples of one search: how many there were, what was claimed of them, and how near they came.

    Attributes:
        worst: the largest ratio of an error to its bound that held.
        claims, abstentions: how often a bound said something, and how often it said nothing.
        stages: both of these, by stage.
        nearness: how many ratios fell into each bin, by stage (see `properties.core.picture`).
    """

    examples: int = 0
    worst: float = 0.0
    claims: int = 0
    abstentions: int = 0
    stages: dict[str, tuple[int, int]] = field(default_factory=lambda: {})
    nearness: dict[str, dict[int, int]] = field(default_factory=lambda: {})

    def add(self, trial: Trial) -> None:
        """One example at which the law held."""
        self.worst = max(self.worst, trial.worst)
        self.claims += trial.claims
        self.abstentions += trial.abstentions
        add_nearness(self.nearness, trial.nearness.items())
        for stage, (claims, abstentions) in trial.stages.items():
            before = self.stages.get(stage, (0, 0))
            self.stages[stage] = before[0] + claims, before[1] + abstentions

    def counts(self) -> dict[str, Any]:
        """What a verdict says of these examples, by its fields."""
        return {
            "claims": self.claims,
            "abstentions": self.abstentions,
            "stages": tuple(self.stages.items()),
            "nearness": self.nearness,
        }
