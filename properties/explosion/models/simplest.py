"""The simplest values of an input that still reaches the threshold: few entries of -1 and 1, or small token ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from properties.explosion.models.inputs import Kind
from properties.explosion.searches.hypothesise import Clock

Gains = Callable[[Tensor], Tensor]
Enough = Callable[[Tensor], Tensor]

_FEW = 8
"""Entries that are put in one by one, before large entries are kept all at once."""
_PLACES = 128
"""Places at which an entry is tried."""
_DROPPED = 64
"""Entries that are taken out one by one."""
_SMALL = 256
"""Ids that are tried, the smallest first."""


def simplest(start: Tensor, kind: Kind, gains: Gains, enough: Enough, clock: Clock) -> Tensor:
    """An input like `start` [T, ...] as simple as was found, which reaches the threshold as `start` does.

    Args:
        gains: of inputs [N, T, ...].
        enough: of gains [N], whether they reach the threshold.
    """
    if kind.ids:
        return _ids(start, kind, gains, enough, clock)
    for found in _candidates(start, kind, gains, enough, clock):
        if bool(enough(gains(found[None])).item()):
            return _dropped(found, kind, gains, enough, clock)
    return start


def _candidates(start: Tensor, kind: Kind, gains: Gains, enough: Enough, clock: Clock) -> Iterator[Tensor]:
    """Ever less simple ones."""
    few = _grown(start, kind, gains, enough, clock)
    if few is not None:
        yield few
    flat = start.flatten()
    order = flat.abs().argsort(descending=True, stable=True)
    count = 1
    while count <= 2 * len(flat):
        signs = torch.zeros_like(flat)
        signs[order[:count]] = flat[order[:count]].sign()
        if bool(signs.any()):
            yield kind.bound * signs.view_as(start)
        count *= 2
    for places in (1, 2, 3):
        yield kind.bound * (start / kind.bound).round(decimals=places)


def _grown(start: Tensor, kind: Kind, gains: Gains, enough: Enough, clock: Clock) -> Tensor | None:
    """Entries put in one by one, at each step the one with which the gain is largest."""
    flat = torch.zeros_like(start).flatten()
    places = start.flatten().abs().argsort(descending=True, stable=True)[:_PLACES]
    for _ in range(min(_FEW, len(places))):
        clock.tick()
        free = places[flat[places] == 0]
        tried = flat.expand(2 * len(free), -1).clone()
        tried[torch.arange(len(free)), free] = kind.bound
        tried[torch.arange(len(free)) + len(free), free] = -kind.bound
        found = gains(tried.view(-1, *start.shape))
        flat = tried[int(found.argmax())]
        if bool(enough(found).any().item()):
            return flat.view_as(start)
    return None


def _dropped(start: Tensor, kind: Kind, gains: Gains, enough: Enough, clock: Clock) -> Tensor:
    """The same without the entries that are not needed, the largest being the bound as before."""
    found = start
    for place in start.flatten().abs().argsort(stable=True).tolist():
        if not found.flatten()[place] or int((found != 0).sum()) > _DROPPED or int((found != 0).sum()) == 1:
            continue
        clock.tick()
        less = found.flatten().clone()
        less[place] = 0
        less = less.view_as(found)
        if less.abs().max().item() == kind.bound and bool(enough(gains(less[None])).item()):
            found = less
    return found


def _ids(start: Tensor, kind: Kind, gains: Gains, enough: Enough, clock: Clock) -> Tensor:
    found = start
    for place in range(len(start)):
        clock.tick()
        count = min(int(found[place]), _SMALL)
        if not count:
            continue
        tried = found.expand(count, -1).clone()
        tried[:, place] = torch.arange(count)
        good = enough(gains(tried)).nonzero()
        if len(good):
            found = tried[int(good[0])]
    return found
