"""What an input does to a model: by how much activations, the residual composite or gradients grow on the way.

    activation   the largest activation behind a block that is left, over the largest that entered the first one; where
                 none is left, what lies between them has grown it
    forward      the largest absolute row sum of A_L ... A_1 of a token: of the hyper-connections that are known
    gradient     the largest singular value of the Jacobian of what the last block returns by what entered the first:
                 the factor by which the length of a gradient may grow on its way back
    nonfinite    the largest activation over the largest number of the dtype; infinite where something is not finite

A block in front of a normalisation answers a small input as it does a large one, so that a ratio is unbounded near 0.
The denominator of `activation` is therefore at least what random inputs of the model bring to its first block.

The singular value is found by power iteration, of J by central differences and of J^T by backpropagation. It is a
lower bound, and nothing needs two derivatives.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from properties.explosion.float_gain import float_gain
from properties.explosion.models.running import Passed, Runner

GROWING = {
    "activation": "activations grow",
    "forward": "the residual mixing grows",
    "gradient": "gradients grow",
    "nonfinite": "activations reach",
}
_TURNS, _TURNS_ON_THE_WAY = 8, 2
"""Of the power iteration: for a measured gain, and at each step of an ascent."""


def grown(gain: str, dtype: str, value: float, typical: float) -> str:
    """A gain in words, with what random inputs give beside it."""

    def measured(one: float) -> str:
        return f"{short(one)} of the largest number of {dtype}" if gain == "nonfinite" else short(one)

    beside = "random inputs do so too" if math.isinf(typical) else f"random inputs {measured(typical)}"
    if math.isinf(value):
        return f"{GROWING[gain]}{'' if gain == 'nonfinite' else ' to'} what is not finite in {dtype}; {beside}"
    return f"{GROWING[gain]} {measured(value)}{'' if gain == 'nonfinite' else ' times'}; {beside}"


def short(value: float) -> str:
    """Two digits of a number: 5.6, 140, 1.4e3."""
    if not math.isfinite(value):
        return "not finite"
    return f"{value:.0f}" if 10 <= value < 1000 else f"{value:.2g}".replace("e+0", "e").replace("e-0", "e-")


class Meter:
    """The gains of inputs [N, T, ...] on a model of which the blocks `kept` are left."""

    def __init__(self, runner: Runner, gain: str, dtype: str, floor: float = 0.0) -> None:
        self.runner = runner
        self.gain = gain
        self.floor = floor
        self._largest = torch.finfo(getattr(torch, dtype)).max

    def __call__(self, inputs: Tensor, kept: frozenset[int]) -> Tensor:
        """[N] in float64; infinite where a number on the way is not finite."""
        found: list[Tensor] = []
        for batch in self.runner.batches(inputs):
            if self.gain == "gradient":
                stretched = self._stretched(batch, kept, _TURNS)[0]
            else:
                with torch.no_grad():
                    stretched = self._grown(self.runner.passed(batch, kept), kept)
            found.append(stretched.detach().double())
        gains = torch.cat(found)
        return torch.where(gains.isnan(), math.inf, gains)

    def height(self, inputs: Tensor, kept: frozenset[int]) -> Tensor:
        """The logarithms of the gains [N] of one batch, differentiable by the inputs."""
        if self.gain != "gradient":
            return self._grown(self.runner.passed(inputs, kept), kept).log()
        _, direction, back = self._stretched(inputs.detach(), kept, _TURNS_ON_THE_WAY)
        return _along(self._difference(inputs, kept, direction), back).log()

    def entering(self, inputs: Tensor) -> float:
        """The median over inputs of the largest activation that enters the first block."""
        sizes: list[Tensor] = []
        with torch.no_grad():
            for batch in self.runner.batches(inputs):
                sizes.append(_size(self.runner.passed(batch, self.runner.every).entered))
        return torch.cat(sizes).median().item()

    def sizes(self, inputs: Tensor, kept: frozenset[int]) -> list[float]:
        """The largest activation behind each block, the median over inputs."""
        found: list[Tensor] = []
        with torch.no_grad():
            for batch in self.runner.batches(inputs):
                found.append(torch.stack([_size(one) for one in self.runner.passed(batch, kept).states]))
        return torch.cat(found, 1).median(1).values.tolist()

    def _grown(self, passed: Passed, kept: frozenset[int]) -> Tensor:
        if self.gain == "forward":
            return _composed(passed, len(passed.entered))
        states = [one for k, one in enumerate(passed.states) if not kept or k in kept]
        largest = torch.stack([_size(one) for one in states]).amax(0)
        if self.gain == "nonfinite":
            return torch.where(largest.isfinite(), largest / self._largest, math.inf)
        return largest / _size(passed.entered).clamp_min(self.floor)

    def _stretched(self, inputs: Tensor, kept: frozenset[int], turns: int) -> tuple[Tensor, Tensor, Tensor]:
        """Singular values [N], and the directions [N, ...] of unit length that enter and leave."""
        with torch.no_grad():
            entered = self.runner.passed(inputs, kept).entered
        generator = torch.Generator().manual_seed(0)
        one = torch.randn(entered.shape[1:], generator=generator, dtype=torch.float64).to(entered.dtype)
        direction = _unit(one.expand_as(entered))
        stretched = torch.zeros(len(entered), dtype=entered.dtype)
        back = direction
        for turn in range(turns):
            with torch.no_grad():
                moved = self._difference(inputs, kept, direction)
            stretched = moved.flatten(1).norm(dim=1)
            back = _unit(moved)
            if turn < turns - 1:
                direction = _unit(self._pulled(inputs, kept, entered, back))
        return stretched, direction, back

    def _difference(self, inputs: Tensor, kept: frozenset[int], direction: Tensor) -> Tensor:
        """J direction, [N, ...]."""
        wide = direction.dtype == torch.float64
        size = direction.abs().flatten(1).amax(1).clamp_min(torch.finfo(direction.dtype).tiny)
        with torch.no_grad():
            entered = _size(self.runner.passed(inputs, kept).entered).clamp_min(1e-6)
        step = ((1e-5 if wide else 1e-2) * entered / size).view(-1, *[1] * (direction.ndim - 1)).to(direction.dtype)
        ahead, behind = (self.runner.passed(inputs, kept, sign * step * direction).left for sign in (1, -1))
        return (ahead - behind) / (2 * step.view(-1, *[1] * (ahead.ndim - 1)))

    def _pulled(self, inputs: Tensor, kept: frozenset[int], entered: Tensor, back: Tensor) -> Tensor:
        """J^T back, [N, ...]."""
        with torch.enable_grad():
            nudge = torch.zeros_like(entered, requires_grad=True)
            left = self.runner.passed(inputs, kept, nudge).left
            return self.runner.slope((left * back).sum(), nudge)


def _composed(passed: Passed, count: int) -> Tensor:
    """The gain [N] of A_L ... A_1; 1 where nothing is mixed, infinite where a factor is not finite."""
    if not passed.mixed:
        return torch.ones(count, dtype=torch.float64)
    product = passed.mixed[0].double()
    for one in passed.mixed[1:]:
        product = one.double() @ product
    finite = product.isfinite()
    found = float_gain(torch.where(finite, product, 0.0), "forward")  # whose norms do not take what is not finite
    found = found.flatten(1).amax(1) if product.ndim > 3 else found
    return torch.where(finite.flatten(1).all(1), found, math.inf)


def _size(state: Tensor) -> Tensor:
    """The largest activation of each input, [N] in float64; NaN where there is one."""
    return state.double().abs().flatten(1).amax(1)


def _unit(rows: Tensor) -> Tensor:
    length = rows.flatten(1).norm(dim=1).clamp_min(torch.finfo(rows.dtype).tiny)
    return rows / length.view(-1, *[1] * (rows.ndim - 1))


def _along(rows: Tensor, directions: Tensor) -> Tensor:
    return (rows * directions).flatten(1).sum(1).abs()
