"""The fewest blocks with which an input still reaches the threshold: a block that is left out returns its input.

Sets are tried by size, the smallest first, while there are no more than `MOST` of them: of 8 blocks all sets are.
Beyond that delta debugging (Zeller and Hildebrandt, 2002) leaves a set of which no single block can be left out.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

Reached = Callable[[frozenset[int]], bool]

MOST = 256


def affordable(count: int) -> int:
    """The largest size such that all smaller sets and those of it are at most `MOST`."""
    size, tried = 0, 1
    while size < count and tried + math.comb(count, size + 1) <= MOST:
        size += 1
        tried += math.comb(count, size)
    return size


def fewest(count: int, reached: Reached) -> frozenset[int]:
    """The first set of blocks that reaches the threshold, by size and then by number; all of them do.

    The empty set is one: what lies between the blocks may grow by itself.
    """
    every = range(count)
    size = affordable(count)
    for some in itertools.chain.from_iterable(itertools.combinations(every, k) for k in range(size + 1)):
        if reached(frozenset(some)):
            return frozenset(some)
    return frozenset(every) if size >= count else _delta(list(every), reached)


def smaller(count: int, kept: frozenset[int], reached: Reached) -> frozenset[int] | None:
    """A smaller set that reaches the threshold, where all sets of a size below can be tried; None where there is none.

    Beyond that a set with one block less.
    """
    least = min(len(kept) - 1, affordable(count))
    for size in range(least + 1):
        for some in itertools.combinations(range(count), size):
            if reached(frozenset(some)):
                return frozenset(some)
    if proves(count, kept):
        return None
    return next((one for k in sorted(kept) if reached(one := kept - {k})), None)


def proves(count: int, kept: frozenset[int]) -> bool:
    """Whether all smaller sets were tried when `smaller` found none."""
    return len(kept) - 1 <= affordable(count)


def _delta(blocks: list[int], reached: Reached) -> frozenset[int]:
    parts = 2
    while len(blocks) >= 2:
        size = -(-len(blocks) // parts)
        chunks = [blocks[k : k + size] for k in range(0, len(blocks), size)]
        for chunk in chunks:
            if len(chunk) < len(blocks) and reached(frozenset(chunk)):
                blocks, parts = chunk, 2
                break
        else:
            for chunk in chunks:
                rest = [one for one in blocks if one not in chunk]
                if rest and reached(frozenset(rest)):
                    blocks, parts = rest, max(parts - 1, 2)
                    break
            else:
                if parts >= len(blocks):
                    break
                parts = min(2 * parts, len(blocks))
    return frozenset(blocks)
