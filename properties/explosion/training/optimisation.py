"""AdamW and SGD for many runs at once: weights [R, P], a rate for each run."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from properties.explosion.training.setup import Setup

BETAS = (0.9, 0.95)
EPS = 1e-8
MOMENTUM = 0.9
_WARM = 10
"""Steps until a warm-up is over."""


class Optimiser:
    """The steps of a setup. Weight decay is decoupled and of all weights: p loses rate * decay * p a step."""

    def __init__(self, setup: Setup, rates: Tensor, weights: Tensor) -> None:
        self._setup, self._rates, self._taken = setup, rates.unsqueeze(-1), 0
        self._mean = torch.zeros_like(weights)
        self._square = torch.zeros_like(weights)

    def step(self, weights: Tensor, slopes: Tensor) -> Tensor:
        """The weights after one more step; slopes [R, P]."""
        setup = self._setup
        if setup.clip:
            slopes = slopes * (setup.clip / slopes.norm(dim=-1, keepdim=True)).clamp(max=1.0)
        rate = self._rates * factor(setup, self._taken)
        self._taken += 1
        weights = weights - rate * setup.weight_decay * weights if setup.weight_decay else weights
        if setup.optimizer == "sgd":
            self._mean = MOMENTUM * self._mean + slopes
            return weights - rate * self._mean
        first, second = BETAS
        self._mean = torch.lerp(self._mean, slopes, 1 - first)
        self._square = torch.lerp(self._square, slopes.square(), 1 - second)
        mean, square = self._mean / (1 - first**self._taken), self._square / (1 - second**self._taken)
        return weights - rate * mean / (square.sqrt() + EPS)

    def keep(self, runs: Tensor) -> None:
        """Go on with these runs alone."""
        self._rates, self._mean, self._square = self._rates[runs], self._mean[runs], self._square[runs]


def factor(setup: Setup, taken: int) -> float:
    """What the rate is multiplied by after so many steps."""
    if setup.schedule == "constant":
        return 1.0
    warm = min(1.0, (taken + 1) / _WARM)
    return warm if setup.schedule == "warmup" else warm * (1 + math.cos(math.pi * taken / setup.steps)) / 2
