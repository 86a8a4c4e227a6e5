"""What a condition of a mutant is asked of, and what a witness needs for it to hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["sizes", "values", "modes", "history", "position", "chance"]
Variable = Literal["T", "C", "n", "K", "L"]


Event = tuple[str, torch.Size, bool]
"""One call: the stage, the shape of what it was given, and whether gradients were recorded."""
_BACKWARD = "backward"


@dataclass
class History:
    """What the calls before have left: of each stage how many there were, of which shapes, and in which mode.

    `log` has every event in order, where there is one.
    """

    calls: Counter[str] = field(default_factory=Counter[str])
    shapes: Counter[tuple[str, torch.Size]] = field(default_factory=Counter[tuple[str, torch.Size]])
    last: dict[str, tuple[torch.Size, bool]] = field(default_factory=dict[str, tuple[torch.Size, bool]])
    pulled: bool = False
    log: list[Event] | None = None

    def copy(self) -> History:
        """As it is now, without the log."""
        return History(Counter(self.calls), Counter(self.shapes), dict(self.last), self.pulled)

    def note(self, stage: str, shape: torch.Size, grad: bool) -> None:
        """One more call of a stage."""
        if self.log is not None:
            self.log.append((stage, shape, grad))
        if stage == _BACKWARD:
            self.pulled = True
            return
        self.calls[stage] += 1
        self.shapes[stage, shape] += 1
        self.last[stage] = shape, grad

    def after_backward(self, _: Tensor) -> None:
        """A hook of an output: a cotangent has come back to it."""
        if not self.pulled:
            self.note(_BACKWARD, torch.Size(), True)


@dataclass
class Moment:
    """A stage while it is computed.

    Attributes:
        stage: its name.
        given: what it was given: the state [..., n, C], or the logits of one mapping.
        state, phi: the state and the projection's weights, where the stage is one of a whole call.
        T, C, n, L, layer: tokens, channels (0 where no state is at hand), streams, depth, and which layer this is.
        history: of the calls before this one.
    """

    stage: str
    given: Tensor
    state: Tensor | None
    phi: Tensor | None
    weighted: bool
    T: int
    C: int
    n: int
    L: int
    layer: int
    history: History

    @property
    def K(self) -> int:  # noqa: N802
        """n C."""
        return self.n * self.C


@dataclass
class Wish:
    """What a witness needs: `values` change what the stage is given, `before` says whether earlier calls matter."""

    values: list[Callable[[Tensor], Tensor]] = field(default_factory=list[Callable[[Tensor], Tensor]])
    grad: bool | None = None
    inference: bool = False
    compiled: bool = False
    strided: int = 0
    axes: int = 1
    frozen: bool = False
    weighted: bool | None = None
    earlier: bool = False
    dtype: torch.dtype | None = None


@dataclass(frozen=True)
class Condition:
    """One condition; a mutant has one, or two of which both must hold."""

    kind: Kind
    sort: str
    text: str
    holds: Callable[[Moment], bool]
    wish: Callable[[Wish], None] = lambda wish: None
    variable: Variable | None = None
    """The one size that it is about, if so: `fits` says which values of it."""
    fits: Callable[[int], bool] | None = None

    @property
    def certain(self) -> bool:
        """Whether the same call always answers the same."""
        return self.kind != "chance"
