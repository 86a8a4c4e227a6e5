"""What a healthy model is: a module in training, and what it learns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from properties.explosion.models.shipped import WIDTH, WORDS

TOKENS, BATCH = 24, 4


@dataclass
class Subject:
    """A model in training.

    Attributes:
        model: what is watched.
        step: one forward pass from a source of random numbers; returns the loss.
        options: of `Monitor`.
        rate: of AdamW.
        half: passes run in float16 by autocast, and the loss is scaled.
    """

    model: nn.Module
    step: Callable[[torch.Generator], Tensor]
    options: Mapping[str, Any] = field(default_factory=dict)
    rate: float = 1e-3
    half: bool = False


@dataclass(frozen=True)
class Healthy:
    """How a healthy model is made, and the package that it needs."""

    build: Callable[[], Subject]
    needs: str | None = None


def words_of(source: torch.Generator, more: int = 0) -> Tensor:
    """Sequences in which every word says which comes next, up to a tenth of them: something to learn."""
    first = torch.randint(WORDS, (BATCH, 1), generator=source)
    words = (first + 7 * torch.arange(TOKENS + more)) % WORDS
    noise = torch.randint(WORDS, words.shape, generator=source)
    return torch.where(torch.rand(words.shape, generator=source) < 0.1, noise, words)


def repeated(model: nn.Module) -> Callable[[torch.Generator], Tensor]:
    """A loss for models from states to states [B, T, C]: to give back what they were given, one token later."""

    def step(source: torch.Generator) -> Tensor:
        x = torch.randn(BATCH, TOKENS, WIDTH, generator=source)
        return functional.mse_loss(model(x), x.roll(1, 1))

    return step
