"""The search for the input that makes a model grow most: random inputs, and an ascent from the best of them.

States climb by the gradient of the gain's logarithm. Token ids have none: at each place every id is tried, or a random
choice where there are many, the best is kept, and the places have their turn again until nothing changes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from properties.explosion.models.gains import Meter
from properties.explosion.searches.ascent import climbed
from properties.explosion.searches.hypothesise import Clock

RANDOM = 64
"""Random inputs: the median of their gains is what an answer calls typical."""
_CLIMBERS = 6
_STEPS = 40
_STEPS_AGAIN = 15
_KEPT = 16
_IDS = 256
"""Ids that are tried at a place."""
_ROUNDS = 4


@dataclass(frozen=True)
class Pool:
    """Inputs [N, T, ...] and their gains [N], the best first."""

    inputs: Tensor
    gains: Tensor

    @property
    def best(self) -> float:
        return self.gains[0].item()


def random_pool(meter: Meter, tokens: int, seed: int, kept: frozenset[int]) -> Pool:
    """Random inputs."""
    inputs = meter.runner.kind.random(RANDOM, tokens, torch.Generator().manual_seed(seed))
    return _sorted(inputs, meter(inputs, kept))


def searched(meter: Meter, decides: Meter, start: Pool, kept: frozenset[int], clock: Clock, seed: int) -> Pool:
    """What an ascent from the best of `start` finds, and the best of `start`.

    Args:
        meter: what climbs; where a dtype is searched for what it cannot hold, that is a wider one.
        decides: what judges.
    """
    best = start.inputs[:_CLIMBERS]
    first = len(start.inputs) >= RANDOM
    if meter.runner.kind.ids:
        found = _ids(meter, best[: 2 if first else 1], kept, clock, seed)
    else:
        found = _climbed(meter, best, kept, _STEPS if first else _STEPS_AGAIN, clock)
    inputs = torch.cat([found, start.inputs[:_KEPT]])
    pool = _sorted(inputs, decides(inputs, kept))
    return Pool(pool.inputs[:_KEPT], pool.gains[:_KEPT])


def _sorted(inputs: Tensor, gains: Tensor) -> Pool:
    order = gains.argsort(descending=True, stable=True)
    return Pool(inputs[order], gains[order])


def _climbed(meter: Meter, start: Tensor, kept: frozenset[int], steps: int, clock: Clock) -> Tensor:
    kind = meter.runner.kind

    def height(at: Tensor) -> Tensor:
        heights = [meter.height(kind.scaled(one), kept) for one in meter.runner.batches(at)]
        return torch.cat(heights).nan_to_num(0.0, 0.0, 0.0)

    def settled(at: Tensor) -> Tensor:
        # Where something is not finite its slope is not either; what began there is a start that explodes already.
        return torch.where(at.isfinite().flatten(1).all(1).view(-1, *[1] * (at.ndim - 1)), at, start)

    return kind.scaled(settled(climbed(height, start / kind.bound, steps, clock, meter.runner.slope)).detach())


def _ids(meter: Meter, start: Tensor, kept: frozenset[int], clock: Clock, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    vocabulary = meter.runner.kind.vocabulary
    found: list[Tensor] = []
    for one in start:
        best, gain = one, meter(one[None], kept).item()
        for _ in range(_ROUNDS):
            before = gain
            for place in range(len(best)):
                clock.tick()
                every = torch.arange(vocabulary)
                if vocabulary > _IDS:
                    every = torch.randint(vocabulary, (_IDS,), generator=generator)
                tried = best.expand(len(every), -1).clone()
                tried[:, place] = every
                gains = meter(tried, kept)
                if gains.max().item() > gain:
                    best, gain = tried[int(gains.argmax())], gains.max().item()
            if gain == before:
                break
        found.append(best)
    return torch.stack(found)
