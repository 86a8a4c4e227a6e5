"""Deviations of carry: what is left beside a gate, the floor of it, and whose logit it is."""

from __future__ import annotations

import torch
from torch import Tensor

from mhc_ref import Dialect
from properties.core.deviant import through
from properties.core.slips import MUTATION, Slips
from properties.families.steps.carry import CarrySteps, carries

SLIPS = Slips()
dtype = SLIPS.step("dtype")
eps = SLIPS.step("eps")
gradient = SLIPS.step("gradient")
missing = SLIPS.step("missing-term")
orientation = SLIPS.step("orientation")
packing = SLIPS.step("packing")
scaling = SLIPS.dialect("scaling")
eps_of_floor = SLIPS.dialect("eps")


@missing("carry-of-a-highway", "highway networks, arXiv 1505.00387: a carry gate 1 - beta", carries)
class CarryOfAHighway(CarrySteps):
    """The stream keeps 1 - beta, so that the weights sum to 1, and not their squares."""

    def kept(self, over: Tensor) -> Tensor:
        return (-over).sigmoid().clamp(min=self.computed.floor**0.5)


@eps("carry-floor-missing", f"{MUTATION}: no clamp", carries)
class CarryFloorMissing(CarrySteps):
    """There is no floor, so that a stream can be lost; the gradient of the root of 0 is kept from 1 / 0."""

    def floored(self, square: Tensor) -> Tensor:
        return square.clamp(min=torch.finfo(square.dtype).tiny)


eps_of_floor(
    "carry-floor-higher",
    "The floor is ten times as high.",
    f"{MUTATION}: an eps of 1e-2",
    lambda d: d.with_(floor=min(10 * d.floor, 0.5)),
    carries,
)


def by_a_temperature(dialect: Dialect) -> bool:
    """Logits are divided by a number other than 1."""
    return carries(dialect) and dialect.temperature != 1


scaling(
    "carry-temperature-forgotten",
    "The logits are not divided by the temperature.",
    f"{MUTATION}: the gate is read as it is stored",
    lambda d: d.with_(temperature=1.0),
    by_a_temperature,
)


@orientation("carry-for-beta", f"{MUTATION}: the roles of alpha and beta exchanged", carries)
class CarryForBeta(CarrySteps):
    """The sign of the logit is lost, so that what a gate lets in is what the stream keeps."""

    def over(self, logits: Tensor) -> Tensor:
        return -super().over(logits)


@packing("carry-of-the-next-stream", f"{MUTATION}: a gate read one place off", carries)
class CarryOfTheNextStream(CarrySteps):
    """Every stream keeps the share of the next one."""

    def over(self, logits: Tensor) -> Tensor:
        return super().over(logits).roll(-1, -1)


@packing("carry-of-all-alike", f"{MUTATION}: one gate in place of one for each channel", carries)
class CarryOfAllAlike(CarrySteps):
    """All streams keep the share that the mean of their logits says."""

    def over(self, logits: Tensor) -> Tensor:
        over = super().over(logits)
        return over.mean(-1, keepdim=True).expand_as(over)


@gradient("carry-gate-detached", f"{MUTATION}: beta under no_grad where alpha is made of it", carries)
class CarryGateDetached(CarrySteps):
    """No gradient passes through 1 + beta."""

    def beta(self, over: Tensor) -> Tensor:
        return super().beta(over).detach()


@dtype("carry-in-bfloat16", f"{MUTATION}: the gate in the dtype of the state", carries)
class CarryInBfloat16(CarrySteps):
    """The square is rounded to bfloat16."""

    def square(self, over: Tensor) -> Tensor:
        return through(super().square(over), torch.bfloat16)
