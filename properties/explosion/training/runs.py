"""Many training runs at once, batched by torch.func, in float64: equal seeds give equal runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from properties.explosion.searches.hunt import one_thread
from properties.explosion.training.data import tokens
from properties.explosion.training.decoder import forward
from properties.explosion.training.initialisations import initial
from properties.explosion.training.measures import measured
from properties.explosion.training.optimisation import Optimiser
from properties.explosion.training.setup import Setup


@dataclass(frozen=True)
class Runs:
    """What R runs showed; step k is the k-th pass, before its update.

    Attributes:
        gains: the largest so far [steps, R]; infinite where it was no number.
        losses: [steps, R], nats a token.
        weights: at the last step, before its update [R, P].
    """

    gains: Tensor
    losses: Tensor
    weights: Tensor

    def crossing(self, threshold: float) -> Tensor:
        """The step at which each run reached the threshold [R], from 1; 0 where it did not."""
        reached = self.gains >= threshold
        return torch.where(reached[-1], reached.long().argmax(0) + 1, 0)


def stepped(setup: Setup, gain: str) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
    """(weights [R, P], tokens [R, B, T + 1]) -> gradients [R, P], losses [R], gains [R]."""
    shifted = gain == "gradient"
    size = (setup.sequences, setup.tokens, setup.streams, setup.width)

    def loss(weights: Tensor, shifts: Any, given: Tensor) -> tuple[Tensor, Any]:
        passed = forward(setup, weights, given, shifts)
        return passed.loss, (passed.operators, passed.largest_logit)

    def one(weights: Tensor, given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if not shifted:
            alone: Any = torch.func.grad_and_value(loss, has_aux=True)
            slopes, (value, (operators, largest)) = alone(weights, None, given)
            return slopes, value, measured(operators, largest, gain, None)
        zeros = (weights.new_zeros(size), weights.new_zeros(size))
        both: Any = torch.func.grad_and_value(loss, argnums=(0, 1), has_aux=True)
        (slopes, at), (value, (operators, largest)) = both(weights, zeros, given)
        return slopes, value, measured(operators, largest, gain, at)

    return torch.func.vmap(one)


def train(
    setup: Setup,
    gain: str,
    rates: Sequence[float],
    seeds: Sequence[int],
    *,
    tick: Callable[[], None] = lambda: None,
    until: Callable[[Tensor], bool] | None = None,
    given: Tensor | None = None,
) -> Runs:
    """Train one decoder for each pair of a rate and a seed.

    Args:
        tick: called at every step; may raise.
        until: whether the gains so far [R] are enough; the runs then end at this step.
        given: the data [R, steps, B, T + 1], instead of what the seeds give; of the first steps, if it is shorter.
    """
    with one_thread():
        return _trained(setup, gain, rates, seeds, tick, until, given)


def _trained(
    setup: Setup,
    gain: str,
    rates: Sequence[float],
    seeds: Sequence[int],
    tick: Callable[[], None],
    until: Callable[[Tensor], bool] | None,
    given: Tensor | None,
) -> Runs:
    rate = torch.tensor(rates, dtype=torch.float64)
    weights = torch.stack([initial(setup, seed) for seed in seeds])
    data = torch.stack([tokens(setup, seed) for seed in seeds]) if given is None else given
    step, optimiser = stepped(setup, gain), Optimiser(setup, rate, weights)
    gains: list[Tensor] = []
    losses: list[Tensor] = []
    top = torch.zeros(len(seeds), dtype=torch.float64)
    for index in range(data.shape[1]):
        tick()
        slopes, value, now = step(weights, data[:, index])
        top = torch.maximum(top, now.nan_to_num(nan=torch.inf, posinf=torch.inf))
        gains.append(top)
        losses.append(value)
        if until is not None and until(top):
            break
        if index + 1 < data.shape[1]:
            weights = optimiser.step(weights, slopes)
    return Runs(torch.stack(gains), torch.stack(losses), weights)
